package sink

import (
	"time"
)

// When both keeper and agent have been killed the fd channel ends. The process goes on for the streams that it has: they are read
// and put out as before, and everything that a muxd should be told waits. The next muxd opens another channel. A process that
// waits for it is bounded by this: once its last stream has ended it stays for lingerFor, so that how the streams ended
// can be told, and one that has nothing to tell ends at once.
const (
	lingerFor = 10 * time.Minute
	lookEvery = time.Second // whether the streams have ended; only while no muxd is there
)

// outlive returns when this process should end: no muxd is there, and none has come in time.
func (s *server) outlive() {
	for {
		ep, replaced := s.channel.now()
		select {
		case <-ep.Done():
			if s.alone(replaced, lingerFor) {
				return
			}
		case <-replaced:
		}
	}
}

// alone waits for another fd channel, and says true when it has waited long enough.
func (s *server) alone(replaced <-chan struct{}, linger time.Duration) bool {
	look := time.NewTicker(lookEvery)
	defer look.Stop()
	var since time.Time // nothing but results is left; zero: streams are
	for {
		live, results := s.left()
		switch {
		case live:
			since = time.Time{}
		case !results:
			return true
		case since.IsZero():
			since = time.Now()
		case time.Since(since) >= linger:
			return true
		}
		select {
		case <-look.C:
		case <-replaced:
			return false
		}
	}
}

// left says whether the process has streams that have not ended, and whether there are openings of which something can be told.
func (s *server) left() (live, results bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, o := range s.openings {
		results = results || len(o.flows) > 0 || o.pub.Input != nil
		live = live || !o.over() || o.pub.Input != nil && !o.pub.Input.over()
	}
	return live, results
}
