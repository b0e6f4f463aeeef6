package pty

import (
	"errors"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The calls below do not wait, and somebody waits for what they do: Go's scheduler is not told of them, since it wakes a thread of its own
// (sysmon) that looks after goroutines which are held up in a call.

// ioctlNow is ioctl(2) of a terminal, with a structure.
func ioctlNow(fd int, request uint, p unsafe.Pointer) error {
	if _, _, errno := unix.RawSyscall(unix.SYS_IOCTL, uintptr(fd), uintptr(request), uintptr(p)); errno != 0 {
		return errno
	}
	return nil
}

// writeNow is write(2) to a descriptor with O_NONBLOCK; p is not empty.
func writeNow(fd int, p []byte) (int, error) {
	for {
		n, _, errno := unix.RawSyscall(unix.SYS_WRITE, uintptr(fd), uintptr(unsafe.Pointer(&p[0])), uintptr(len(p)))
		if errno == 0 {
			return int(n), nil
		}
		if !errors.Is(errno, unix.EINTR) {
			return 0, errno
		}
	}
}
