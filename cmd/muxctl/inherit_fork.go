package main

import (
	"errors"
	"fmt"
	"math"
	"os"
	"os/signal"
	"runtime"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"
)

// fork starts c and returns its pid and a pidfd, owned by the caller. It blocks until the child's exec has succeeded or
// failed.
//
// The fork happens on a thread of its own, which ends with it: so the child has the umask that is asked for and no
// signal blocked, and no other thread of muxctl has either for a moment.
func (c *inheritedChild) fork(tty *jobTerminal) (pid, pidfd int, err error) {
	var files []uintptr
	defer func() {
		for _, n := range files {
			unix.Close(int(n))
		}
	}()
	for i, f := range c.Files {
		n, err := copyDescriptor(f)
		if err != nil {
			return 0, -1, fmt.Errorf("start %s: copy descriptor %d: %w", c.Path, i, err)
		}
		files = append(files, uintptr(n))
	}
	if err := closeOnExec(); err != nil {
		return 0, -1, fmt.Errorf("start %s: %w", c.Path, err)
	}
	attr := &syscall.ProcAttr{
		Dir:   c.Dir,
		Env:   c.Env,
		Files: files,
		Sys: &syscall.SysProcAttr{
			Setpgid:    true,
			Foreground: tty.given,
			Ctty:       tty.fd,
			Credential: c.Credential,
			PidFD:      &pidfd,
		},
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // and never unlocked
		defer defaultSignals()()
		unix.PthreadSigmask(unix.SIG_SETMASK, &unix.Sigset_t{}, nil)
		if c.Umask != nil {
			// Where a sandbox forbids unshare(2), the umask is all of muxctl's until it is put back.
			unix.Unshare(unix.CLONE_FS)
			defer syscall.Umask(syscall.Umask(*c.Umask))
		}
		pid, err = syscall.ForkExec(c.Path, c.Argv, attr)
	}()
	<-done
	if err != nil {
		return 0, -1, c.explain(err)
	}
	return pid, pidfd, nil
}

// explain says which of the two paths an error of chdir(2) or execve(2) is about.
func (c *inheritedChild) explain(err error) error {
	if c.Dir != "" {
		dir, statErr := os.Stat(c.Dir)
		if statErr != nil || !dir.IsDir() {
			return fmt.Errorf("start %s: change to directory %s: %w", c.Path, c.Dir, err)
		}
	}
	return fmt.Errorf("start %s: %w", c.Path, err)
}

// copyDescriptor returns a copy of f's descriptor, owned by the caller. It leaves f's blocking mode alone, unlike os.File.Fd.
func copyDescriptor(f *os.File) (int, error) {
	raw, err := f.SyscallConn()
	if err != nil {
		return -1, err
	}
	n, dupErr := -1, error(nil)
	err = raw.Control(func(from uintptr) { n, dupErr = unix.FcntlInt(from, unix.F_DUPFD_CLOEXEC, 3) })
	return n, errors.Join(err, dupErr)
}

// closeOnExec keeps descriptors that muxctl itself was started with from the child.
func closeOnExec() error {
	if unix.CloseRange(3, math.MaxInt32, unix.CLOSE_RANGE_CLOEXEC) == nil {
		return nil
	}
	entries, err := os.ReadDir("/proc/self/fd") // before Linux 5.11
	if err != nil {
		return fmt.Errorf("list own descriptors: %w", err)
	}
	for _, e := range entries {
		if n, err := strconv.Atoi(e.Name()); err == nil && n > 2 {
			unix.CloseOnExec(n)
		}
	}
	return nil
}

// defaultSignals sees to it that a child forked before the returned function is called has no signal ignored. A
// signal that is ignored stays so over execve(2), and one that is caught does not: so they are caught for the moment.
func defaultSignals() (restore func()) {
	var all []os.Signal
	for sig := syscall.Signal(1); sig < 32; sig++ {
		if ignored(sig) {
			all = append(all, sig)
		}
	}
	// The C library's own two (nptl(7)), which the Go runtime does not catch, and which posix_spawn(3) starts programs with
	// ignored. muxctl has no use for them either way.
	for _, sig := range []syscall.Signal{32, 33} {
		if ignored(sig) {
			setDisposition(sig, &sigaction{sigDfl})
		}
	}
	if len(all) == 0 {
		return func() {}
	}
	caught := make(chan os.Signal, 1)
	signal.Notify(caught, all...)
	return func() { signal.Ignore(all...) }
}
