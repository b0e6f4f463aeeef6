package keeper

import (
	"errors"
	"os"
	"os/exec"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

func TestOpenProcess(t *testing.T) {
	me, err := StartTime(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	f, err := OpenProcess(os.Getpid(), me)
	if err != nil {
		t.Fatal(err)
	}
	if pid, err := pidOf(f.Int()); err != nil || pid != os.Getpid() {
		t.Errorf("the pidfd is of %d (%v), want %d", pid, err, os.Getpid())
	}
	if HasExited(f) {
		t.Error("this process has exited")
	}
	f.Close()
	if _, err := OpenProcess(os.Getpid(), me+1); !errors.Is(err, syscall.ESRCH) {
		t.Errorf("a process that was started at another time: %v, want ESRCH", err)
	}

	cmd := exec.Command("cat")
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	pid := cmd.Process.Pid
	started, err := StartTime(pid)
	if err != nil {
		t.Fatal(err)
	}
	in.Close()
	if err := unix.Waitid(unix.P_PID, pid, nil, unix.WEXITED|unix.WNOWAIT, nil); err != nil {
		t.Fatal(err)
	}
	f, err = OpenProcess(pid, started) // it has exited, and can still be asked for its status
	if err != nil {
		t.Fatalf("a process that was not reaped: %v", err)
	}
	if !HasExited(f) {
		t.Error("a process that was not reaped has not exited")
	}
	f.Close()
	if err := cmd.Wait(); err != nil {
		t.Fatal(err)
	}
	if _, err := OpenProcess(pid, started); !errors.Is(err, syscall.ESRCH) {
		t.Errorf("a process that was reaped: %v, want ESRCH", err)
	}
	if _, err := StartTime(pid); !errors.Is(err, syscall.ESRCH) {
		t.Errorf("the start of a process that was reaped: %v, want ESRCH", err)
	}
}
