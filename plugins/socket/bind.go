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

// paths are those that the openings of this process listen on, and for which child.
type paths struct {
	mu     sync.Mutex
	owners map[string]string
}

func (p *paths) take(path, owner string) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if by, taken := p.owners[path]; taken {
		return fmt.Errorf("listen on unix:%s: the sink of child %s listens there already; choose another path", path, by)
	}
	p.owners[path] = owner
	return nil
}

func (p *paths) giveBack(path string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.owners, path)
}

// bind listens on path. A socket file that is left over from somebody who listens no more is replaced; one that
// somebody listens on, and anything that is not a socket, is not. The listener is returned, owned by the caller,
// with what its file is.
func bind(ctx context.Context, path string, perm os.FileMode) (*net.UnixListener, os.FileInfo, error) {
	fail := func(err error) (*net.UnixListener, os.FileInfo, error) {
		return nil, nil, fmt.Errorf("listen on unix:%s: %w", path, err)
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
		err := raw.Control(func(fd uintptr) { modeErr = unix.Fchmod(int(fd), uint32(perm)) })
		return errors.Join(err, modeErr)
	}}
	any, err := config.Listen(ctx, "unix", path)
	if err != nil {
		return fail(explainBind(cause(err), path))
	}
	ln := any.(*net.UnixListener)
	ln.SetUnlinkOnClose(false) // it would not look whose the file is by then
	err = os.Chmod(path, perm)
	info, statErr := os.Lstat(path)
	if err := errors.Join(err, statErr); err != nil {
		ln.Close()
		return fail(err)
	}
	return ln, info, nil
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
	c, err := net.DialTimeout("unix", path, dialTimeout)
	if err == nil {
		c.Close()
		return fmt.Errorf("somebody listens there already; choose another path, or connect with socket:unix:%s", path)
	}
	if !errors.Is(err, unix.ECONNREFUSED) {
		return fmt.Errorf("find out whether somebody listens there: %w; choose another path, or remove it", cause(err))
	}
	return os.Remove(path)
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
