package keeper

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/muxd/muxd/core/keeper/keeperpb"
	"github.com/muxd/muxd/internal/fd"
)

const (
	controlSock = "control.sock"
	fdSock      = "fd.sock"
	newSock     = "new.sock" // either, until it listens
	pidFile     = "muxd.pid"
)

// maxSunPath is the longest path of a Unix socket, in bytes: sun_path has 108, one of them for the NUL
// (unix(7)).
const maxSunPath = 107

// runtimeDir is the directory of sockets and pid file, locked for one muxd.
type runtimeDir struct {
	path string
	made []string // parents that did not exist, the innermost last
	lock *os.File
}

// openRuntimeDir makes the directory where it does not exist and locks it. The lock is an flock on the pid
// file, so it dies with the keeper, however that dies.
func openRuntimeDir(path string) (*runtimeDir, error) {
	abs, err := filepath.Abs(path)
	if err != nil {
		return nil, fmt.Errorf("runtime dir %s: %w", path, err)
	}
	d := &runtimeDir{path: abs}
	longest := filepath.Join(abs, controlSock)
	if n := len(longest); n > maxSunPath {
		return nil, fmt.Errorf("socket path %s is %d bytes long, and a Unix socket's may have %d: choose a shorter runtime_dir",
			longest, n, maxSunPath)
	}
	if err := d.make(); err != nil {
		d.unmake()
		return nil, fmt.Errorf("runtime dir: %w", err)
	}
	if err := d.check(); err != nil {
		d.unmake()
		return nil, err
	}
	if err := d.acquire(); err != nil {
		return nil, err
	}
	return d, nil
}

// inheritRuntimeDir is openRuntimeDir for a keeper that had the directory before its upgrade.
func inheritRuntimeDir(path string, u *keeperpb.Upgraded) (*runtimeDir, error) {
	abs, err := filepath.Abs(path)
	if err != nil {
		return nil, fmt.Errorf("runtime dir %s: %w", path, err)
	}
	return &runtimeDir{path: abs, made: u.GetMade(), lock: fd.New(int(u.GetLock())).File(pidFile)}, nil
}

// make makes the directory and its missing parents, 0711 each: a plugin with a user of its own has its socket in there, and finds
// nothing else.
func (d *runtimeDir) make() error {
	var missing []string
	for p := d.path; ; p = filepath.Dir(p) {
		_, err := os.Stat(p)
		if err == nil {
			break
		}
		if !errors.Is(err, os.ErrNotExist) || p == filepath.Dir(p) {
			return err
		}
		missing = append(missing, p)
	}
	for i := len(missing) - 1; i >= 0; i-- {
		err := os.Mkdir(missing[i], 0o711)
		switch {
		case err == nil:
			d.made = append(d.made, missing[i])
		case !errors.Is(err, os.ErrExist): // somebody else was quicker: check decides
			return err
		}
	}
	return nil
}

// check refuses a directory in which somebody else could put a socket of their own.
func (d *runtimeDir) check() error {
	n, err := unix.Open(d.path, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("runtime dir %s: %w", d.path, err)
	}
	f := fd.New(n)
	defer f.Close()
	var st unix.Stat_t
	if err := unix.Fstat(n, &st); err != nil {
		return fmt.Errorf("runtime dir %s: %w", d.path, err)
	}
	if me := os.Geteuid(); int(st.Uid) != me {
		return fmt.Errorf("runtime dir %s belongs to uid %d, and muxd runs as uid %d: choose another runtime_dir", d.path, st.Uid, me)
	}
	if st.Mode&0o022 != 0 {
		return fmt.Errorf("runtime dir %s has mode %04o, and others can write to it: chmod 0711 %s", d.path, st.Mode&0o7777, d.path)
	}
	return nil
}

// acquire locks the pid file and writes the pid into it. A pid file that was removed between open and lock
// belongs to a muxd that was just ending, and the next attempt makes a new one.
func (d *runtimeDir) acquire() error {
	path := filepath.Join(d.path, pidFile)
	for {
		f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW, 0o600)
		if err != nil {
			return fmt.Errorf("pid file: %w", err)
		}
		if err := flock(f); err != nil {
			defer f.Close()
			if errors.Is(err, unix.EWOULDBLOCK) {
				return &RunningError{Dir: d.path, Pid: readPid(f)}
			}
			return fmt.Errorf("lock %s: %w", path, err)
		}
		mine, err := f.Stat()
		if err != nil {
			f.Close()
			return fmt.Errorf("pid file: %w", err)
		}
		if there, err := os.Lstat(path); err != nil || !os.SameFile(mine, there) {
			f.Close()
			continue
		}
		if err := writePid(f); err != nil {
			f.Close()
			return fmt.Errorf("write pid file: %w", err)
		}
		d.lock = f
		return nil
	}
}

func flock(f *os.File) error {
	raw, err := f.SyscallConn()
	if err != nil {
		return err
	}
	var lockErr error
	if err := raw.Control(func(n uintptr) { lockErr = unix.Flock(int(n), unix.LOCK_EX|unix.LOCK_NB) }); err != nil {
		return err
	}
	return lockErr
}

// readPid returns 0 where the muxd that has the lock has not written its pid yet.
func readPid(f *os.File) int {
	b, _ := io.ReadAll(io.LimitReader(f, 32))
	pid, _ := strconv.Atoi(strings.TrimSpace(string(b)))
	return pid
}

func writePid(f *os.File) error {
	if err := f.Truncate(0); err != nil {
		return err
	}
	_, err := f.WriteAt([]byte(strconv.Itoa(os.Getpid())+"\n"), 0)
	return err
}

// listen replaces a stale socket of that name by a new one and returns it, listening, owned by the caller.
// Nobody else listens on the old one: the directory is locked. There is a socket at any moment, since a client takes none
// for a muxd that has ended.
func (d *runtimeDir) listen(name string, typ int) (*fd.FD, error) {
	path := filepath.Join(d.path, name)
	if st, err := os.Lstat(path); err == nil {
		if st.Mode().Type() != os.ModeSocket {
			return nil, fmt.Errorf("listen on %s: there is something that is not a socket: move it away", path)
		}
	}
	made := filepath.Join(d.path, newSock)
	if err := os.Remove(made); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("remove the socket of an earlier muxd: %w", err)
	}
	n, err := unix.Socket(unix.AF_UNIX, typ|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w", path, err)
	}
	s := fd.New(n)
	err = bindPrivate(n, made)
	if err == nil {
		err = os.Rename(made, path)
	}
	if err != nil {
		s.Close()
		return nil, fmt.Errorf("listen on %s: %w", path, err)
	}
	return s, nil
}

// backlog is how many clients may queue while the agent is away. The kernel takes no more than
// net.core.somaxconn.
const backlog = 4096

// bindPrivate binds and listens. The socket file has mode 0600 from its first moment: bind gives it the mode
// of the socket's own inode less the umask (unix_bind_bsd in net/unix/af_unix.c). The chmod only undoes what
// a strange umask took away.
func bindPrivate(n int, path string) error {
	if err := unix.Fchmod(n, 0o600); err != nil {
		return err
	}
	if err := unix.Bind(n, &unix.SockaddrUnix{Name: path}); err != nil {
		return err
	}
	if err := unix.Chmod(path, 0o600); err != nil {
		return err
	}
	return unix.Listen(n, backlog)
}

// leftovers are names of what agent and plugins put into the runtime dir (filepath.Match), next to sockets of
// any name.
var leftovers = []string{"agent*", "plugin*", "journal*", "containers"}

// removeLeftovers removes what agent and plugins left, when they are gone for good.
func (d *runtimeDir) removeLeftovers() {
	entries, _ := os.ReadDir(d.path)
	for _, e := range entries {
		if e.Type() == os.ModeSocket || isLeftover(e.Name()) {
			os.RemoveAll(filepath.Join(d.path, e.Name()))
		}
	}
}

// remove removes the pid file and the keeper's sockets, then the directory if nothing else is in it, and the
// parents that were made for it. Then it unlocks.
func (d *runtimeDir) remove() {
	for _, name := range []string{controlSock, fdSock, pidFile} {
		path := filepath.Join(d.path, name)
		if st, err := os.Lstat(path); err == nil && (name == pidFile || st.Mode().Type() == os.ModeSocket) {
			os.Remove(path)
		}
	}
	os.Remove(d.path)
	d.unmake()
	d.lock.Close()
}

func isLeftover(name string) bool {
	for _, pattern := range leftovers {
		if ok, _ := filepath.Match(pattern, name); ok {
			return true
		}
	}
	return false
}

// unmake removes the directories that make made, as far as they are empty.
func (d *runtimeDir) unmake() {
	for i := len(d.made) - 1; i >= 0; i-- {
		os.Remove(d.made[i])
	}
}
