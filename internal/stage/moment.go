package stage

import (
	"runtime"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

// Batching. A reader that wakes for every small write costs five times the CPU of one that waits a moment, and slows
// the writer. So after a short read a source rests before it is looked at again; the first read after a silence
// is never delayed, and no read is after one that filled much of the pipe.
//
// One worker naps for all sources that rest, and makes those ready that have rested for long enough: sources that are busy at
// the same time are read in one wake-up.
const (
	batchWait  = time.Millisecond
	batchLeast = batchWait / 4 // a rest that ends with another's
)

// leaveAlone has s rest. Whoever calls it is a worker, and naps next where nobody does.
func (e *Engine) leaveAlone(s *Source) {
	e.count.waits.Add(1)
	e.mu.Lock()
	defer e.mu.Unlock()
	if s.cut.Load() || s.leave.Load() == leaveAsked { // kick came too early
		e.queue(s)
		return
	}
	s.state, s.since = resting, time.Since(e.began)
	e.resting = append(e.resting, s)
}

// disturb ends the rest of s. e.mu is held.
func (e *Engine) disturb(s *Source) {
	e.resting = slices.DeleteFunc(e.resting, func(r *Source) bool { return r == s })
	e.queue(s)
}

// nap waits until the first source has rested, and makes ready those that have. e.mu is held, and let go meanwhile.
func (e *Engine) nap() {
	wait := e.resting[0].since + batchWait - time.Since(e.began)
	timer := e.terminals || runtime.GOMAXPROCS(0) == 1
	e.napping = true
	e.mu.Unlock()
	switch {
	case wait <= 0:
	case timer:
		time.Sleep(wait)
	default:
		sleep(wait)
	}
	e.mu.Lock()
	e.napping = false
	now := time.Since(e.began)
	e.resting = slices.DeleteFunc(e.resting, func(s *Source) bool {
		if now-s.since < batchLeast {
			return false
		}
		s.state = queued
		e.ready = append(e.ready, s)
		return true
	})
}

// sleep waits in nanosleep(2) and not for a timer of Go's: a goroutine that a timer wakes has the scheduler wake another thread,
// in case that there is more to do, and one to watch both, four for every millisecond of a busy stream. What else is to run
// has the other CPUs, or waits for at most as long; where there are no others, or terminals, for whose echoes somebody waits,
// it is a timer.
func sleep(d time.Duration) {
	ts := unix.NsecToTimespec(d.Nanoseconds())
	unix.Nanosleep(&ts, nil)
}
