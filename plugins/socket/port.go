package socket

import (
	"context"
	"io"
	"math/rand/v2"
	"sync"
	"time"
)

// port is what an opening gives to its connections.
type port struct {
	troubles   *troubles
	input      io.WriteCloser // the child's stdin; nil where it is not carried
	outputs    int            // output streams that have not ended; guarded by the sink's turn
	retryFirst time.Duration
	retryMost  time.Duration
}

// turn is a lock that can be waited for until a context is done. It holds a token while nobody has it.
type turn chan struct{}

func newTurn() turn {
	t := make(turn, 1)
	t <- struct{}{}
	return t
}

func (t turn) lock(ctx context.Context) error {
	select {
	case <-t:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (t turn) unlock() { t <- struct{}{} }

// troubles tells of what an opening waits for: once when the first wait begins, and once when none is left. It is safe
// for concurrent use.
type troubles struct {
	report func(error)

	mu      sync.Mutex
	waiting int
}

func (t *troubles) begin(err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.waiting++; t.waiting == 1 {
		t.report(err)
	}
}

func (t *troubles) end() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.waiting--; t.waiting == 0 {
		t.report(nil)
	}
}

// retry is one wait for something outside to be mended.
type retry struct {
	port  *port
	next  time.Duration
	begun bool
}

func (p *port) retry() *retry { return &retry{port: p, next: p.retryFirst} }

// wait says what is wrong, once, and then blocks for about twice as long each time (between half and all of that, so
// that many sinks do not come back to one peer in step), or until ctx is done.
func (r *retry) wait(ctx context.Context, wrong error) error {
	if !r.begun {
		r.begun = true
		r.port.troubles.begin(wrong)
	}
	timer := time.NewTimer(r.next/2 + rand.N(r.next/2+1))
	defer timer.Stop()
	r.next = min(2*r.next, r.port.retryMost)
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// over ends it, whether mended or given up; it can begin again.
func (r *retry) over() {
	if r.begun {
		r.begun = false
		r.port.troubles.end()
	}
	r.next = r.port.retryFirst
}

// stdin takes what several connections read, one read at a time. It is safe for concurrent use.
type stdin struct {
	mu sync.Mutex
	to io.Writer
}

func (s *stdin) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.to.Write(p)
}
