package pty

import (
	"context"
	"errors"
	"fmt"
	"syscall"

	"golang.org/x/sys/unix"
)

// master owns a descriptor of a terminal, and is a console.File. It is never registered in Go's netpoller, which
// would wake the runtime at each of the child's writes: the SDK reads the same open file description, in an
// epoll set of its own.
type master struct{ fd int }

func (m *master) Fd() uintptr  { return uintptr(m.fd) }
func (m *master) Name() string { return "terminal master" }

// Close closes the descriptor. A second Close does nothing.
func (m *master) Close() error {
	if m.fd < 0 {
		return nil
	}
	fd := m.fd
	m.fd = -1
	return unix.Close(fd)
}

// dup returns a copy, owned by the caller.
func (m *master) dup() (*master, error) {
	n, err := unix.FcntlInt(uintptr(m.fd), unix.F_DUPFD_CLOEXEC, 3)
	if err != nil {
		return nil, err
	}
	return &master{n}, nil
}

// Read and Write are read(2) and write(2), without waiting for a descriptor that is not ready.
func (m *master) Read(p []byte) (int, error)  { return again(unix.Read, m.fd, p) }
func (m *master) Write(p []byte) (int, error) { return again(unix.Write, m.fd, p) }

func again(call func(int, []byte) (int, error), fd int, p []byte) (int, error) {
	for {
		n, err := call(fd, p)
		if !errors.Is(err, unix.EINTR) {
			return max(n, 0), err
		}
	}
}

// errLeft says that a viewer left while what it had typed could not be written.
var errLeft = errors.New("the viewer has left")

// writeAll writes all of p, in order, and blocks while the terminal's queue is full: until the child reads, ctx is done
// (its cause), or the client at the socket from, if any, has hung up (errLeft).
func (m *master) writeAll(ctx context.Context, p []byte, from syscall.RawConn) error {
	for len(p) > 0 {
		n, err := m.Write(p)
		p = p[n:]
		if errors.Is(err, unix.EAGAIN) {
			err = m.wait(ctx, from)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// wait blocks until the master takes input, or has something to tell that the next write will. The eventfd lives only as
// long as somebody waits, since an idle console shall cost no descriptor for it.
func (m *master) wait(ctx context.Context, from syscall.RawConn) error {
	wake, err := unix.Eventfd(0, unix.EFD_CLOEXEC)
	if err != nil {
		return fmt.Errorf("wait for the terminal: eventfd: %w", err)
	}
	defer unix.Close(wake)
	woken := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		unix.Write(wake, []byte{1, 0, 0, 0, 0, 0, 0, 0})
		close(woken)
	})
	fds := []unix.PollFd{{Fd: int32(m.fd), Events: unix.POLLOUT}, {Fd: int32(wake), Events: unix.POLLIN}, {Fd: -1}}
	var pollErr error
	poll := func(s uintptr) {
		fds[2].Fd = int32(s) // no events: only POLLHUP and POLLERR, which poll(2) always tells
		for {
			if _, pollErr = unix.Poll(fds, -1); !errors.Is(pollErr, unix.EINTR) {
				return
			}
		}
	}
	if from != nil {
		err = from.Control(poll)
	} else {
		poll(^uintptr(0))
	}
	if !stop() {
		<-woken // the eventfd is closed only after it has been written to
		return context.Cause(ctx)
	}
	switch {
	case err != nil:
		return errLeft
	case pollErr != nil:
		return fmt.Errorf("wait for the terminal: poll: %w", pollErr)
	case fds[0].Revents == 0 && fds[2].Revents != 0:
		return errLeft
	}
	return nil
}
