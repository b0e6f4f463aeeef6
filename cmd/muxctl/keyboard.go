package main

import (
	"errors"
	"fmt"
	"os"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// keyboard reads the user's terminal by a description of its own, which does not block. An epoll set of that and of a stopper is
// what Go's netpoller waits for, which would be told of the terminal's output too otherwise. Somebody waits for each key, and the thread that
// the netpoller wakes goes on with it; no call here waits, so Go's scheduler is told of none.
type keyboard struct {
	fd    int
	watch *os.File // the epoll set
	raw   syscall.RawConn
	held  bool // watch has a deadline

	ready [2]unix.EpollEvent
	n     int
	err   error
	look  func(ep uintptr) bool
}

// newKeyboard opens the terminal fd again, and fails where that is not allowed (the terminal of another user). stop calls off its waits.
func newKeyboard(fd int, stop *stopper) (*keyboard, error) {
	own, err := unix.Open(fmt.Sprintf("/proc/self/fd/%d", fd), unix.O_RDONLY|unix.O_NOCTTY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open the terminal again: %w", err)
	}
	k := &keyboard{fd: own}
	ep, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err == nil {
		err = unix.SetNonblock(ep, true) // what os.NewFile knows a descriptor for the netpoller by
		k.watch = os.NewFile(uintptr(ep), "keyboard")
		for _, n := range []int{own, stop.fd} {
			if err == nil {
				err = unix.EpollCtl(ep, unix.EPOLL_CTL_ADD, n, &unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(n)})
			}
		}
	}
	if err == nil {
		k.raw, err = k.watch.SyscallConn()
	}
	if err != nil {
		k.close()
		return nil, fmt.Errorf("watch the terminal: %w", err)
	}
	k.look = func(ep uintptr) bool {
		n, _, errno := unix.RawSyscall6(unix.SYS_EPOLL_PWAIT, ep, uintptr(unsafe.Pointer(&k.ready[0])), uintptr(len(k.ready)), 0, 0, 0)
		k.n, k.err = int(n), nil
		switch {
		case errno == unix.EINTR:
			return false
		case errno != 0:
			k.n, k.err = 0, errno
		}
		return n != 0
	}
	return k, nil
}

func (k *keyboard) close() {
	unix.Close(k.fd)
	k.watch.Close()
}

// wait is stopper.wait for what is typed; timeout is 0 for none.
func (k *keyboard) wait(timeout time.Duration) (int16, error) {
	if k.held || timeout > 0 {
		var until time.Time
		if k.held = timeout > 0; k.held {
			until = time.Now().Add(timeout)
		}
		if err := k.watch.SetReadDeadline(until); err != nil {
			return 0, err
		}
	}
	err := k.raw.Read(k.look)
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded):
		return 0, nil
	case err != nil:
		return 0, err
	case k.err != nil:
		return 0, os.NewSyscallError("epoll_pwait", k.err)
	}
	revents := int16(0)
	for _, e := range k.ready[:k.n] {
		if int(e.Fd) != k.fd {
			return 0, errStopped
		}
		revents = int16(e.Events)
	}
	return revents, nil
}

// read is readKeys.
func (k *keyboard) read(revents int16, p []byte) (int, error) {
	var waiting int32
	_, _, errno := unix.RawSyscall(unix.SYS_IOCTL, uintptr(k.fd), unix.TIOCINQ, uintptr(unsafe.Pointer(&waiting)))
	if errno == 0 && waiting <= keysAtOnce {
		p = p[:1]
	}
	n, _, errno := unix.RawSyscall(unix.SYS_READ, uintptr(k.fd), uintptr(unsafe.Pointer(&p[0])), uintptr(len(p)))
	return keysRead(int(n), errno, true, revents)
}
