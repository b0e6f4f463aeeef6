package keeper

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/muxd/muxd/internal/fd"
)

// A pid is given again once its process has been reaped. With the time of its start it names one process, for as long as
// the machine runs (BootID) and wherever it is written down.

// StartTime returns when the process pid was started, in clock ticks since the machine's start: field 22 of
// /proc/PID/stat (proc_pid_stat(5)). ESRCH where there is no such process.
func StartTime(pid int) (uint64, error) {
	b, err := readSmall(fmt.Sprintf("/proc/%d/stat", pid))
	if err == syscall.ENOENT {
		err = syscall.ESRCH // and it may end between open and read: the kernel says ESRCH then
	}
	if err != nil {
		return 0, fmt.Errorf("look at process %d: %w", pid, err)
	}
	// The name of the command is in brackets, and may hold brackets and blanks.
	fields := bytes.Fields(b[bytes.LastIndexByte(b, ')')+1:])
	if len(fields) < 20 {
		return 0, fmt.Errorf("look at process %d: its stat has too few fields", pid)
	}
	return strconv.ParseUint(string(fields[19]), 10, 64)
}

// readSmall is os.ReadFile for a file of /proc with a line or two, with three system calls and nothing beside them.
func readSmall(path string) ([]byte, error) {
	n, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	defer unix.Close(n)
	b := make([]byte, 1024)
	got, err := unix.Read(n, b)
	return b[:max(got, 0)], err
}

// OpenProcess returns a pidfd of the process that has this pid and was started at that time (StartTime), owned by the
// caller. ESRCH where that one has ended and been reaped; whether it waits to be, the pidfd can tell. started is 0 where the
// caller knows that the process has not been reaped.
func OpenProcess(pid int, started uint64) (*fd.FD, error) {
	n, err := unix.PidfdOpen(pid, 0)
	if err == unix.EINVAL || err == unix.ENOENT { // the number is a thread's now (pidfd_open(2))
		err = unix.ESRCH
	}
	if err != nil {
		return nil, fmt.Errorf("open process %d: %w", pid, err)
	}
	f := fd.New(n)
	if started == 0 {
		return f, nil
	}
	got, err := StartTime(pid)
	if err == nil && got != started {
		err = fmt.Errorf("open process %d: it is another one, started later: %w", pid, syscall.ESRCH)
	}
	if err == nil { // as long as the pidfd has the pid, what was read is of its process
		var still int
		if still, err = pidOf(n); err == nil && still != pid {
			err = fmt.Errorf("open process %d: %w", pid, syscall.ESRCH)
		}
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// HasExited says whether the process of a pidfd has exited, whether it was reaped or not (pidfd_open(2)).
func HasExited(pidfd *fd.FD) bool { return readable(pidfd.Int()) }

// BootID names this run of the machine (random(4)).
func BootID() (string, error) {
	b, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	return string(bytes.TrimSpace(b)), err
}
