package fdchan

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/muxd/muxd/internal/fd"
)

// Limits of what an endpoint keeps for tickets that nobody has asked for yet. The call that names a ticket and
// the packet with its fds travel on different sockets, so either can come first.
const (
	unclaimedMost = 64
	unclaimedFDs  = 2 * MaxFDs // in all of these
	unclaimedFor  = 10 * time.Second
)

// parksMost is how many Parks wait at most. While they do nothing more is received: the peer waits, and its descriptors are its own.
const parksMost = 16

// Delivery is descriptors that arrived under a ticket. Exactly one of Ack and Refuse must be called: the giver
// keeps its copies until then.
type Delivery struct {
	FDs    []*fd.FD // owned by whoever took the delivery
	ticket Ticket
	ep     *Endpoint
	called bool // they came with a Call, whose Return tells the giver
}

// Ack tells the giver that the descriptors are safe.
func (d *Delivery) Ack() error {
	if d.called {
		return nil
	}
	return d.ep.conn.Send(Packet{Type: Ack, Ticket: d.ticket})
}

// Refuse closes the descriptors and tells the giver why.
func (d *Delivery) Refuse(why error) error {
	fd.CloseAll(d.FDs)
	if d.called {
		return nil
	}
	return d.ep.refuse(d.ticket, why.Error())
}

// Endpoint gives and takes descriptors by ticket on one Conn. Deliveries that nobody takes are refused and closed
// after a time, and die with the connection.
type Endpoint struct {
	conn *Conn
	park func(name string, fds []*fd.FD) error // nil: nothing may be parked here
	call CallHandler                           // nil: nothing may be called here
	done chan struct{}
	err  error // why done is closed
	work sync.WaitGroup
	ctx  context.Context // of calls; done when the connection has ended
	end  context.CancelFunc

	mu        sync.Mutex
	parks     []parked // what the peer parks, in its order; park has the first of them while there are any
	unclaimed map[Ticket]*Delivery
	expiry    map[Ticket]*time.Timer
	takers    map[Ticket]chan *Delivery
	givers    map[Ticket]chan answer
	calls     map[Ticket]context.CancelFunc // that are being served
	fewer     *sync.Cond                    // of mu: there are fewer parks
}

// parked is a Park packet and its fds, which it owns.
type parked struct {
	p   Packet
	fds []*fd.FD
}

// answer is what ends an ask.
type answer struct {
	payload []byte // of a Return
	err     error
}

// NewEndpoint takes ownership of c and starts to receive. Close ends it. park is called for what the peer parks, in
// a goroutine of its own, one call after the other in the peer's order; it does not take ownership of the fds. It may be nil.
func NewEndpoint(c *Conn, park func(name string, fds []*fd.FD) error) *Endpoint {
	return newEndpoint(c, park, nil)
}

func newEndpoint(c *Conn, park func(name string, fds []*fd.FD) error, call CallHandler) *Endpoint {
	e := &Endpoint{
		conn:      c,
		park:      park,
		call:      call,
		done:      make(chan struct{}),
		unclaimed: map[Ticket]*Delivery{},
		expiry:    map[Ticket]*time.Timer{},
		takers:    map[Ticket]chan *Delivery{},
		givers:    map[Ticket]chan answer{},
		calls:     map[Ticket]context.CancelFunc{},
	}
	e.ctx, e.end = context.WithCancel(context.Background())
	e.fewer = sync.NewCond(&e.mu)
	go e.receive()
	return e
}

// Close closes the connection and every delivery that nobody took, and waits for the receiver to end.
func (e *Endpoint) Close() error {
	err := e.conn.Close()
	<-e.done
	e.work.Wait()
	return err
}

// Done is closed when the connection has ended.
func (e *Endpoint) Done() <-chan struct{} { return e.done }

// Dup returns a copy of the connection's descriptor, owned by the caller.
func (e *Endpoint) Dup() (*fd.FD, error) {
	raw, err := e.conn.uc.SyscallConn()
	if err != nil {
		return nil, err
	}
	var out *fd.FD
	var dupErr error
	if err := raw.Control(func(n uintptr) { out, dupErr = fd.Dup(int(n)) }); err != nil {
		return nil, err
	}
	return out, dupErr
}

// Closed says whether the connection has ended.
func (e *Endpoint) Closed() bool {
	select {
	case <-e.done:
		return true
	default:
		return false
	}
}

// Give sends copies of fds under t and returns when the peer has acknowledged them. It does not take ownership.
func (e *Endpoint) Give(ctx context.Context, t Ticket, fds ...int) error {
	_, err := e.ask(ctx, Packet{Type: Give, Ticket: t}, fds...)
	return err
}

// Park has the peer hold copies of fds under name, in place of what it held there, and returns when they are safe.
// It does not take ownership.
func (e *Endpoint) Park(ctx context.Context, name string, fds ...int) error {
	_, err := e.ask(ctx, Packet{Type: Park, Ticket: NewTicket(), Payload: []byte(name)}, fds...)
	return err
}

// ask sends p and waits for its answer, of which it returns the payload.
func (e *Endpoint) ask(ctx context.Context, p Packet, fds ...int) ([]byte, error) {
	t := p.Ticket
	ch := make(chan answer, 1)
	e.mu.Lock()
	if _, twice := e.givers[t]; twice {
		e.mu.Unlock()
		return nil, fmt.Errorf("give descriptors: ticket %v is used twice", t)
	}
	e.givers[t] = ch
	e.mu.Unlock()
	defer func() {
		e.mu.Lock()
		delete(e.givers, t)
		e.mu.Unlock()
	}()
	if err := e.conn.Send(p, fds...); err != nil {
		return nil, err
	}
	select {
	case a := <-ch:
		return a.payload, a.err
	case <-e.done:
		return nil, fmt.Errorf("give descriptors: %w", e.closedErr())
	case <-ctx.Done():
		return nil, fmt.Errorf("give descriptors: no acknowledgement: %w", context.Cause(ctx))
	}
}

// Take waits for the descriptors under t. A delivery of another number than n is refused. The descriptors are owned by
// the caller, who must Ack or Refuse.
func (e *Endpoint) Take(ctx context.Context, t Ticket, n int) (*Delivery, error) {
	d, err := e.TakeAny(ctx, t)
	if err != nil {
		return nil, err
	}
	if len(d.FDs) != n {
		err := fmt.Errorf("take descriptors: %d came, want %d", len(d.FDs), n)
		d.Refuse(err)
		return nil, err
	}
	return d, nil
}

// TakeAny is Take for a number of descriptors that is not known before.
func (e *Endpoint) TakeAny(ctx context.Context, t Ticket) (*Delivery, error) {
	d, err := e.take(ctx, t)
	if err != nil {
		return nil, fmt.Errorf("take descriptors: %w", err)
	}
	return d, nil
}

func (e *Endpoint) take(ctx context.Context, t Ticket) (*Delivery, error) {
	e.mu.Lock()
	if d, ok := e.unclaimed[t]; ok {
		e.unclaim(t)
		e.mu.Unlock()
		return d, nil
	}
	if _, twice := e.takers[t]; twice {
		e.mu.Unlock()
		return nil, fmt.Errorf("ticket %v is used twice", t)
	}
	ch := make(chan *Delivery, 1)
	e.takers[t] = ch
	e.mu.Unlock()

	var err error
	select {
	case d := <-ch:
		return d, nil
	case <-e.done:
		err = e.closedErr()
	case <-ctx.Done():
		err = context.Cause(ctx)
	}
	e.mu.Lock()
	delete(e.takers, t)
	e.mu.Unlock()
	select {
	case d := <-ch: // it came in the same moment
		return d, nil
	default:
		return nil, err
	}
}

func (e *Endpoint) closedErr() error {
	return fmt.Errorf("fd channel closed: %w", e.err)
}

// unclaim removes t from the unclaimed deliveries. e.mu is held.
func (e *Endpoint) unclaim(t Ticket) {
	delete(e.unclaimed, t)
	if timer := e.expiry[t]; timer != nil { // nil: of a call
		timer.Stop()
		delete(e.expiry, t)
	}
}

func (e *Endpoint) refuse(t Ticket, why string) error {
	return e.conn.Send(Packet{Type: Refuse, Ticket: t, Payload: []byte(why[:min(len(why), MaxPayload)])})
}

func (e *Endpoint) receive() {
	for {
		p, fds, err := e.conn.Recv()
		switch {
		case errors.Is(err, ErrTruncated), errors.Is(err, ErrMalformed):
			continue
		case err != nil:
			e.ended(err)
			return
		}
		if !e.dispatch(p, fds) {
			fd.CloseAll(fds)
		}
	}
}

// dispatch says whether it has taken ownership of fds.
func (e *Endpoint) dispatch(p Packet, fds []*fd.FD) bool {
	switch p.Type {
	case Give:
		return e.deliver(&Delivery{FDs: fds, ticket: p.Ticket, ep: e})
	case Park:
		e.mu.Lock()
		for len(e.parks) >= parksMost {
			e.fewer.Wait()
		}
		e.parks = append(e.parks, parked{p, fds})
		if len(e.parks) == 1 {
			e.work.Go(e.parkAll)
		}
		e.mu.Unlock()
		return true
	case Call:
		return e.serve(p, fds)
	case Cancel:
		e.cancel(p.Ticket)
	case Ack:
		e.answer(p.Ticket, answer{})
	case Return:
		e.answer(p.Ticket, answer{payload: p.Payload})
	case Refuse:
		e.answer(p.Ticket, answer{err: fmt.Errorf("the other side refused the descriptors: %s", p.Payload)})
	}
	return false
}

func (e *Endpoint) deliver(d *Delivery) bool {
	e.mu.Lock()
	if ch, ok := e.takers[d.ticket]; ok {
		delete(e.takers, d.ticket)
		ch <- d
		e.mu.Unlock()
		return true
	}
	_, twice := e.unclaimed[d.ticket]
	waiting := len(d.FDs)
	for _, other := range e.unclaimed {
		if !other.called {
			waiting += len(other.FDs)
		}
	}
	if twice || len(e.expiry) >= unclaimedMost || waiting > unclaimedFDs {
		e.mu.Unlock()
		e.refuse(d.ticket, "nobody has asked for it, and too much is waiting")
		return false
	}
	e.unclaimed[d.ticket] = d
	e.expiry[d.ticket] = time.AfterFunc(unclaimedFor, func() { e.expire(d) })
	e.mu.Unlock()
	return true
}

// parkAll answers Parks until there is none.
func (e *Endpoint) parkAll() {
	e.mu.Lock()
	defer e.mu.Unlock()
	for len(e.parks) > 0 {
		next := e.parks[0]
		e.mu.Unlock()
		e.parked(next.p, next.fds)
		e.mu.Lock()
		e.parks = e.parks[1:]
		e.fewer.Signal()
	}
	e.parks = nil
}

// parked answers a Park, and closes its fds.
func (e *Endpoint) parked(p Packet, fds []*fd.FD) {
	defer fd.CloseAll(fds)
	if e.park == nil {
		e.refuse(p.Ticket, "nothing can be parked here")
		return
	}
	err := e.park(string(p.Payload), fds)
	if err != nil {
		e.refuse(p.Ticket, err.Error())
		return
	}
	e.conn.Send(Packet{Type: Ack, Ticket: p.Ticket})
}

func (e *Endpoint) expire(d *Delivery) {
	e.mu.Lock()
	if e.unclaimed[d.ticket] != d {
		e.mu.Unlock()
		return
	}
	e.unclaim(d.ticket)
	e.mu.Unlock()
	d.Refuse(errors.New("nobody has asked for it in time"))
}

func (e *Endpoint) answer(t Ticket, a answer) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if ch, ok := e.givers[t]; ok {
		delete(e.givers, t)
		ch <- a
	}
}

func (e *Endpoint) ended(err error) {
	e.conn.Close()
	e.end()
	e.mu.Lock()
	e.err = err
	left := e.unclaimed
	e.unclaimed = map[Ticket]*Delivery{}
	for _, t := range e.expiry {
		t.Stop()
	}
	e.mu.Unlock()
	for _, d := range left {
		fd.CloseAll(d.FDs)
	}
	close(e.done)
}
