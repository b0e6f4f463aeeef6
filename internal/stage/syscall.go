package stage

import (
	"errors"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The calls below do not wait: they find what they want in a pipe or terminal, or fail with EAGAIN. So Go's scheduler is not told of
// them. Told, it has a thread of its own (sysmon) look every 20 µs for goroutines that are held up in a call, as
// long as there are any in one, and for a stream of small chunks that costs a quarter of the CPU.

// splice moves at most n bytes.
func splice(from, to, n int) (int, error) {
	for {
		k, _, errno := unix.RawSyscall6(unix.SYS_SPLICE, uintptr(from), 0, uintptr(to), 0, uintptr(n), unix.SPLICE_F_NONBLOCK|unix.SPLICE_F_MOVE)
		if errno == 0 {
			return int(k), nil
		}
		if !errors.Is(errno, unix.EINTR) {
			return 0, errno
		}
	}
}

// tee copies at most n bytes from pipe to pipe.
func tee(from, to, n int) (int, error) {
	for {
		k, _, errno := unix.RawSyscall6(unix.SYS_TEE, uintptr(from), uintptr(to), uintptr(n), unix.SPLICE_F_NONBLOCK, 0, 0)
		if errno == 0 {
			return int(k), nil
		}
		if !errors.Is(errno, unix.EINTR) {
			return 0, errno
		}
	}
}

// readNow reads from a pipe that has something; b is not empty.
func readNow(from int, b []byte) (int, error) {
	for {
		k, _, errno := unix.RawSyscall(unix.SYS_READ, uintptr(from), uintptr(unsafe.Pointer(&b[0])), uintptr(len(b)))
		if errno == 0 {
			return int(k), nil
		}
		if !errors.Is(errno, unix.EINTR) {
			return 0, errno
		}
	}
}

// pending is how much is in the pipe that n is an end of (FIONREAD, pipe(7), which has TIOCINQ's number), or in a terminal.
func pending(n int) (int, error) {
	var k int32
	_, _, errno := unix.RawSyscall(unix.SYS_IOCTL, uintptr(n), unix.TIOCINQ, uintptr(unsafe.Pointer(&k)))
	if errno != 0 {
		return 0, errno
	}
	return int(k), nil
}

// isUnix says whether a descriptor is a Unix socket.
func isUnix(n int) bool {
	domain, err := unix.GetsockoptInt(n, unix.SOL_SOCKET, unix.SO_DOMAIN)
	return err == nil && domain == unix.AF_UNIX
}

// yield lets another thread have the CPU.
func yield() { unix.RawSyscall(unix.SYS_SCHED_YIELD, 0, 0, 0) }

// epollNow tells what the epoll set ep has ready, at most as much as fits into events.
func epollNow(ep int, events []unix.EpollEvent) (int, error) {
	for {
		n, _, errno := unix.RawSyscall6(unix.SYS_EPOLL_PWAIT, uintptr(ep), uintptr(unsafe.Pointer(&events[0])), uintptr(len(events)), 0, 0, 0)
		if errno == 0 {
			return int(n), nil
		}
		if !errors.Is(errno, unix.EINTR) {
			return -1, errno
		}
	}
}
