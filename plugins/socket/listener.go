package socket

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/muxd/muxd/sink"
)

// listener is a sink that readers connect to.
//
// Without stdin it has no goroutine: readers wait in the kernel's queue until there is something to write, and are
// accepted then. With stdin one goroutine accepts, and each reader has one that gives the child what it sends, which
// ends when the reader is gone.
type listener struct {
	port
	path  string
	file  os.FileInfo // of the socket
	taken *paths
	ln    *net.UnixListener
	turn  turn // to write, and for port.outputs

	ctx    context.Context // done at Close
	cancel context.CancelFunc
	wait   sync.WaitGroup

	mu      sync.Mutex
	readers []conn // in the order in which they came
	ended   bool   // no output comes any more
	closed  bool
	came    chan struct{} // with stdin: has a token when a reader was added
}

// openListener binds. The sink takes ownership of p.input.
func openListener(ctx context.Context, s settings, p port, taken *paths, owner string) (*listener, error) {
	if err := taken.take(s.name, owner); err != nil {
		return nil, err
	}
	ln, file, err := bind(ctx, s.name, s.perm)
	if err != nil {
		taken.giveBack(s.name)
		return nil, err
	}
	l := &listener{port: p, path: s.name, file: file, taken: taken, ln: ln, turn: newTurn(), came: make(chan struct{}, 1)}
	l.ctx, l.cancel = context.WithCancel(context.Background())
	if p.input != nil {
		l.wait.Go(l.acceptAll)
	}
	return l, nil
}

// put sends data to every reader, and waits for one where there is none.
func (l *listener) put(ctx context.Context, data []byte, last bool) error {
	if err := l.turn.lock(ctx); err != nil {
		return err
	}
	defer l.turn.unlock()
	for len(data) > 0 {
		readers, err := l.present(ctx)
		if err != nil {
			return err
		}
		most := 0 // that any reader got
		for _, c := range readers {
			n, err := write(ctx, c, data)
			if ctx.Err() != nil && n < len(data) {
				return ctx.Err()
			}
			if err != nil {
				l.drop(c)
			}
			most = max(most, n)
		}
		// Where all of them went away in the middle, the next one gets what none of them was given.
		data = data[most:]
	}
	if !last {
		return nil
	}
	if l.outputs--; l.outputs == 0 {
		l.finish(ctx)
	}
	return nil
}

// present returns the readers that are connected, at least one. It blocks until there is one, or ctx is done.
func (l *listener) present(ctx context.Context) ([]conn, error) {
	if l.input != nil {
		for {
			if readers := l.list(); len(readers) > 0 {
				return readers, nil
			}
			select {
			case <-l.came:
			case <-ctx.Done():
				return nil, ctx.Err()
			}
		}
	}
	try := l.retries.New()
	defer try.Over()
	for {
		c, err := l.accept(ctx, len(l.list()) == 0)
		switch {
		case err == nil:
			l.add(c)
		case ctx.Err() != nil:
			return nil, ctx.Err()
		case errors.Is(err, os.ErrDeadlineExceeded): // nobody else waits to be accepted
			return l.list(), nil
		default:
			readers := l.list()
			if len(readers) > 0 {
				return readers, nil
			}
			if err := try.Wait(ctx, l.explain(err)); err != nil {
				return nil, err
			}
		}
	}
}

// accept accepts one reader. With wait it blocks until there is one or ctx is done; otherwise the error is
// os.ErrDeadlineExceeded where there is none. A deadline that has passed would keep Accept from looking at all.
func (l *listener) accept(ctx context.Context, wait bool) (conn, error) {
	if !wait && !l.pending() {
		return nil, os.ErrDeadlineExceeded
	}
	over := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		l.ln.SetDeadline(time.Unix(1, 0))
		close(over)
	})
	c, err := l.ln.AcceptUnix()
	if !stop() {
		<-over
		l.ln.SetDeadline(time.Time{})
	}
	if err != nil {
		return nil, err
	}
	return c, nil
}

// pending says whether a reader waits to be accepted.
func (l *listener) pending() bool {
	raw, err := l.ln.SyscallConn()
	if err != nil {
		return false
	}
	ready := false
	raw.Control(func(fd uintptr) {
		p := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
		n, _ := unix.Poll(p, 0)
		ready = n > 0
	})
	return ready
}

func (l *listener) explain(err error) error {
	return fmt.Errorf("accept a reader on unix:%s: %w; raise the limit of open files if that is the cause", l.path, cause(err))
}

func (l *listener) list() []conn {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.readers)
}

// add takes ownership of c.
func (l *listener) add(c conn) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		c.Close()
		return
	}
	l.readers = append(l.readers, c)
	if l.ended {
		c.CloseWrite()
	}
	select {
	case l.came <- struct{}{}:
	default:
	}
}

// drop closes c, and is done with it. A second drop does nothing.
func (l *listener) drop(c conn) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if i := slices.Index(l.readers, c); i >= 0 {
		l.readers = slices.Delete(l.readers, i, i+1)
		c.Close()
	}
}

// finish tells every reader that no output comes any more, and gives them all together lingerTime to take it in.
func (l *listener) finish(ctx context.Context) {
	if l.input == nil {
		for l.pending() { // those that came after the last byte get an end all the same
			c, err := l.accept(ctx, false)
			if err != nil {
				break
			}
			l.add(c)
		}
	}
	l.mu.Lock()
	l.ended = true
	l.mu.Unlock()
	readers := l.list()
	for _, c := range readers {
		c.CloseWrite() // where it fails the reader is gone
	}
	deadline := time.Now().Add(lingerTime)
	for _, c := range readers {
		linger(ctx, c, deadline, l.input == nil)
	}
}

// acceptAll accepts readers until Close, and lets each feed the child's stdin.
func (l *listener) acceptAll() {
	try := l.retries.New()
	defer try.Over()
	for {
		c, err := l.ln.AcceptUnix()
		switch {
		case err == nil:
			try.Over()
			l.add(c)
			l.wait.Go(func() { l.readInput(c) })
		case errors.Is(err, net.ErrClosed), try.Wait(l.ctx, l.explain(err)) != nil:
			return
		}
	}
}

// readInput gives the child what c sends, until c is gone. A reader that has sent all may still read, and one whose
// input the child does not take any more too.
func (l *listener) readInput(c conn) {
	if err := l.input.SpliceFrom(c); err == nil || errors.Is(err, sink.ErrInputOver) {
		awaitHangup(c)
	}
	l.drop(c)
}

// Close removes the socket file, closes every connection, and returns when nobody reads from them.
func (l *listener) Close() error {
	l.cancel()
	err := unbind(l.path, l.file)
	if closeErr := l.ln.Close(); err == nil {
		err = closeErr
	}
	l.mu.Lock()
	l.closed = true
	l.mu.Unlock()
	for _, c := range l.list() {
		l.drop(c)
	}
	if l.input != nil {
		l.input.Close()
	}
	l.wait.Wait()
	l.taken.giveBack(l.path)
	return err
}
