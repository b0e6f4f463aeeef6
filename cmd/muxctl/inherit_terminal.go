package main

import (
	"bytes"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// jobTerminal is muxctl's controlling terminal, which it lends to a child.
type jobTerminal struct {
	fd    int
	own   int           // muxctl's process group
	modes *unix.Termios // as they were when muxctl last had the terminal
	given bool          // lent to the child's group, or to one that the child has made
	child *unix.Termios // the modes that the child left when the terminal was last taken from it
}

// openJobTerminal opens muxctl's controlling terminal (tty(4)) and notes its modes.
func openJobTerminal() (*jobTerminal, error) {
	fd, err := unix.Open("/dev/tty", unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open the controlling terminal, /dev/tty: %w", err)
	}
	t := &jobTerminal{fd: fd, own: unix.Getpgrp()}
	if t.modes, err = unix.IoctlGetTermios(fd, unix.TCGETS); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("get the modes of the controlling terminal: %w", err)
	}
	return t, nil
}

func (t *jobTerminal) close() { unix.Close(t.fd) }

// foreground is the terminal's foreground process group, or -1 when it has been hung up.
func (t *jobTerminal) foreground() int {
	pgrp, err := unix.IoctlGetInt(t.fd, unix.TIOCGPGRP)
	if err != nil {
		return -1
	}
	return pgrp
}

// give makes pgrp the foreground group, and gives it the modes that it had when the terminal was taken from it.
func (t *jobTerminal) give(pgrp int) {
	if modes, err := unix.IoctlGetTermios(t.fd, unix.TCGETS); err == nil {
		t.modes = modes
	}
	t.change(func() {
		if t.child != nil {
			unix.IoctlSetTermios(t.fd, unix.TCSETS, t.child)
		}
		unix.IoctlSetPointerInt(t.fd, unix.TIOCSPGRP, pgrp)
	})
	t.given = true
}

// takeBack makes muxctl's own group the foreground group and restores the modes, where the terminal has been given
// away and the shell has not taken it meanwhile (it does when muxctl is stopped with SIGSTOP). Errors are not
// looked at: a terminal that has been hung up has nothing to restore.
func (t *jobTerminal) takeBack() {
	if !t.given {
		return
	}
	t.given = false
	if shell, err := unix.Getpgid(unix.Getppid()); err == nil && shell != t.own && shell == t.foreground() {
		return
	}
	t.child, _ = unix.IoctlGetTermios(t.fd, unix.TCGETS)
	t.change(func() {
		unix.IoctlSetPointerInt(t.fd, unix.TIOCSPGRP, t.own)
		unix.IoctlSetTermios(t.fd, unix.TCSETS, t.modes)
	})
}

// change calls f, which changes the terminal, on a thread that has SIGTTOU blocked: a process of a background group may
// change a terminal only so, and would be stopped otherwise (tcsetpgrp(3)). The thread's own mask is put back.
func (t *jobTerminal) change(f func()) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var block, before unix.Sigset_t
	bits := 8 * unsafe.Sizeof(block.Val[0])
	n := uintptr(unix.SIGTTOU) - 1
	block.Val[n/bits] |= 1 << (n % bits)
	unix.PthreadSigmask(unix.SIG_BLOCK, &block, &before)
	defer unix.PthreadSigmask(unix.SIG_SETMASK, &before, nil)
	f()
}

// isControllingTerminal says whether fd is the controlling terminal of muxctl's session, on its terminal side.
func isControllingTerminal(fd int) bool {
	sid, err := unix.IoctlGetInt(fd, unix.TIOCGSID)
	if err != nil {
		return false
	}
	own, err := unix.Getsid(0)
	if err != nil || sid != own {
		return false
	}
	_, err = unix.IoctlGetInt(fd, unix.TIOCGPTN) // TIOCGSID answers on a master too; this on nothing else
	return err != nil
}

// orphaned says whether muxctl's process group has no member whose parent could continue it, such as a shell
// with job control: an ancestor outside the group, in the same session.
func orphaned() bool {
	group := unix.Getpgrp()
	session, _ := unix.Getsid(0)
	for pid := unix.Getppid(); ; {
		if sid, err := unix.Getsid(pid); err != nil || sid != session {
			return true
		}
		if pgrp, err := unix.Getpgid(pid); err != nil || pgrp != group {
			return err != nil
		}
		parent, err := parentOf(pid)
		if err != nil {
			return true
		}
		pid = parent
	}
}

// stopGroup stops muxctl's process group, as ^Z does, and returns when muxctl has been continued.
//
// A signal to one's own process may be taken by any of its threads, a moment later. So the others of the group (of a
// pipeline) get SIGTSTP while muxctl ignores it, and then this thread sends it to itself: a thread takes its own signals
// before it returns from tgkill(2), and one thread's stop is the process's.
func stopGroup() {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	before := setDisposition(unix.SIGTSTP, &sigaction{sigIgn})
	unix.Kill(0, unix.SIGTSTP)
	setDisposition(unix.SIGTSTP, &sigaction{sigDfl})
	unix.Tgkill(unix.Getpid(), unix.Gettid(), unix.SIGTSTP)
	setDisposition(unix.SIGTSTP, &before)
}

// sigaction is at least as large as the kernel's struct sigaction, which begins with the handler (except on MIPS).
type sigaction [8]uintptr

const (
	sigDfl = 0
	sigIgn = 1
)

// setDisposition sets what sig does, unless to is nil, and returns what it did. os/signal cannot give SIGTSTP its
// default back once it has been caught: the runtime's handler stays installed and ignores it.
func setDisposition(sig syscall.Signal, to *sigaction) (before sigaction) {
	unix.RawSyscall6(unix.SYS_RT_SIGACTION, uintptr(sig), uintptr(unsafe.Pointer(to)), uintptr(unsafe.Pointer(&before)), 8, 0, 0)
	return before
}

// ignored says whether sig is ignored now.
func ignored(sig syscall.Signal) bool { return setDisposition(sig, nil)[0] == sigIgn }

// parentOf is the parent of pid, the fourth field of /proc/PID/stat: behind the name, which may contain anything.
func parentOf(pid int) (int, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, err
	}
	fields := strings.Fields(string(text[bytes.LastIndexByte(text, ')')+1:]))
	if len(fields) < 2 {
		return 0, fmt.Errorf("/proc/%d/stat: %q", pid, text)
	}
	return strconv.Atoi(fields[1])
}
