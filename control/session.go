package control

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/muxd/muxd/internal/fd"
	"github.com/muxd/muxd/internal/fdchan"
)

// session is a connection to fd.sock, on which descriptors travel for calls of the control API.
type session struct {
	id fdchan.Ticket
	ep *fdchan.Endpoint
}

// session connects and says hello.
func (c *Client) session(ctx context.Context) (*session, error) {
	path := filepath.Join(filepath.Dir(c.socket), "fd.sock")
	conn, err := (&net.Dialer{}).DialContext(ctx, "unixpacket", path)
	if err != nil {
		return nil, c.Plain(status.Error(codes.Unavailable, "connect to muxd's fd channel: "+err.Error()))
	}
	ch := fdchan.NewConn(conn.(*net.UnixConn))
	s := &session{id: fdchan.NewTicket()}
	stop := context.AfterFunc(ctx, func() { ch.Close() })
	defer stop()
	err = ch.Send(fdchan.Packet{Type: fdchan.Hello, Ticket: s.id})
	if err == nil {
		var p fdchan.Packet
		var fds []*fd.FD
		p, fds, err = ch.Recv()
		fd.CloseAll(fds)
		switch {
		case err == nil && p.Type == fdchan.Refuse:
			err = errors.New(string(p.Payload))
		case err == nil && p.Type != fdchan.Ack:
			err = fmt.Errorf("a packet of type %d answers the hello", p.Type)
		}
	}
	if err != nil {
		ch.Close()
		return nil, fmt.Errorf("say hello on muxd's fd channel: %w", err)
	}
	s.ep = fdchan.NewEndpoint(ch, nil)
	return s, nil
}

// once marks the context of a call that is not to be repeated as it is: its tickets are used.
type once struct{}

// withSession calls f with a session, and again with another where agent or plugin died meanwhile: descriptors may have been on
// the way, so a call is repeated with other tickets only.
func (c *Client) withSession(ctx context.Context, f func(ctx context.Context, s *session) error) error {
	ctx = context.WithValue(ctx, once{}, true)
	begun := time.Now()
	for wait := retryFirst; ; wait = min(2*wait, retryMost) {
		s, err := c.session(ctx)
		gone := errors.Is(err, io.EOF) || errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE)
		if err == nil {
			err = f(ctx, s)
			gone = err != nil && !errors.Is(err, errNothingComes) && s.ep.Closed()
			s.close()
		}
		gone = gone || Unreachable(err) && c.expected()
		if !gone || time.Since(begun) > retryFor {
			return err
		}
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return err
		}
	}
}

func (s *session) close() { s.ep.Close() }

// give sends copies of files under a ticket while call names it, and returns when both are done.
func (s *session) give(ctx context.Context, files []*os.File, call func(ticket []byte) error) error {
	var fds []*fd.FD
	defer func() { fd.CloseAll(fds) }()
	for _, f := range files {
		d, err := fd.DupFile(f)
		if err != nil {
			return fmt.Errorf("copy %s: %w", f.Name(), err)
		}
		fds = append(fds, d)
	}
	return s.ep.GiveFor(ctx, fd.Ints(fds), func(_ context.Context, ticket []byte) error { return call(ticket) })
}

// errNothingComes is what a call of takeAll returns to end the wait for descriptors.
var errNothingComes = errors.New("no descriptors come")

// takeAll returns the files that come under a ticket while call names it, owned by the caller.
func (s *session) takeAll(ctx context.Context, call func(ticket []byte) error) ([]*os.File, error) {
	d, wait, err := s.ep.TakeFor(ctx, func(_ context.Context, ticket []byte) error { return call(ticket) })
	if err != nil {
		return nil, err
	}
	if err := cmp.Or(d.Ack(), wait()); err != nil {
		fd.CloseAll(d.FDs)
		return nil, err
	}
	var files []*os.File
	for _, f := range d.FDs {
		files = append(files, f.File("from muxd"))
	}
	return files, nil
}

// take is takeAll for one file.
func (s *session) take(ctx context.Context, call func(ticket []byte) error) (*os.File, error) {
	files, err := s.takeAll(ctx, call)
	if err != nil {
		return nil, err
	}
	if len(files) != 1 {
		for _, f := range files {
			f.Close()
		}
		return nil, fmt.Errorf("muxd sent %d descriptors, want one", len(files))
	}
	return files[0], nil
}
