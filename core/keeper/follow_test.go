package keeper

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/muxd/muxd/internal/fd"
)

// leaves spawns a process that leaves another one behind, which runs script, and returns the pid of that when the first one has exited.
// The second one begins only then: a shell reaps what has ended behind it.
func (a *testAgent) leaves(key, script string) int {
	a.t.Helper()
	s := sh(key, `setsid sh -c 'while kill -0 $1 2>/dev/null; do sleep 0.01; done; eval "$0"' "$0" $$ >/dev/null 2>&1 & echo $!; exit 3`)
	s.Argv = append(s.Argv, []byte(script))
	s.Detaches = true
	_, out, err := a.launch(s)
	if err != nil {
		a.t.Fatal(err)
	}
	pid, err := strconv.Atoi(line(a.t, out))
	if err != nil {
		a.t.Fatal(err)
	}
	if p := a.exited(key); syscall.WaitStatus(p.GetStatus()).ExitStatus() != 3 || !p.GetDetaches() {
		a.t.Fatalf("%s: %v", key, p)
	}
	return pid
}

// zombie waits until the process has exited, and says whether it waits to be reaped.
func zombie(t *testing.T, pid int) bool {
	t.Helper()
	n, err := unix.PidfdOpen(pid, 0)
	if err == unix.ESRCH {
		return false
	}
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(n)
	gone(t, n, unix.POLLIN)
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	return err == nil && strings.Contains(string(b), ") Z ")
}

func TestFollowWhatHasExited(t *testing.T) {
	k, a := ready(t, setup{})
	pid := a.leaves("runtime", "exit 9")
	if !zombie(t, pid) {
		t.Fatal("it was reaped before anybody could follow it")
	}
	// What is known is reaped all the same.
	if _, p := a.output(sh("other", "exit 4")); syscall.WaitStatus(p.GetStatus()).ExitStatus() != 4 {
		t.Errorf("other: %v", p)
	}
	// An agent that is killed meanwhile loses nothing.
	unix.Kill(a.pid, unix.SIGKILL)
	a = k.agent()
	p, err := a.Follow(a.ctx(), "container", "runtime", pid, -1)
	if err != nil || int(p.GetPid()) != pid {
		t.Fatalf("follow: %v, %v", p, err)
	}
	end := a.exited("container")
	if ws := syscall.WaitStatus(end.GetStatus()); !end.GetStatusKnown() || ws.ExitStatus() != 9 {
		t.Errorf("exit: %v", end)
	}
	if again, err := a.Follow(a.ctx(), "container", "runtime", pid, -1); err != nil || !again.GetExited() {
		t.Errorf("follow it again: %v, %v", again, err)
	}
	a.stop()
}

func TestFollowWhatRuns(t *testing.T) {
	_, a := ready(t, setup{})
	pid := a.leaves("runtime", "exec sleep 1000")
	stray := a.leaves("stray", "exit 1")
	if _, err := a.Follow(a.ctx(), "container", "runtime", pid, -1); err != nil {
		t.Fatal(err)
	}
	for _, bad := range []struct {
		pid  int
		want syscall.Errno
	}{
		{os.Getpid(), syscall.ECHILD}, {1 << 22, syscall.ECHILD}, {pid, syscall.EEXIST}, {a.pid, syscall.EEXIST}, {0, syscall.EINVAL},
	} {
		if _, err := a.Follow(a.ctx(), "bad", "runtime", bad.pid, -1); !errors.Is(err, bad.want) {
			t.Errorf("follow %d: %v, want %v", bad.pid, err, bad.want)
		}
	}
	if _, err := a.Follow(a.ctx(), "bad", "runtime", os.Getpid(), pidfd(t, os.Getpid())); !errors.Is(err, syscall.ECHILD) {
		t.Errorf("somebody else's process, with its pidfd: %v", err)
	}
	if err := a.Signal(a.ctx(), "container", syscall.SIGTERM, true); err != nil {
		t.Error(err)
	}
	if ws := syscall.WaitStatus(a.exited("container").GetStatus()); ws.Signal() != syscall.SIGTERM {
		t.Errorf("exit: %v", ws)
	}
	// What nobody wants is reaped when nobody can want it any more.
	a.Forget(a.ctx(), "runtime")
	if !zombie(t, stray) {
		t.Error("the other one's was reaped too early")
	}
	reaped := pidfd(t, stray)
	a.Forget(a.ctx(), "stray")
	gone(t, reaped, 0)
	a.leaves("late", "exit 1") // the end does not wait for what is kept
	a.stop()
}

// TestFollowBeforeItIsAChild has the runtime leave a process in between, which ends later.
func TestFollowBeforeItIsAChild(t *testing.T) {
	_, a := ready(t, setup{})
	dir := t.TempDir()
	between := a.leaves("runtime", `sh -c "until [ -e `+dir+`/end ]; do sleep 0.01; done; exit 9" & echo $! >`+dir+`/pid.new; mv `+dir+`/pid.new `+dir+`/pid; until [ -e `+dir+`/go ]; do sleep 0.01; done`)
	var pid int
	for deadline := time.Now().Add(patience); pid == 0; {
		b, _ := os.ReadFile(dir + "/pid")
		pid, _ = strconv.Atoi(strings.TrimSpace(string(b)))
		if time.Now().After(deadline) {
			t.Fatal("no pid")
		}
	}
	if _, err := a.Follow(a.ctx(), "container", "runtime", pid, pidfd(t, pid)); err != nil {
		t.Fatal(err)
	}
	if err := a.Forget(a.ctx(), "runtime"); err != nil {
		t.Fatal(err)
	}
	reaped := pidfd(t, between)
	os.WriteFile(dir+"/go", nil, 0o600)
	gone(t, reaped, 0)
	os.WriteFile(dir+"/end", nil, 0o600)
	if ws := syscall.WaitStatus(a.exited("container").GetStatus()); ws.ExitStatus() != 9 {
		t.Errorf("exit: %v", ws)
	}
	a.stop()
}

func TestFollowWhatLeadsNoGroup(t *testing.T) {
	_, a := ready(t, setup{})
	s := sh("runtime", `sleep 1000 >/dev/null 2>&1 & echo $!`)
	s.Detaches = true
	_, out, err := a.launch(s)
	if err != nil {
		t.Fatal(err)
	}
	pid, _ := strconv.Atoi(line(t, out))
	a.exited("runtime")
	if _, err := a.Follow(a.ctx(), "container", "runtime", pid, -1); err != nil {
		t.Fatal(err)
	}
	if err := a.Signal(a.ctx(), "container", syscall.SIGKILL, true); err != nil {
		t.Error(err)
	}
	if ws := syscall.WaitStatus(a.exited("container").GetStatus()); ws.Signal() != syscall.SIGKILL {
		t.Errorf("exit: %v", ws)
	}
	a.stop()
}

// TestFollowOverUpgrade has the keeper go on as another program while nobody has followed yet.
func TestFollowOverUpgrade(t *testing.T) {
	k, a := ready(t, setup{})
	pid := a.leaves("runtime", "exit 9")
	exe, err := os.Open("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	defer exe.Close()
	f, err := fd.DupFile(exe)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	go a.Upgrade(a.ctx(), f.Int()) // it returns when the next agent is there
	a = k.agent()
	if _, err := a.Follow(a.ctx(), "container", "runtime", pid, -1); err != nil {
		t.Fatal(err)
	}
	if ws := syscall.WaitStatus(a.exited("container").GetStatus()); ws.ExitStatus() != 9 {
		t.Errorf("exit: %v", ws)
	}
	a.stop()
}

func TestAccept(t *testing.T) {
	k, a := ready(t, setup{})
	path := filepath.Join(t.TempDir(), "s")
	l, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(l)
	if err := errors.Join(unix.Bind(l, &unix.SockaddrUnix{Name: path}), unix.Listen(l, 4)); err != nil {
		t.Fatal(err)
	}
	if err := a.Hold(a.ctx(), "listener", nil, l); err != nil {
		t.Fatal(err)
	}
	if err := a.Accept(a.ctx(), "listener", "conn"); !errors.Is(err, syscall.EAGAIN) {
		t.Errorf("accept while nobody connects: %v", err)
	}
	if err := a.Accept(a.ctx(), "nobody", "conn"); !errors.Is(err, syscall.ENOENT) {
		t.Errorf("accept from nothing: %v", err)
	}
	if err := a.Arm(a.ctx(), []string{"listener"}); err != nil {
		t.Fatal(err)
	}
	c, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(c)
	if err := unix.Connect(c, &unix.SockaddrUnix{Name: path}); err != nil {
		t.Fatal(err)
	}
	if name := <-a.stirs; name != "listener" {
		t.Fatalf("stirred: %s", name)
	}
	if err := a.Accept(a.ctx(), "listener", "conn"); err != nil {
		t.Fatal(err)
	}
	unix.Kill(a.pid, unix.SIGKILL)
	a = k.agent()
	conn, err := a.Fetch(a.ctx(), "conn")
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := unix.Write(c, []byte("x")); err != nil {
		t.Errorf("the connection broke with the agent: %v", err)
	}
	unix.SetNonblock(l, false)
	if err := a.Accept(a.ctx(), "listener", "conn"); !errors.Is(err, syscall.EINVAL) {
		t.Errorf("accept where it may block: %v", err)
	}
	a.stop()
}
