package socket

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/muxd/muxd/sink"
)

// conn is what the connections of all networks have in common.
type conn interface {
	net.Conn
	syscall.Conn
	CloseWrite() error
}

// cause is err without net's own words for the operation and the address.
func cause(err error) error {
	var op *net.OpError
	if errors.As(err, &op) {
		err = op.Err
	}
	var sys *os.SyscallError
	if errors.As(err, &sys) {
		err = sys.Err
	}
	return err
}

// write writes b to c, and returns how much of it the kernel accepted. It blocks until all is, the connection is dead,
// or ctx is done.
func write(ctx context.Context, c conn, b []byte) (n int, err error) {
	err = interruptible(ctx, c, func() (err error) {
		n, err = c.Write(b)
		return err
	})
	return n, err
}

// move moves what is left of a chunk to c. It blocks until all is with the kernel, the connection is dead, or ctx is done.
func move(ctx context.Context, c conn, chunk unseen) error {
	raw, err := c.SyscallConn()
	if err != nil {
		return err
	}
	return interruptible(ctx, c, func() error {
		var moveErr error
		err := raw.Write(func(fd uintptr) bool {
			for moveErr = nil; chunk.Left() > 0 && moveErr == nil; {
				_, moveErr = chunk.Move(fd, chunk.Left())
			}
			return !errors.Is(moveErr, unix.EAGAIN)
		})
		if err != nil {
			return err
		}
		return moveErr
	})
}

// interruptible runs write, which writes to c, and has it fail when ctx is done: with ctx's error.
func interruptible(ctx context.Context, c conn, write func() error) error {
	over := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		c.SetWriteDeadline(time.Unix(1, 0))
		close(over)
	})
	err := write()
	if !stop() {
		<-over
		c.SetWriteDeadline(time.Time{})
	}
	if err != nil && ctx.Err() != nil {
		err = ctx.Err()
	}
	return err
}

// lingerTime bounds how long the end of an output waits for its peer.
const lingerTime = 2 * time.Second

// lookEvery is how often linger asks the kernel, which has no event for it.
const lookEvery = 5 * time.Millisecond

// linger waits until the peer has what was sent, has closed, or deadline has passed. The write side is shut down
// already. A Unix peer has what it read; a TCP peer what its kernel acknowledged.
//
// With discard it takes in what the peer still sends: a connection that is closed with unread input is reset, and then
// a TCP peer may lose what it has not read yet (tcp(7), RFC 2525 section 2.17). Without, somebody else reads it.
func linger(ctx context.Context, c conn, deadline time.Time, discard bool) {
	defer c.SetReadDeadline(time.Time{})
	var scrap [4 << 10]byte
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	for ctx.Err() == nil && time.Now().Before(deadline) {
		if discard {
			c.SetReadDeadline(time.Now().Add(lookEvery))
			_, err := c.Read(scrap[:])
			if err == nil {
				continue
			}
			if !errors.Is(err, os.ErrDeadlineExceeded) {
				return // io.EOF, or dead
			}
		}
		if unsent, err := queued(c); err != nil || unsent == 0 {
			return
		}
		if !discard {
			select {
			case <-tick.C:
			case <-ctx.Done():
			}
		}
	}
}

// queued is the number of bytes that were written and that the peer does not have (SIOCOUTQ: unix(7) counts what was
// not read, with overhead; tcp(7) what was not acknowledged).
func queued(c conn) (n int, err error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return 0, err
	}
	ctlErr := raw.Control(func(fd uintptr) { n, err = unix.IoctlGetInt(int(fd), unix.TIOCOUTQ) })
	return n, errors.Join(err, ctlErr)
}

// awaitHangup blocks until the peer, which has shut down its write side, has closed the connection altogether, or the
// connection is closed here.
func awaitHangup(c conn) {
	raw, err := c.SyscallConn()
	if err != nil {
		return
	}
	raw.Read(func(fd uintptr) bool { return hungUpFD(int(fd)) })
}

// hungUp says whether the peer has closed the connection altogether.
func hungUp(c conn) (yes bool) {
	control(c, func(fd int) { yes = hungUpFD(fd) })
	return yes
}

func hungUpFD(fd int) bool {
	p := []unix.PollFd{{Fd: int32(fd)}} // POLLHUP and POLLERR are always asked for
	n, err := unix.Poll(p, 0)
	return err != nil && err != unix.EINTR || n > 0
}

// copyInput gives the child what c sends, where it cannot be spliced: packets, whose bounds do not count, and what is
// encrypted. What has been read and not been written when this process is killed is lost. It returns as Input.SpliceFrom does.
func copyInput(to *sink.Input, c conn) error {
	b := make([]byte, packetMost)
	for {
		n, err := c.Read(b)
		if _, inputErr := to.Write(b[:n]); inputErr != nil {
			return sink.ErrInputOver
		}
		switch {
		case errors.Is(err, io.EOF), err == nil && n == 0: // of packets an empty one, or the end
			return nil
		case err != nil:
			return err
		}
	}
}

// packetMost is the longest packet that is taken from a peer: more than a Unix socket sends by default (wmem_default).
const packetMost = 256 << 10
