package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// descriptor is f's descriptor, which stays f's. os.File.Fd would make it blocking for everybody who shares it.
func descriptor(f *os.File) (int, error) {
	raw, err := f.SyscallConn()
	if err != nil {
		return -1, err
	}
	n := -1
	err = raw.Control(func(fd uintptr) { n = int(fd) })
	return n, err
}

// isTerminal says whether descriptor fd is a terminal.
func isTerminal(fd int) bool {
	_, err := unix.IoctlGetTermios(fd, unix.TCGETS)
	return err == nil
}

// terminal is the user's terminal while it is in raw mode. It does not own the descriptor. O_NONBLOCK is never set on
// it: the open file description is shared with the shell that started this program.
type terminal struct {
	fd  int
	raw unix.Termios

	mu    sync.Mutex
	saved unix.Termios
	isRaw bool
}

// openTerminal remembers the modes of the terminal at fd. With signals its special characters go on raising signals
// in raw mode.
func openTerminal(fd int, signals bool) (*terminal, error) {
	saved, err := unix.IoctlGetTermios(fd, unix.TCGETS)
	if err != nil {
		return nil, fmt.Errorf("modes of the terminal: %w", err)
	}
	return &terminal{fd: fd, saved: *saved, raw: rawModes(*saved, signals)}, nil
}

// rawModes is what cfmakeraw(3) makes of t, but for VMIN: with 0 a read never blocks, so that one that finds the
// key already taken by another reader of the terminal can still be called off.
func rawModes(t unix.Termios, signals bool) unix.Termios {
	t.Iflag &^= unix.IGNBRK | unix.BRKINT | unix.PARMRK | unix.ISTRIP | unix.INLCR | unix.IGNCR | unix.ICRNL | unix.IXON
	t.Oflag &^= unix.OPOST
	t.Lflag &^= unix.ECHO | unix.ECHONL | unix.ICANON | unix.ISIG | unix.IEXTEN
	t.Cflag &^= unix.CSIZE | unix.PARENB
	t.Cflag |= unix.CS8
	t.Cc[unix.VMIN], t.Cc[unix.VTIME] = 0, 0
	if signals {
		t.Lflag |= unix.ISIG
	}
	return t
}

// enter puts the terminal into raw mode. What has been typed already is kept (TCSETS, not TCSETSF).
func (t *terminal) enter() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if err := setModes(t.fd, &t.raw); err != nil {
		return fmt.Errorf("raw mode of the terminal: %w", err)
	}
	t.isRaw = true
	return nil
}

// leave puts the modes back that the terminal had. A second call does nothing.
func (t *terminal) leave() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.isRaw {
		setModes(t.fd, &t.saved) // it fails where the terminal is gone
		t.isRaw = false
	}
}

// setModes does not wait until what was written is shown (TCSETSW), which a terminal that stands still never does.
func setModes(fd int, modes *unix.Termios) error {
	for {
		err := unix.IoctlSetTermios(fd, unix.TCSETS, modes)
		if !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

// size is the terminal's window size; zeros where it has none.
func (t *terminal) size() (rows, cols int) {
	w, err := unix.IoctlGetWinsize(t.fd, unix.TIOCGWINSZ)
	if err != nil {
		return 0, 0
	}
	return int(w.Row), int(w.Col)
}

// hungUp says whether the terminal is gone: a connection that broke, a window that was closed.
func (t *terminal) hungUp() bool {
	p := []unix.PollFd{{Fd: int32(t.fd)}}
	_, err := unix.Poll(p, 0)
	return err == nil && p[0].Revents&unix.POLLHUP != 0
}

// errStopped says that a stopper called a wait off.
var errStopped = errors.New("stopped")

// stopper calls off everybody who waits for a descriptor with it, once and for good. It owns an eventfd.
type stopper struct{ fd int }

func newStopper() (*stopper, error) {
	n, err := unix.Eventfd(0, unix.EFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("eventfd: %w", err)
	}
	return &stopper{n}, nil
}

func (s *stopper) stop()  { unix.Write(s.fd, []byte{1, 0, 0, 0, 0, 0, 0, 0}) }
func (s *stopper) close() { unix.Close(s.fd) }

// wait blocks until fd has one of events, or an error or hang-up, which it returns; until timeout milliseconds have
// passed (0 events; negative: never); or until stop (errStopped).
func (s *stopper) wait(fd int, events int16, timeout int) (int16, error) {
	fds := []unix.PollFd{{Fd: int32(fd), Events: events}, {Fd: int32(s.fd), Events: unix.POLLIN}}
	for {
		_, err := unix.Poll(fds, timeout)
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil:
			return 0, os.NewSyscallError("poll", err)
		case fds[1].Revents != 0:
			return 0, errStopped
		default:
			return fds[0].Revents, nil
		}
	}
}

// keysAtOnce: up to so many waiting keys are read one by one, so that what is typed behind the detach keys stays
// with the terminal, for the shell. More is a paste.
const keysAtOnce = 64

// readKeys reads from stdin, which the caller has found ready with revents. n is 0 without an error where nothing
// was there after all; io.EOF at the end.
func readKeys(fd int, terminal bool, revents int16, p []byte) (n int, err error) {
	if terminal {
		if waiting, err := unix.IoctlGetInt(fd, unix.TIOCINQ); err == nil && waiting <= keysAtOnce {
			p = p[:1]
		}
	}
	n, err = unix.Read(fd, p)
	errno, _ := err.(unix.Errno)
	return keysRead(n, errno, terminal, revents)
}

// keysRead is what a read of the keyboard has found.
func keysRead(n int, errno unix.Errno, terminal bool, revents int16) (int, error) {
	switch {
	case errno == unix.EINTR, errno == unix.EAGAIN:
		return 0, nil
	case errno == unix.EIO: // the terminal has hung up, or this is an orphaned background process
		return 0, io.EOF
	case errno != 0:
		return 0, os.NewSyscallError("read", errno)
	case n == 0 && (!terminal || revents&(unix.POLLHUP|unix.POLLERR) != 0):
		return 0, io.EOF
	}
	return n, nil
}

// outlet writes to stdout so that a terminal or pipe that stands still can be called off.
type outlet struct {
	fd    int
	owned bool // fd is a description of this program's own, with O_NONBLOCK
	stop  *stopper
}

// pipeAtOnce is what a pipe that polls writable takes without blocking (PIPE_BUF, pipe(7)).
const pipeAtOnce = 4096

// newOutlet makes an outlet for fd, and does not take ownership of it. A terminal or pipe is opened a second time where
// that is allowed, since O_NONBLOCK on fd would be everybody's who shares it. Where it is not allowed (the
// terminal of another user), a terminal that stands still in the middle of a write can hold this program up.
func newOutlet(fd int, stop *stopper) *outlet {
	o := &outlet{fd: fd, stop: stop}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil || !(isTerminal(fd) || st.Mode&unix.S_IFMT == unix.S_IFIFO) {
		return o
	}
	if own, err := openAgain(fd); err == nil {
		o.fd, o.owned = own, true
	}
	return o
}

// openAgain opens what fd is a second time, for writing without blocking. It returns a descriptor owned by the caller.
func openAgain(fd int) (int, error) {
	return unix.Open(fmt.Sprintf("/proc/self/fd/%d", fd), unix.O_WRONLY|unix.O_NOCTTY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
}

func (o *outlet) close() {
	if o.owned {
		unix.Close(o.fd)
	}
}

// write writes all of p, or returns errStopped.
func (o *outlet) write(p []byte) error {
	for len(p) > 0 {
		some := p
		if !o.owned {
			if _, err := o.stop.wait(o.fd, unix.POLLOUT, -1); err != nil {
				return err
			}
			some = p[:min(len(p), pipeAtOnce)]
		}
		n, err := unix.Write(o.fd, some)
		p = p[max(n, 0):]
		switch {
		case errors.Is(err, unix.EINTR):
		case errors.Is(err, unix.EAGAIN):
			if _, err := o.stop.wait(o.fd, unix.POLLOUT, -1); err != nil {
				return err
			}
		case err != nil:
			return os.NewSyscallError("write", err)
		}
	}
	return nil
}

// brief writes p as far as there is room for it within a moment, stopped or not.
func (o *outlet) brief(p []byte) {
	for len(p) > 0 {
		fds := []unix.PollFd{{Fd: int32(o.fd), Events: unix.POLLOUT}}
		if n, err := unix.Poll(fds, 200); err == nil && n == 0 {
			return
		}
		n, err := unix.Write(o.fd, p[:min(len(p), pipeAtOnce)])
		if err != nil && !errors.Is(err, unix.EINTR) && !errors.Is(err, unix.EAGAIN) {
			return
		}
		p = p[max(n, 0):]
	}
}
