package main

import (
	"fmt"
	"os"
	"os/exec"
	"syscall"

	"golang.org/x/sys/unix"
)

// newPTY makes a terminal of 24 by 80, in raw mode as far as its output goes. Both ends are returned, owned by the caller.
func newPTY() (master, tty *os.File, err error) {
	m, err := unix.Open("/dev/ptmx", unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("open /dev/ptmx: %w", err)
	}
	master = os.NewFile(uintptr(m), "/dev/ptmx") // blocking: a descriptor's reads are timed
	if err := unix.IoctlSetPointerInt(m, unix.TIOCSPTLCK, 0); err != nil {
		master.Close()
		return nil, nil, fmt.Errorf("unlock the terminal: %w", err)
	}
	t, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(m), unix.TIOCGPTPEER, unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC)
	if errno != 0 {
		master.Close()
		return nil, nil, fmt.Errorf("open the terminal: %w", errno)
	}
	tty = os.NewFile(t, "terminal")
	if err := unix.IoctlSetWinsize(m, unix.TIOCSWINSZ, &unix.Winsize{Row: 24, Col: 80}); err != nil {
		master.Close()
		tty.Close()
		return nil, nil, fmt.Errorf("size the terminal: %w", err)
	}
	return master, tty, nil
}

// onPTY starts argv with a terminal as its controlling one, and returns the master, owned by the caller, and its descriptor.
func onPTY(argv ...string) (cmd *exec.Cmd, master *os.File, fd int, err error) {
	master, tty, err := newPTY()
	if err != nil {
		return nil, nil, -1, err
	}
	defer tty.Close()
	cmd = exec.Command(argv[0], argv[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = tty, tty, tty
	cmd.Env = append(os.Environ(), "TERM=xterm-256color")
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	if err := cmd.Start(); err != nil {
		master.Close()
		return nil, nil, -1, err
	}
	raw, err := master.SyscallConn()
	if err == nil {
		err = raw.Control(func(n uintptr) { fd = int(n) })
	}
	if err != nil {
		master.Close()
		cmd.Process.Kill()
		cmd.Wait()
		return nil, nil, -1, err
	}
	return cmd, master, fd, nil
}
