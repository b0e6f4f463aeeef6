package sink

import (
	"context"
	"math/rand/v2"
	"sync"
	"time"
)

// Retries are the waits of an opening for what is outside to be mended, each with pauses that grow. Report, which is
// Opening.Trouble in most sinks, is told once when the first wait begins, and with nil once when none is left. It is
// safe for concurrent use.
type Retries struct {
	Report      func(error)
	First, Most time.Duration // the first pause and the longest, about

	mu      sync.Mutex
	waiting int
}

func (s *Retries) begin(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.waiting++; s.waiting == 1 {
		s.Report(err)
	}
}

func (s *Retries) end() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.waiting--; s.waiting == 0 {
		s.Report(nil)
	}
}

// Retry is one of these waits. One goroutine may use it at a time.
type Retry struct {
	all   *Retries
	next  time.Duration
	begun bool
}

// New returns a wait that has not begun.
func (s *Retries) New() *Retry { return &Retry{all: s, next: s.First} }

// Begin says what is wrong, without a pause. Where the wait has begun already nothing happens.
func (r *Retry) Begin(wrong error) {
	if !r.begun {
		r.begun = true
		r.all.begin(wrong)
	}
}

// Wait says what is wrong, the first time, and then blocks for about twice as long each time (between half and all of
// that, so that many sinks do not come back to one peer in step), or until ctx is done: then it returns ctx's error.
func (r *Retry) Wait(ctx context.Context, wrong error) error {
	r.Begin(wrong)
	timer := time.NewTimer(r.next/2 + rand.N(r.next/2+1))
	defer timer.Stop()
	r.next = min(2*r.next, r.all.Most)
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Over ends the wait, whether it is mended or given up. It can begin again. Where it has not begun nothing happens.
func (r *Retry) Over() {
	if r.begun {
		r.begun = false
		r.all.end()
	}
	r.next = r.all.First
}
