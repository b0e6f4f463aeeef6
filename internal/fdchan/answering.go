package fdchan

import (
	"context"
	"errors"
	"fmt"

	"github.com/muxd/muxd/internal/fd"
)

// CallHandler does what a Call asks for, and returns the payload of the Return. The fds of the packet are taken by t. ctx is done when
// nobody waits for the Return any more.
type CallHandler func(ctx context.Context, t Ticket, payload []byte) []byte

// NewAnswering is NewEndpoint of a side that may be called. call is called in a goroutine of its own for each Call.
func NewAnswering(c *Conn, call CallHandler) *Endpoint { return newEndpoint(c, nil, call) }

// Call sends a Call with copies of fds, and returns the payload of the Return. It does not take ownership of fds. The ticket is
// one that was not used before.
func (e *Endpoint) Call(ctx context.Context, t Ticket, payload []byte, fds ...int) ([]byte, error) {
	b, err := e.ask(ctx, Packet{Type: Call, Ticket: t, Payload: payload}, fds...)
	if err != nil && ctx.Err() != nil {
		e.conn.Send(Packet{Type: Cancel, Ticket: t}) // an error: the call has ended with the connection
	}
	return b, err
}

// serve has a Call done, and answered. It says whether it has taken ownership of fds.
func (e *Endpoint) serve(p Packet, fds []*fd.FD) bool {
	if e.call == nil {
		e.refuse(p.Ticket, "nothing can be called here")
		return false
	}
	d := &Delivery{FDs: fds, ticket: p.Ticket, ep: e, called: true}
	ctx, cancel := context.WithCancel(e.ctx)
	e.mu.Lock()
	if _, twice := e.calls[p.Ticket]; twice || e.unclaimed[p.Ticket] != nil {
		e.mu.Unlock()
		cancel()
		e.refuse(p.Ticket, fmt.Sprintf("ticket %v is used twice", p.Ticket))
		return false
	}
	e.calls[p.Ticket] = cancel
	if len(fds) > 0 {
		e.unclaimed[p.Ticket] = d
	}
	e.mu.Unlock()
	e.work.Go(func() {
		defer cancel()
		b := e.call(ctx, p.Ticket, p.Payload)
		e.mu.Lock()
		delete(e.calls, p.Ticket)
		if e.unclaimed[p.Ticket] == d {
			e.unclaim(p.Ticket)
			fd.CloseAll(fds)
		}
		e.mu.Unlock()
		if err := e.conn.Send(Packet{Type: Return, Ticket: p.Ticket, Payload: b}); err != nil && !Broken(err) {
			e.refuse(p.Ticket, errors.Unwrap(err).Error())
		}
	})
	return true
}

// CancelCalls ends the contexts of all calls that are being served: whoever made them is gone, and another will be here.
func (e *Endpoint) CancelCalls() {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, cancel := range e.calls {
		cancel()
	}
}

// cancel ends the context of a call.
func (e *Endpoint) cancel(t Ticket) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if cancel := e.calls[t]; cancel != nil {
		cancel()
	}
}
