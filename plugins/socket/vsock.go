package socket

import (
	"context"
	"net"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// vsockConn is a connection between a virtual machine and its host (vsock(7)), which package net does not know.
type vsockConn struct {
	*os.File
	name string
}

// newVsock takes ownership of n, a connected socket with O_NONBLOCK.
func newVsock(n int, name string) vsockConn {
	return vsockConn{os.NewFile(uintptr(n), "vsock:"+name), name}
}

func (c vsockConn) CloseWrite() (err error) {
	ctlErr := control(c, func(fd int) { err = os.NewSyscallError("shutdown", unix.Shutdown(fd, unix.SHUT_WR)) })
	if ctlErr != nil {
		return ctlErr
	}
	return err
}

func (c vsockConn) LocalAddr() net.Addr  { return vsockAddr(c.name) }
func (c vsockConn) RemoteAddr() net.Addr { return vsockAddr(c.name) }

// vsockAddr is CID:PORT.
type vsockAddr string

func (vsockAddr) Network() string  { return string(vsock) }
func (a vsockAddr) String() string { return string(a) }

// dialVsock connects, and blocks until it is, ctx is done or dialTimeout has passed.
func dialVsock(ctx context.Context, name string) (conn, error) {
	cid, port, err := vsockName(name)
	if err != nil {
		return nil, err
	}
	n, err := unix.Socket(unix.AF_VSOCK, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	err = unix.Connect(n, &unix.SockaddrVM{CID: cid, Port: port})
	c := newVsock(n, name)
	if err == unix.EINPROGRESS {
		err = c.connected(ctx)
	}
	if err != nil {
		c.Close()
		return nil, os.NewSyscallError("connect", err)
	}
	return c, nil
}

// connected waits for a connection that is being made.
func (c vsockConn) connected(ctx context.Context) error {
	c.SetWriteDeadline(time.Now().Add(dialTimeout))
	defer c.SetWriteDeadline(time.Time{})
	raw, err := c.SyscallConn()
	if err != nil {
		return err
	}
	return interruptible(ctx, c, func() error {
		result := 0
		var sockErr error
		err := raw.Write(func(fd uintptr) bool {
			p := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLOUT}}
			if n, err := unix.Poll(p, 0); err != nil || n == 0 {
				return err != nil && err != unix.EINTR
			}
			result, sockErr = unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_ERROR)
			return true
		})
		switch {
		case err != nil:
			return err
		case sockErr != nil:
			return sockErr
		case result != 0:
			return unix.Errno(result)
		}
		return nil
	})
}

// listenVsock returns a listening socket, owned by the caller.
func listenVsock(name string) (*os.File, error) {
	cid, port, err := vsockName(name)
	if err != nil {
		return nil, err
	}
	n, err := unix.Socket(unix.AF_VSOCK, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	if err = unix.Bind(n, &unix.SockaddrVM{CID: cid, Port: port}); err == nil {
		err = unix.Listen(n, backlog)
	}
	if err != nil {
		unix.Close(n)
		return nil, os.NewSyscallError("bind", err)
	}
	return os.NewFile(uintptr(n), "vsock:"+name), nil
}
