package file

import (
	"context"
	"slices"
	"sync"
	"time"
)

// troubles tells of the streams of one opening that wait: once when the first begins to, and once when none does
// any more.
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

// retry is one wait of a stream for something outside to be mended.
type retry struct {
	shared *troubles
	most   time.Duration
	next   time.Duration
	begun  bool
}

// wait says what is wrong, once, and blocks for twice as long each time, or until ctx is done.
func (r *retry) wait(ctx context.Context, wrong error) error {
	if !r.begun {
		r.begun = true
		r.shared.begin(wrong)
	}
	timer := time.NewTimer(r.next)
	defer timer.Stop()
	r.next = min(2*r.next, r.most)
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// over ends it, whether mended or given up.
func (r *retry) over() {
	if r.begun {
		r.begun = false
		r.shared.end()
	}
}

// damaged tells those who write a log of s that a file of it, which was rotated, cannot be read: until something else is the matter, or their
// end.
func (fs *files) damaged(s settings, why error) {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	for k, tell := range fs.sinks {
		for _, w := range k.writers {
			if slices.ContainsFunc(s.targets, func(t target) bool { return t.path == w.path }) {
				tell(why)
				break
			}
		}
	}
}
