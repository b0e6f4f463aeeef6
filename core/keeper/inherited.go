package keeper

import (
	"fmt"
	"math"
	"os"
	"os/signal"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// closeInherited marks every descriptor above 2 close-on-exec, so that what the keeper's own parent left open
// reaches no child. CLOSE_RANGE_CLOEXEC is of Linux 5.11 (close_range(2)).
func closeInherited() error {
	if unix.CloseRange(3, math.MaxInt32, unix.CLOSE_RANGE_CLOEXEC) == nil {
		return nil
	}
	dir, err := os.Open("/proc/self/fd")
	if err != nil {
		return fmt.Errorf("list inherited descriptors: %w", err)
	}
	defer dir.Close()
	names, err := dir.Readdirnames(-1)
	if err != nil {
		return fmt.Errorf("list inherited descriptors: %w", err)
	}
	for _, name := range names {
		if n, err := strconv.Atoi(name); err == nil && n > 2 {
			unix.CloseOnExec(n)
		}
	}
	return nil
}

// takeIgnored takes the signals that the keeper was started with ignored (nohup(1), a shell's background job,
// a supervisor), and drops them. An ignored signal stays ignored over execve(2), but one that os/signal
// handles is set back to its default in a forked child by the Go runtime, and that is what a child shall
// have. To the keeper itself they mean as little as before. SIGHUP, SIGINT and SIGTERM are handled besides,
// ignored or not.
func takeIgnored() error {
	ignored, err := IgnoredSignals(os.Getpid())
	if err != nil {
		return fmt.Errorf("find the ignored signals: %w", err)
	}
	ignored = slices.DeleteFunc(ignored, func(s os.Signal) bool {
		n := s.(syscall.Signal)
		if n != sigCancel && n != sigSetxid {
			return false
		}
		// The Go runtime leaves these two to the C library, and Notify does nothing. The C library's posix_spawn(3), which
		// make(1) uses, starts programs with them ignored.
		var dfl [8]uintptr // at least as large as the kernel's struct sigaction, all zero: SIG_DFL
		unix.RawSyscall6(unix.SYS_RT_SIGACTION, uintptr(n), uintptr(unsafe.Pointer(&dfl)), 0, 8, 0, 0)
		return true
	})
	if len(ignored) > 0 { // Notify of no signal would be of all
		signal.Notify(make(chan os.Signal, 1), ignored...)
	}
	return nil
}

// The C library's own signals (nptl(7)).
const (
	sigCancel = syscall.Signal(32)
	sigSetxid = syscall.Signal(33)
)

// IgnoredSignals returns the signals that a process ignores.
func IgnoredSignals(pid int) ([]os.Signal, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return nil, err
	}
	_, rest, found := strings.Cut(string(b), "\nSigIgn:\t") // proc_pid_status(5)
	hex, _, _ := strings.Cut(rest, "\n")
	mask, err := strconv.ParseUint(hex, 16, 64)
	if !found || err != nil {
		return nil, fmt.Errorf("find SigIgn in /proc/%d/status: %q", pid, hex)
	}
	var out []os.Signal
	for n := 1; n <= 64; n++ {
		if mask&(1<<(n-1)) != 0 {
			out = append(out, syscall.Signal(n))
		}
	}
	return out, nil
}
