package agent

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/muxd/muxd/control/controlpb"
	"github.com/muxd/muxd/internal/fd"
	"github.com/muxd/muxd/internal/fdchan"
)

// A terminal cannot be inherited across sessions, so a child that shall have its caller's is forked by the caller itself. It
// asks for a spawn with client_forks, gets the near ends of the streams that are not inherited, and tells with Forked
// what came of it.

// forkTimeout is how long a client may take from its spawn to its Forked.
const forkTimeout = 30 * time.Second

// handOver sends the near ends to the client that forks c, and has the keeper hold the far ends.
func (a *Agent) handOver(ctx context.Context, c *child, near *nearEnds, by caller) error {
	for i, name := range near.holdNames {
		if err := a.keeper.Hold(ctx, name, nil, near.hold[i].Int()); err != nil {
			return spawnError(err)
		}
	}
	if near.terminal {
		return status.Error(codes.InvalidArgument, "one child cannot have both a console of its own and an inherited terminal")
	}
	ep, err := a.sessions.find(by.session)
	if err != nil {
		return status.Error(codes.InvalidArgument, err.Error())
	}
	t, err := fdchan.TicketFrom(by.nearTicket)
	if err != nil {
		return status.Error(codes.InvalidArgument, err.Error())
	}
	var give []int
	for _, f := range near.std {
		if f != nil {
			give = append(give, f.Int())
		}
	}
	if len(give) > 0 {
		if err := ep.Give(ctx, t, give...); err != nil {
			return status.Error(codes.Unavailable, err.Error())
		}
	}
	a.mu.Lock()
	a.byKey[c.key] = c
	a.save(c)
	a.mu.Unlock()
	time.AfterFunc(forkTimeout, func() { a.notForked(c, "the client that was to fork it did not say that it has") })
	return nil
}

// nearEndNames lists the streams whose near ends handOver has sent.
func (c *child) nearEndNames() []string {
	inherit := inherited(c)
	var out []string
	for _, s := range stdStreams {
		if !slices.Contains(inherit, s) {
			out = append(out, streamName(s))
		}
	}
	return out
}

// forked follows the process that a client has forked for c. It takes ownership of d.
func (a *Agent) forked(ctx context.Context, c *child, pid int32, d *fdchan.Delivery) error {
	defer fd.CloseAll(d.FDs)
	a.mu.Lock()
	ok := c.forks && c.rec.State == stStarting
	a.mu.Unlock()
	if !ok {
		err := fmt.Errorf("child %s does not wait to be forked", c.id())
		d.Refuse(err)
		return status.Error(codes.FailedPrecondition, err.Error())
	}
	p, err := a.keeper.Watch(ctx, c.key, int(pid), nil, d.FDs[0].Int())
	if err != nil {
		d.Refuse(err)
		return spawnError(err)
	}
	d.Ack()
	a.running(c, p, nil)
	return nil
}

// notForked undoes a spawn whose client did not fork the child.
func (a *Agent) notForked(c *child, why string) {
	a.mu.Lock()
	if !c.forks || c.rec.State != stStarting {
		a.mu.Unlock()
		return
	}
	c.rec.State, c.rec.Error = stFailed, why
	delete(a.byKey, c.key)
	a.mu.Unlock()
	a.undo(c)
	a.mu.Lock()
	defer a.mu.Unlock()
	a.over(c, stFailed)
	a.forget(c)
}

// takeForked takes the pidfd that comes with a Forked.
func (a *Agent) takeForked(ctx context.Context, req *controlpb.ForkedRequest) (*fdchan.Delivery, error) {
	ep, err := a.sessions.find(req.FdSession)
	if err != nil {
		return nil, err
	}
	t, err := fdchan.TicketFrom(req.Ticket)
	if err != nil {
		return nil, err
	}
	if req.Pid <= 0 {
		return nil, errors.New("forked: no pid")
	}
	return ep.Take(ctx, t, 1)
}
