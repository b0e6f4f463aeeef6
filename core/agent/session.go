package agent

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/muxd/muxd/internal/fdchan"
	"github.com/muxd/muxd/internal/peercred"
	"github.com/muxd/muxd/sink/sinkpb"
)

// acceptPause is between two attempts to accept while descriptors have run out.
const acceptPause = 100 * time.Millisecond

// helloTimeout is how long a client that has connected may take to say hello.
const helloTimeout = 5 * time.Second

// sessions are the clients' fd channels, by the ticket that each said hello with.
type sessions struct {
	mu       sync.Mutex
	byTicket map[fdchan.Ticket]client
	listener net.Listener
	wg       sync.WaitGroup
	closed   bool
	done     chan struct{} // closed by close
}

// client is the other end of a session.
type client struct {
	*fdchan.Endpoint
	cred unix.Ucred // of the process that connected
}

func newSessions() *sessions { return &sessions{done: make(chan struct{})} }

// serve accepts clients until close. It takes ownership of l.
func (s *sessions) serve(l net.Listener, log *slog.Logger) {
	s.mu.Lock()
	s.listener = l
	closed := s.closed
	s.mu.Unlock()
	if closed {
		l.Close()
		return
	}
	for {
		c, err := l.Accept()
		switch {
		case errors.Is(err, net.ErrClosed):
			return
		case err != nil: // out of descriptors: the client waits in the queue
			log.Error("accept on fd.sock", "error", err)
			select {
			case <-time.After(acceptPause):
			case <-s.done:
			}
			continue
		}
		s.wg.Add(1)
		go func() {
			defer s.wg.Done()
			if err := s.session(c.(*net.UnixConn)); err != nil {
				log.Warn("fd channel of a client", "error", err)
			}
		}()
	}
}

// session is one client's connection from its hello to its end.
func (s *sessions) session(c *net.UnixConn) error {
	conn := fdchan.NewConn(c)
	cred, err := peercred.Check(c)
	if err != nil {
		conn.Close()
		return err
	}
	c.SetReadDeadline(time.Now().Add(helloTimeout))
	p, fds, err := conn.Recv()
	if err == nil && (p.Type != fdchan.Hello || len(fds) > 0) {
		for _, f := range fds {
			f.Close()
		}
		err = errors.New("its first packet is no hello")
	}
	if err != nil {
		conn.Close()
		return err
	}
	c.SetReadDeadline(time.Time{})
	ep := fdchan.NewEndpoint(conn, nil)
	s.mu.Lock()
	if s.closed || s.byTicket[p.Ticket].Endpoint != nil {
		s.mu.Unlock()
		return ep.Close()
	}
	if s.byTicket == nil {
		s.byTicket = map[fdchan.Ticket]client{}
	}
	s.byTicket[p.Ticket] = client{ep, *cred}
	s.mu.Unlock()
	conn.Send(fdchan.Packet{Type: fdchan.Ack, Ticket: p.Ticket})
	<-ep.Done()
	s.mu.Lock()
	delete(s.byTicket, p.Ticket)
	s.mu.Unlock()
	return nil
}

// find returns the client that said hello with that ticket.
func (s *sessions) find(ticket []byte) (client, error) {
	t, err := fdchan.TicketFrom(ticket)
	if err != nil {
		return client{}, fmt.Errorf("fd_session: %w", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if c := s.byTicket[t]; c.Endpoint != nil {
		return c, nil
	}
	return client{}, errors.New("fd_session: no client has said hello with it")
}

// viewer is who a client of a session is, as plugins are told.
func (s *sessions) viewer(ticket []byte) *sinkpb.Viewer {
	c, err := s.find(ticket)
	if err != nil {
		return nil // it will be refused
	}
	name := fdchan.NewTicket()
	return &sinkpb.Viewer{Pid: uint32(c.cred.Pid), Uid: c.cred.Uid, Name: hex.EncodeToString(name[:4])}
}

// take returns the delivery that the client of a session gives under a ticket.
func (s *sessions) take(ctx context.Context, session, ticket []byte) (*fdchan.Delivery, error) {
	ep, err := s.find(session)
	if err != nil {
		return nil, err
	}
	t, err := fdchan.TicketFrom(ticket)
	if err != nil {
		return nil, err
	}
	return ep.TakeAny(ctx, t)
}

// forward moves the fds of a delivery on to a client under its ticket, and acknowledges them once it has them.
func (s *sessions) forward(ctx context.Context, d *fdchan.Delivery, session, ticket []byte) error {
	defer func() {
		for _, f := range d.FDs {
			f.Close()
		}
	}()
	ep, err := s.find(session)
	var t fdchan.Ticket
	if err == nil {
		t, err = fdchan.TicketFrom(ticket)
	}
	if err == nil {
		ns := make([]int, len(d.FDs))
		for i, f := range d.FDs {
			ns[i] = f.Int()
		}
		err = ep.Give(ctx, t, ns...)
	}
	if err != nil {
		d.Refuse(err)
		return err
	}
	return d.Ack()
}

// close ends every session and waits for them.
func (s *sessions) close() {
	s.mu.Lock()
	s.closed = true
	close(s.done)
	if s.listener != nil {
		s.listener.Close()
	}
	for _, ep := range s.byTicket {
		go ep.Close()
	}
	s.mu.Unlock()
	s.wg.Wait()
}
