package pty

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// pair is a new terminal: its master, and the terminal side.
type pair struct {
	master, tty master
	name        string // of the terminal side, as /dev/pts/7
}

// openPair makes a terminal of that size, with the modes that the kernel gives a new one (tty_std_termios, what stty
// calls sane) and IUTF8, so that erasing takes a whole character. The caller owns the pair. Both ends are blocking
// and close-on-exec.
func openPair(rows, cols int) (p *pair, err error) {
	m, err := unix.Open("/dev/ptmx", unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, explain(err)
	}
	p = &pair{master: master{m}, tty: master{-1}}
	defer func() {
		if err != nil {
			p.close()
		}
	}()
	if err := unix.IoctlSetPointerInt(m, unix.TIOCSPTLCK, 0); err != nil {
		return nil, fmt.Errorf("unlock the new terminal: %w", err)
	}
	// The other end comes from the master and not from a path: /dev/pts may be another one, or none, in this
	// process's mount namespace (ioctl_tty(2)).
	t, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(m), unix.TIOCGPTPEER, unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC)
	if errno != 0 {
		return nil, fmt.Errorf("open the terminal side of the new terminal: %w", errno)
	}
	p.tty = master{int(t)}
	if p.name, err = terminalName(m); err != nil {
		return nil, err
	}
	return p, prepare(m, rows, cols, true)
}

// prepare gives the terminal of master m its size, and, where it is new, its modes.
func prepare(m, rows, cols int, isNew bool) error {
	if isNew {
		if err := setUTF8(m); err != nil {
			return fmt.Errorf("modes of the new terminal: %w", err)
		}
	}
	size := unix.Winsize{Row: uint16(rows), Col: uint16(cols)}
	if err := unix.IoctlSetWinsize(m, unix.TIOCSWINSZ, &size); err != nil {
		return fmt.Errorf("size of the new terminal: %w", err)
	}
	return nil
}

// terminalName is the path of the terminal side of master m. A master of a devpts that is not the one on /dev/pts here, as that
// of a container, has a number that means another terminal here, or none: it is named without a path.
func terminalName(m int) (string, error) {
	n, err := unix.IoctlGetInt(m, unix.TIOCGPTN)
	if err != nil {
		return "", fmt.Errorf("number of the terminal: %w", err)
	}
	if !isOurs(m) {
		return fmt.Sprintf("terminal %d of another devpts", n), nil
	}
	return fmt.Sprintf("/dev/pts/%d", n), nil
}

// isOurs says whether master m comes from the devpts that is on /dev/pts here. A master is the file that was opened for it: the
// device node /dev/ptmx, or the ptmx of its devpts, which the former may be a link to.
func isOurs(m int) bool {
	var opened, file unix.Stat_t
	if unix.Fstat(m, &opened) != nil {
		return false
	}
	for _, path := range []string{"/dev/ptmx", "/dev/pts/ptmx"} {
		if unix.Stat(path, &file) == nil && file.Dev == opened.Dev && file.Ino == opened.Ino {
			return true
		}
	}
	return false
}

// setUTF8 is for either side of a terminal: of a master the kernel changes the modes of its terminal side.
func setUTF8(tty int) error {
	modes, err := unix.IoctlGetTermios(tty, unix.TCGETS)
	if err != nil {
		return err
	}
	modes.Iflag |= unix.IUTF8
	return unix.IoctlSetTermios(tty, unix.TCSETS, modes)
}

// release relinquishes both ends.
func (p *pair) release() (m, tty *os.File) {
	m, tty = os.NewFile(uintptr(p.master.fd), "terminal master"), os.NewFile(uintptr(p.tty.fd), p.name)
	p.master.fd, p.tty.fd = -1, -1
	return m, tty
}

// close closes what was not released.
func (p *pair) close() {
	p.master.Close()
	p.tty.Close()
}

// explain makes an error of opening /dev/ptmx one with a way out.
func explain(err error) error {
	switch {
	case errors.Is(err, unix.ENOSPC), errors.Is(err, unix.EAGAIN), errors.Is(err, unix.EIO):
		// devpts answers ENOSPC beyond kernel.pty.max less kernel.pty.reserve, or beyond its mount option max=.
		return fmt.Errorf("open a new terminal: %w: no terminals are left (%s in use, kernel.pty.max is %s): "+
			"end consoles that nobody needs, or raise the limit with sysctl kernel.pty.max=N (and max=N of the "+
			"devpts mount, where it has one)", err, kernelPty("nr"), kernelPty("max"))
	case errors.Is(err, unix.ENOENT), errors.Is(err, unix.ENXIO), errors.Is(err, unix.ENODEV):
		return fmt.Errorf("open a new terminal: /dev/ptmx: %w: is devpts mounted on /dev/pts?", err)
	case errors.Is(err, unix.EMFILE), errors.Is(err, unix.ENFILE):
		return fmt.Errorf("open a new terminal: %w: out of file descriptors; raise LimitNOFILE of muxd (ulimit -n)", err)
	}
	return fmt.Errorf("open a new terminal: /dev/ptmx: %w", err)
}

func kernelPty(name string) string {
	b, err := os.ReadFile("/proc/sys/kernel/pty/" + name)
	if err != nil {
		return "?"
	}
	return strings.TrimSpace(string(b))
}
