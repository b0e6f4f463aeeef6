package sink

import (
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/muxd/muxd/internal/fd"
	"github.com/muxd/muxd/internal/fdchan"
	"github.com/muxd/muxd/internal/peercred"
)

// channel is the process's fd channel: the one that it was born with, until a muxd that comes later opens another.
type channel struct {
	call     fdchan.CallHandler // serves what is called there
	mu       sync.Mutex
	ep       *fdchan.Endpoint
	replaced chan struct{} // closed when there is another ep
}

func newChannel() *channel { return &channel{replaced: make(chan struct{})} }

// begin takes ownership of conn, the first one. It is called once, before anything else.
func (c *channel) begin(conn *fdchan.Conn, call fdchan.CallHandler) {
	c.mu.Lock() // a call may come at once
	defer c.mu.Unlock()
	c.call = call
	c.ep = fdchan.NewAnswering(conn, call)
}

// now returns the endpoint of now, which the channel keeps owning, and what is closed when it is replaced.
func (c *channel) now() (ep *fdchan.Endpoint, replaced <-chan struct{}) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.ep, c.replaced
}

// replace takes ownership of ep, and ends the one before. greet is called before anybody else uses ep, and its error returned.
func (c *channel) replace(ep *fdchan.Endpoint, greet func() error) error {
	c.mu.Lock()
	err := greet()
	old := c.ep
	c.ep = ep
	close(c.replaced)
	c.replaced = make(chan struct{})
	c.mu.Unlock()
	old.Close()
	return err
}

const (
	helloTimeout = 5 * time.Second // how long a muxd that has connected may take to say hello
	acceptPause  = time.Second     // before the next attempt to accept, after an error
)

// listen takes ownership of f, a bound SEQPACKET socket, and listens on it. That it is this process which calls listen(2) lets a muxd
// that connects see whom it has found (SO_PEERCRED, unix(7)).
func (c *channel) listen(f *fd.FD) (*net.UnixListener, error) {
	if err := unix.Listen(f.Int(), 8); err != nil {
		f.Close()
		return nil, fmt.Errorf("listen for a later muxd: %w", err)
	}
	file := f.File("fd listener")
	defer file.Close()
	l, err := net.FileListener(file)
	if err != nil {
		return nil, fmt.Errorf("listen for a later muxd: %w", err)
	}
	ul := l.(*net.UnixListener)
	ul.SetUnlinkOnClose(false) // muxd removes it
	return ul, nil
}

// serve accepts whoever opens another fd channel, until l is closed. The latest counts: there is one muxd in a runtime directory, and it
// comes when the one before has died.
func (c *channel) serve(l *net.UnixListener) {
	for {
		conn, err := l.AcceptUnix()
		if err != nil {
			if errors.Is(err, net.ErrClosed) {
				return
			}
			fmt.Fprintf(os.Stderr, "accept a later muxd: %v\n", err)
			<-time.After(acceptPause) // out of descriptors: it waits in the queue
			continue
		}
		go func() {
			if err := c.hello(conn); err != nil {
				fmt.Fprintf(os.Stderr, "another fd channel: %v\n", err)
			}
		}()
	}
}

// hello takes ownership of uc, and makes it the channel once its peer has said hello.
func (c *channel) hello(uc *net.UnixConn) error {
	conn := fdchan.NewConn(uc)
	if _, err := peercred.Check(uc); err != nil {
		conn.Close()
		return err
	}
	uc.SetReadDeadline(time.Now().Add(helloTimeout))
	p, fds, err := conn.Recv()
	fd.CloseAll(fds)
	if err == nil && p.Type != fdchan.Hello {
		err = errors.New("its first packet is no hello")
	}
	if err != nil {
		conn.Close()
		return err
	}
	uc.SetReadDeadline(time.Time{})
	return c.replace(fdchan.NewAnswering(conn, c.call), func() error { // what waits to be parked comes behind the answer
		return conn.Send(fdchan.Packet{Type: fdchan.Ack, Ticket: p.Ticket})
	})
}
