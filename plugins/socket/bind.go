package socket

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// paths are the addresses that the openings of this process listen on, and for which child.
type paths struct {
	mu     sync.Mutex
	owners map[address]string
}

func (p *paths) take(a address, owner string) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if by, taken := p.owners[a]; taken {
		return fmt.Errorf("listen on %s: the sink of child %s listens there already; choose another address", a, by)
	}
	p.owners[a] = owner
	return nil
}

func (p *paths) giveBack(a address) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.owners, a)
}

// backlog is how many readers wait to be accepted at most.
const backlog = 128

// listenAgain takes over the listening socket of an earlier process, or listens. It is returned, owned by the caller, with what
// its file is where it has one.
func (s settings) listenAgain(ctx context.Context, p port) (*os.File, os.FileInfo, error) {
	files := p.Parked(parkedListener)
	if len(files) == 0 {
		return s.bind(ctx)
	}
	if !s.network.unix() {
		return files[0], nil, nil
	}
	info, err := os.Lstat(s.name)
	if err != nil || info.Mode()&fs.ModeSocket == 0 {
		info = nil // somebody has removed it
	}
	return files[0], info, nil
}

// bind listens.
func (s settings) bind(ctx context.Context) (*os.File, os.FileInfo, error) {
	if s.network.unix() {
		return s.bindUnix(ctx)
	}
	var f *os.File
	var err error
	if s.network == vsock {
		f, err = listenVsock(s.name)
	} else {
		var ln net.Listener
		if ln, err = (&net.ListenConfig{}).Listen(ctx, s.network.inGo(), s.name); err == nil {
			f, err = copyOf(ln.(*net.TCPListener))
			ln.Close()
		}
	}
	switch {
	case errors.Is(err, unix.EADDRINUSE):
		err = fmt.Errorf("%w; somebody listens there already: choose another port", cause(err))
	case errors.Is(err, unix.EADDRNOTAVAIL):
		err = fmt.Errorf("%w; this machine does not have that address", cause(err))
	}
	if err != nil {
		return nil, nil, fmt.Errorf("listen on %s: %w", s.address, cause(err))
	}
	return f, nil, nil
}

// copyOf returns a copy of c's descriptor, owned by the caller.
func copyOf(c syscall.Conn) (f *os.File, err error) {
	ctlErr := control(c, func(fd int) {
		var n int
		if n, err = unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 3); err == nil {
			f = os.NewFile(uintptr(n), "copy")
		}
	})
	if err := errors.Join(ctlErr, err); err != nil {
		return nil, fmt.Errorf("copy a socket: %w", err)
	}
	return f, nil
}

// bindUnix listens on a path. A socket file that is left over from somebody who listens no more is replaced; one that
// somebody listens on, and anything that is not a socket, is not.
func (s settings) bindUnix(ctx context.Context) (*os.File, os.FileInfo, error) {
	path := s.name
	fail := func(err error) (*os.File, os.FileInfo, error) {
		return nil, nil, fmt.Errorf("listen on %s: %w", s.address, err)
	}
	unlock, err := lockDir(ctx, filepath.Dir(path))
	if err != nil {
		return fail(err)
	}
	defer unlock()
	if err := clearStale(path); err != nil {
		return fail(err)
	}
	// A socket's file gets the socket's own mode, less the umask (unix_bind in net/unix/af_unix.c), so that nobody
	// gets in between bind(2) and chmod(2).
	config := net.ListenConfig{Control: func(_, _ string, raw syscall.RawConn) error {
		var modeErr error
		err := raw.Control(func(fd uintptr) { modeErr = unix.Fchmod(int(fd), uint32(s.perm)) })
		return errors.Join(err, modeErr)
	}}
	any, err := config.Listen(ctx, s.network.inGo(), path)
	if err != nil {
		return fail(explainBind(cause(err), path))
	}
	ln := any.(*net.UnixListener)
	ln.SetUnlinkOnClose(false) // it would not look whose the file is by then
	err = os.Chmod(path, s.perm)
	info, statErr := os.Lstat(path)
	f, copyErr := copyOf(ln)
	ln.Close()
	if err := errors.Join(err, statErr, copyErr); err != nil {
		f.Close()
		return fail(err)
	}
	return f, info, nil
}

// explainBind adds a way out.
func explainBind(err error, path string) error {
	switch {
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("%w; let user id %d write in %s", err, os.Geteuid(), filepath.Dir(path))
	case errors.Is(err, unix.ENOENT):
		return fmt.Errorf("%w; make the directory %s first", err, filepath.Dir(path))
	}
	return err
}

// clearStale makes sure that nothing is at path, or returns why it must stay.
func clearStale(path string) error {
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if info.Mode()&fs.ModeSocket == 0 {
		return fmt.Errorf("something that is not a socket is there (%s), and is not replaced; choose another path",
			info.Mode())
	}
	switch err := probe(path); {
	case err == nil, errors.Is(err, unix.EPROTOTYPE), errors.Is(err, unix.EPERM):
		return fmt.Errorf("somebody listens there already; choose another path, or connect with socket:unix:%s", path)
	case !errors.Is(err, unix.ECONNREFUSED):
		return fmt.Errorf("find out whether somebody listens there: %w; choose another path, or remove it", err)
	}
	return os.Remove(path)
}

// probe connects a datagram socket to the socket file at path. With ECONNREFUSED no socket has that file any more; where one of
// another type has it,
// the error is EPROTOTYPE (unix_find_other in net/unix/af_unix.c), and who listens there does not notice, as it would a connection.
func probe(path string) error {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return unix.Connect(fd, &unix.SockaddrUnix{Name: path})
}

// lockDir keeps every other muxd from replacing a socket file in dir at the same time: between finding that nobody
// listens and removing the file another could have begun to. The lock is on the directory itself, so nothing is
// left behind.
func lockDir(ctx context.Context, dir string) (unlock func(), err error) {
	d, err := os.Open(dir)
	if err != nil {
		return nil, explainBind(err, filepath.Join(dir, "socket"))
	}
	raw, err := d.SyscallConn()
	if err != nil {
		d.Close()
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	for {
		var lockErr error
		err := raw.Control(func(fd uintptr) { lockErr = unix.Flock(int(fd), unix.LOCK_EX|unix.LOCK_NB) })
		if err == nil && lockErr == nil {
			return func() { d.Close() }, nil // with its only descriptor goes the lock (flock(2))
		}
		if err != nil || lockErr != unix.EWOULDBLOCK && lockErr != unix.EINTR {
			d.Close()
			return nil, fmt.Errorf("lock %s: %w", dir, errors.Join(err, lockErr))
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			d.Close()
			return nil, fmt.Errorf("lock %s: another process holds it", dir)
		}
	}
}

// unbind removes the socket file at path if it is still the one of info.
func unbind(path string, info os.FileInfo) error {
	now, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) || err == nil && !os.SameFile(now, info) {
		return nil
	}
	if err != nil {
		return err
	}
	return os.Remove(path)
}
