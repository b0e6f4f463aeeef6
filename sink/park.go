package sink

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/muxd/muxd/internal/fdchan"
)

// parkTry is how long an acknowledgement may take before what is parked is sent again: an agent may have been killed between taking
// it and answering. Its successor is noticed at once where it says anything.
const parkTry = 3 * time.Second

// parks are the Parks that wait to be acknowledged.
type parks struct {
	mu    sync.Mutex
	again map[*context.CancelFunc]struct{}
}

// retry has whatever waits be sent again: another agent is there.
func (p *parks) retry() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for cancel := range p.again {
		(*cancel)()
	}
}

// begin returns a context for one attempt, which retry or parkTry ends, and what ends it otherwise.
func (p *parks) begin(ctx context.Context) (context.Context, func()) {
	try, cancel := context.WithTimeout(ctx, parkTry)
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.again == nil {
		p.again = map[*context.CancelFunc]struct{}{}
	}
	p.again[&cancel] = struct{}{}
	return try, func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		delete(p.again, &cancel)
		cancel()
	}
}

// park has muxd hold copies of fds under name until this process's successor wants them. Where no muxd is left, nothing is parked, and
// that is no error: whatever Repark finds must be in its place before it is parked, and the next muxd calls that.
func (s *server) park(name string, fds ...int) error {
	return s.parkFor(context.Background(), name, fds...)
}

// parkFor is park for a call: nobody waits for it any more when ctx is done.
func (s *server) parkFor(ctx context.Context, name string, fds ...int) error {
	for {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		ep := s.ep()
		try, end := s.parks.begin(ctx)
		err := ep.Park(try, name, fds...)
		tried := try.Err() != nil
		end()
		switch {
		case err == nil:
			return nil
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case tried && (errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled)):
		case fdchan.Broken(err):
			if s.ep() == ep {
				return nil
			}
		default:
			return err
		}
	}
}
