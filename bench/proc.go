package main

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// parentOf is the parent of a process; also of a zombie.
func parentOf(pid int) (int, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, err
	}
	// The command, in parentheses, may have anything in it.
	f := strings.Fields(string(b[bytes.LastIndexByte(b, ')')+1:]))
	if len(f) < 2 {
		return 0, fmt.Errorf("/proc/%d/stat: too short", pid)
	}
	return strconv.Atoi(f[1])
}

// cpuTime is the CPU time of a process, threads that have ended included and children not, to the nanosecond; also of a
// zombie. The times in /proc/PID/stat come in hundredths of a second, which is a few percent of what is measured here.
func cpuTime(pid int) (time.Duration, error) {
	const sched = 2 // CPUCLOCK_SCHED: what clock_getcpuclockid(3) makes of a pid
	var ts unix.Timespec
	if err := unix.ClockGettime(int32(^pid<<3|sched), &ts); err != nil {
		return 0, fmt.Errorf("CPU time of %d: %w", pid, err)
	}
	return time.Duration(ts.Nano()), nil
}

// cpuOf adds up the CPU time of processes, those that are gone left out.
func cpuOf(pids []int) time.Duration {
	var sum time.Duration
	for _, pid := range pids {
		if cpu, err := cpuTime(pid); err == nil {
			sum += cpu
		}
	}
	return sum
}

// pssOf adds up the proportional set sizes of processes, in bytes.
func pssOf(pids []int) (int64, error) {
	var sum int64
	for _, pid := range pids {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
		if err != nil {
			return 0, err
		}
		sc := bufio.NewScanner(bytes.NewReader(b))
		for sc.Scan() {
			if f := strings.Fields(sc.Text()); len(f) == 3 && f[0] == "Pss:" {
				n, err := strconv.ParseInt(f[1], 10, 64)
				if err != nil {
					return 0, err
				}
				sum += n << 10
			}
		}
	}
	return sum, nil
}

// switchesOf adds up how often the threads of processes have been given a CPU.
func switchesOf(pids []int) (int64, error) {
	var sum int64
	for _, pid := range pids {
		tasks, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/status", pid))
		if err != nil {
			return 0, err
		}
		for _, path := range tasks {
			b, err := os.ReadFile(path)
			if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ESRCH) {
				continue // the thread has ended
			}
			if err != nil {
				return 0, err
			}
			for l := range strings.Lines(string(b)) {
				if f := strings.Fields(l); len(f) == 2 && strings.HasSuffix(f[0], "voluntary_ctxt_switches:") {
					n, _ := strconv.ParseInt(f[1], 10, 64)
					sum += n
				}
			}
		}
	}
	return sum, nil
}

// childrenOf lists the live processes whose parent is pid.
func childrenOf(pid int) []int {
	dirs, err := os.ReadDir("/proc")
	if err != nil {
		return nil
	}
	var out []int
	for _, d := range dirs {
		n, err := strconv.Atoi(d.Name())
		if err != nil {
			continue
		}
		if parent, err := parentOf(n); err == nil && parent == pid {
			out = append(out, n)
		}
	}
	return out
}

// waitFor reaps a child of this process and returns the CPU time that it took itself. An exit status that is not 0 is an error.
func waitFor(pid int) (time.Duration, error) {
	cpu, ws, err := waitAny(pid)
	if err == nil && (!ws.Exited() || ws.ExitStatus() != 0) {
		err = fmt.Errorf("process %d ended with wait status %#x", pid, int(ws))
	}
	return cpu, err
}

// waitAny is waitFor, whatever the exit status.
func waitAny(pid int) (cpu time.Duration, ws unix.WaitStatus, err error) {
	for {
		// It stays a zombie until its time has been read.
		err := unix.Waitid(unix.P_PID, pid, nil, unix.WEXITED|unix.WNOWAIT, nil)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return 0, 0, fmt.Errorf("wait for %d: %w", pid, err)
		}
		break
	}
	if cpu, err = cpuTime(pid); err != nil {
		return 0, 0, err
	}
	if _, err := unix.Wait4(pid, &ws, 0, nil); err != nil {
		return 0, 0, fmt.Errorf("reap %d: %w", pid, err)
	}
	return cpu, ws, nil
}
