package socket

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// dialTimeout bounds one attempt to connect, and a TLS handshake.
const dialTimeout = 5 * time.Second

// dial connects, and returns the connection, owned by the caller.
func (s settings) dial(ctx context.Context) (conn, error) {
	if s.network == vsock {
		c, err := dialVsock(ctx, s.name)
		if err != nil {
			return nil, explainDial(err, s.address)
		}
		return c, nil
	}
	d := net.Dialer{Timeout: dialTimeout}
	c, err := d.DialContext(ctx, s.network.inGo(), s.name)
	if err == nil && s.network == secure {
		c, err = handshake(ctx, c.(*net.TCPConn), s.tls, false)
	}
	if err != nil {
		return nil, explainDial(err, s.address)
	}
	return c.(conn), nil
}

// dialDirect connects for a child: the socket is blocking, as programs expect their stdio to be.
func (s settings) dialDirect(ctx context.Context) (*os.File, error) {
	c, err := s.dial(ctx)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	f, err := copyOf(c)
	if err != nil {
		return nil, err
	}
	ctlErr := control(f, func(fd int) { err = unix.SetNonblock(fd, false) })
	if err := errors.Join(ctlErr, err); err != nil {
		f.Close()
		return nil, fmt.Errorf("connect to %s: %w", s.address, err)
	}
	return f, nil
}

// connOf is the connection that f is. It takes ownership of f.
func (s settings) connOf(f *os.File) (conn, error) {
	if s.network == vsock {
		return vsockConn{f, s.name}, nil
	}
	defer f.Close()
	c, err := net.FileConn(f)
	if err != nil {
		return nil, fmt.Errorf("take a connection over: %w", err)
	}
	return c.(conn), nil
}

// explainDial adds a way out.
func explainDial(err error, a address) error {
	var hint string
	var dns *net.DNSError
	switch {
	case errors.Is(err, unix.ECONNREFUSED):
		hint = "nobody listens there: start the peer first"
	case errors.Is(err, unix.ENOENT):
		hint = "there is no such socket: start the peer first"
	case errors.Is(err, unix.EPROTOTYPE):
		hint = "the socket there is of another type: try unix:, unix-seqpacket: or unix-dgram:"
	case errors.Is(err, fs.ErrPermission):
		hint = fmt.Sprintf("let user id %d connect there", os.Geteuid())
	case errors.As(err, &dns):
		hint = "check the host's name"
	case errors.Is(err, os.ErrDeadlineExceeded):
		hint = "the peer does not answer: check the address and the firewall"
	}
	if a.network == unixStream && (errors.Is(err, unix.ECONNREFUSED) || errors.Is(err, unix.ENOENT)) {
		hint += ", or let readers connect here with socket:listen=" + a.String()
	}
	if hint == "" {
		return fmt.Errorf("connect to %s: %w", a, cause(err))
	}
	return fmt.Errorf("connect to %s: %w; %s", a, cause(err), hint)
}
