package sinktest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/muxd/muxd/internal/fd"
)

// peer is a far peer that a sink is connected to: what the kit reads there, and what it sends for a child's stdin.
type peer interface {
	send(b []byte) error
	closeWrite() error
}

// conns is connections of which all that comes is spooled, one after the other.
type conns struct {
	mu    sync.Mutex
	all   []*net.UnixConn
	first chan struct{}  // closed when there is one
	work  sync.WaitGroup // the connections' readers
}

func (cs *conns) over() *sync.WaitGroup { return &cs.work }

func newConns() *conns { return &conns{first: make(chan struct{})} }

// add takes ownership of c.
func (cs *conns) add(s *spool, c *net.UnixConn) {
	cs.mu.Lock()
	defer cs.mu.Unlock()
	cs.all = append(cs.all, c)
	if len(cs.all) == 1 {
		close(cs.first)
	}
	cs.work.Go(func() { io.CopyBuffer(struct{ io.Writer }{s}, struct{ io.Reader }{c}, make([]byte, 64<<10)) })
}

// last is the latest connection.
func (cs *conns) last() (*net.UnixConn, error) {
	select {
	case <-cs.first:
	case <-time.After(ackMost):
		return nil, errors.New("the sink has not connected")
	}
	cs.mu.Lock()
	defer cs.mu.Unlock()
	return cs.all[len(cs.all)-1], nil
}

func (cs *conns) send(b []byte) error {
	c, err := cs.last()
	if err != nil {
		return err
	}
	_, err = c.Write(b)
	return err
}

func (cs *conns) closeWrite() error {
	c, err := cs.last()
	if err != nil {
		return err
	}
	return c.CloseWrite()
}

func (cs *conns) closeAll() {
	cs.mu.Lock()
	for _, c := range cs.all {
		c.Close()
	}
	cs.mu.Unlock()
	cs.work.Wait()
}

// listenFrom is a Unix stream socket on which the kit listens.
type listenFrom struct {
	path string
	l    *net.UnixListener
	loop sync.WaitGroup
	*conns
}

func (f *listenFrom) begin(s *spool) error {
	f.conns = newConns()
	l, err := net.ListenUnix("unix", &net.UnixAddr{Net: "unix", Name: f.path})
	if err != nil {
		return err
	}
	f.l = l
	f.loop.Go(func() {
		for {
			c, err := l.AcceptUnix()
			if err != nil {
				return
			}
			f.add(s, c)
		}
	})
	return nil
}

func (f *listenFrom) opened(context.Context, *spool, *opening) error { return nil }

func (f *listenFrom) close() {
	f.l.Close()
	f.loop.Wait()
	f.closeAll()
}

// connectFrom is a Unix stream socket on which the sink listens.
type connectFrom struct {
	path string
	*conns
}

func (f *connectFrom) begin(*spool) error {
	f.conns = newConns()
	return nil
}

// opened connects, once. A connection outlives the plugin, if its sink is exact.
func (f *connectFrom) opened(ctx context.Context, s *spool, _ *opening) error {
	f.mu.Lock()
	connected := len(f.all) > 0
	f.mu.Unlock()
	if connected {
		return nil
	}
	for {
		c, err := net.DialUnix("unix", nil, &net.UnixAddr{Net: "unix", Name: f.path})
		if err == nil {
			f.add(s, c)
			return nil
		}
		select {
		case <-time.After(5 * time.Millisecond):
		case <-ctx.Done():
			return fmt.Errorf("connect to the sink: %w", err)
		}
	}
}

func (f *connectFrom) close() { f.closeAll() }

// fifoFrom is a FIFO that the kit reads.
type fifoFrom struct {
	path string
	file *os.File
	work sync.WaitGroup
}

func (f *fifoFrom) begin(s *spool) error {
	n, err := unix.Open(f.path, unix.O_RDWR|unix.O_NONBLOCK|unix.O_CLOEXEC, 0) // also to write: there is no end of it between two processes
	if err != nil {
		return fmt.Errorf("open %s: %w", f.path, err)
	}
	f.file = fd.New(n).File(f.path)
	f.work.Go(func() { io.CopyBuffer(struct{ io.Writer }{s}, struct{ io.Reader }{f.file}, make([]byte, 64<<10)) })
	return nil
}

func (f *fifoFrom) opened(context.Context, *spool, *opening) error { return nil }

func (f *fifoFrom) over() *sync.WaitGroup { return &f.work }

func (f *fifoFrom) close() {
	f.file.Close()
	f.work.Wait()
}
