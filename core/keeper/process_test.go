package keeper

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"

	"github.com/muxd/muxd/core/keeper/keeperpb"
	"github.com/muxd/muxd/internal/fd"
)

func TestSignal(t *testing.T) {
	_, a := ready(t, setup{})
	// A group of two: the leader exits on SIGTERM, the other stays until SIGKILL.
	_, r, err := a.launch(sh("p", `(trap '' TERM; echo $(exec sh -c 'echo $PPID'); exec sleep 1000) & trap 'exit 9' TERM; echo ready; wait`))
	if err != nil {
		t.Fatal(err)
	}
	var other int
	for range 2 {
		if s := line(t, r); s != "ready" {
			fmt.Sscan(s, &other)
		}
	}
	n := pidfd(t, other)
	if err := a.Signal(a.ctx(), "p", 0, true); err != nil {
		t.Errorf("signal 0 to the group: %v", err)
	}
	if err := a.Signal(a.ctx(), "p", unix.SIGTERM, false); err != nil {
		t.Fatal(err)
	}
	if ws := syscall.WaitStatus(a.exited("p").GetStatus()); ws.ExitStatus() != 9 {
		t.Errorf("status %#x", ws)
	}
	if err := a.Signal(a.ctx(), "p", unix.SIGTERM, false); !errors.Is(err, syscall.ESRCH) {
		t.Errorf("signal to a reaped process: %v", err)
	}
	if err := a.Signal(a.ctx(), "p", 0, true); err != nil {
		t.Errorf("the group lives: %v", err)
	}
	if err := a.Signal(a.ctx(), "p", unix.SIGKILL, true); err != nil {
		t.Errorf("kill the group: %v", err)
	}
	gone(t, n, 0)
	for _, c := range []struct {
		key  string
		sig  syscall.Signal
		want syscall.Errno
	}{{"p", unix.SIGKILL, unix.ESRCH}, {"none", unix.SIGKILL, unix.ESRCH}} {
		if err := a.Signal(a.ctx(), c.key, c.sig, true); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", c.key, err, c.want)
		}
	}
	p, _, err := a.launch(sh("q", "sleep 1000"))
	if err != nil {
		t.Fatal(err)
	}
	if err := a.Signal(a.ctx(), "q", 200, false); !errors.Is(err, syscall.EINVAL) {
		t.Errorf("signal 200: %v", err)
	}
	if err := a.Forget(a.ctx(), "q"); !errors.Is(err, syscall.EBUSY) || !strings.Contains(err.Error(), fmt.Sprint(p.GetPid())) {
		t.Errorf("forget a process that runs: %v", err)
	}
	if err := a.Signal(a.ctx(), "q", unix.SIGKILL, true); err != nil {
		t.Fatal(err)
	}
	if ws := syscall.WaitStatus(a.exited("q").GetStatus()); ws.Signal() != unix.SIGKILL {
		t.Errorf("status %#x", ws)
	}
}

// orphan makes the keeper the reaper of a process that nobody spawned by key, and returns its pid, a pidfd,
// and the pipe of which it reads a line before it exits with 3.
func orphan(t *testing.T, a *testAgent) (pid, n int, w *fd.FD) {
	t.Helper()
	in, w, err := fd.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { w.Close() })
	defer in.Close()
	out, outW, err := fd.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	s := sh("parent", `exec 3<&0; (read x <&3; exit 3) & echo $!`)
	if _, err := a.Spawn(a.ctx(), s, []int{in.Int(), outW.Int(), outW.Int()}); err != nil {
		t.Fatal(err)
	}
	outW.Close()
	a.exited("parent")
	a.Forget(a.ctx(), "parent")
	f := out.File("out")
	defer f.Close()
	fmt.Sscan(line(t, f), &pid)
	return pid, pidfd(t, pid), w
}

func TestOrphansAreReaped(t *testing.T) {
	k, a := ready(t, setup{})
	pid, n, w := orphan(t, a)
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil || strings.Fields(string(stat))[3] != fmt.Sprint(k.pid()) {
		t.Errorf("parent of the orphan: %s, %v", stat, err)
	}
	w.Close()
	gone(t, n, 0)
}

func TestWatchForeignProcess(t *testing.T) {
	_, a := ready(t, setup{})
	for i, c := range []struct {
		script string
		want   int
	}{{"read x; exit 3", 3 << 8}, {"read x; kill -9 $$", 9}} {
		key := fmt.Sprint("w", i)
		cmd := exec.Command("sh", "-c", c.script)
		cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
		in, err := cmd.StdinPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		n := pidfd(t, cmd.Process.Pid)
		p, err := a.Watch(a.ctx(), key, cmd.Process.Pid, []byte("mine"), n)
		if err != nil || p.GetExited() || int(p.GetPid()) != cmd.Process.Pid {
			t.Fatalf("watch: %v, %v", p, err)
		}
		if again, err := a.Watch(a.ctx(), key, 1, nil, n); err != nil || !proto.Equal(again, p) {
			t.Errorf("watch again: %v, %v", again, err)
		}
		if _, err := a.Watch(a.ctx(), "other", cmd.Process.Pid, nil, n); !errors.Is(err, syscall.EEXIST) {
			t.Errorf("watch under another key: %v", err)
		}
		for _, group := range []bool{false, true} {
			if err := a.Signal(a.ctx(), key, 0, group); err != nil {
				t.Errorf("signal, group %v: %v", group, err)
			}
		}
		in.Close()
		gone(t, n, unix.POLLIN) // it has exited, and is not reaped
		p = a.exited(key)       // at once, however long its own parent takes to reap it
		if !p.GetStatusKnown() || int(p.GetStatus()) != c.want || string(p.GetNote()) != "mine" {
			t.Errorf("exit %v, want status %#x", p, c.want)
		}
		cmd.Wait()
		known := exitInfoKnown(n)
		if err := a.Signal(a.ctx(), key, 0, false); !errors.Is(err, syscall.ESRCH) {
			t.Errorf("signal after the end: %v", err)
		}
		// The process is over before the watch begins.
		late, err := a.Watch(a.ctx(), key+"late", cmd.Process.Pid, nil, n)
		if err != nil {
			t.Errorf("late watch: %v, %v", late, err)
		}
		if p := a.exited(key + "late"); p.GetStatusKnown() != known || known && int(p.GetStatus()) != c.want {
			t.Errorf("late exit %v", p)
		}
	}
}

// exitInfoKnown says whether this kernel tells the status of a reaped process.
func exitInfoKnown(n int) bool {
	ws, _ := exitInfo(n)
	return ws != nil
}

func TestWatchOrphan(t *testing.T) {
	_, a := ready(t, setup{})
	pid, n, w := orphan(t, a)
	if _, err := a.Watch(a.ctx(), "orphan", pid, nil, n); err != nil {
		t.Fatal(err)
	}
	w.Close()
	p := a.exited("orphan")
	if !p.GetStatusKnown() || p.GetStatus() != 3<<8 || p.GetMaxRssKib() == 0 {
		t.Errorf("exit %v", p)
	}
}

// A watch can be ended while the process runs; what becomes of it is nobody's business then.
func TestForgetWatched(t *testing.T) {
	_, a := ready(t, setup{})
	cmd := exec.Command("sh", "-c", "read x")
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	n := pidfd(t, cmd.Process.Pid)
	for range 2 {
		if _, err := a.Watch(a.ctx(), "w", cmd.Process.Pid, nil, n); err != nil {
			t.Fatal(err)
		}
		if err := a.Forget(a.ctx(), "w"); err != nil {
			t.Fatal(err)
		}
	}
	if _, procs, err := a.List(a.ctx()); err != nil || len(procs) != 0 {
		t.Errorf("left: %v %v", procs, err)
	}
	in.Close()
	cmd.Wait()
}

func TestWatchRefuses(t *testing.T) {
	_, a := ready(t, setup{})
	n := pidfd(t, os.Getpid())
	if _, err := a.Watch(a.ctx(), "x", 1, nil, n); !errors.Is(err, syscall.EINVAL) {
		t.Errorf("another pid: %v", err)
	}
	if _, err := a.Watch(a.ctx(), "x", os.Getpid(), nil, a.socks[0].Int()); !errors.Is(err, syscall.EINVAL) {
		t.Errorf("no pidfd: %v", err)
	}
	if _, procs, err := a.List(a.ctx()); err != nil || len(procs) != 0 {
		t.Errorf("left: %v %v", procs, err)
	}
}

// TestExitComesAfterReply looks for an exit that overtakes the reply to its spawn, and for any that is lost.
func TestExitComesAfterReply(t *testing.T) {
	k, a := ready(t, setup{})
	null := []int{}
	f, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	n, err := fd.DupFile(f)
	if err != nil {
		t.Fatal(err)
	}
	defer n.Close()
	null = append(null, n.Int(), n.Int(), n.Int())
	before := openFDs(t, k.pid())
	const each, workers = 20, 8
	errs := make(chan error, workers)
	for w := range workers {
		go func() {
			for i := range each {
				s := command(fmt.Sprint(w, "-", i), "/bin/sh", "-c", fmt.Sprintf("(exit 1)& exit %d", i))
				if w%4 == 0 && i%5 == 0 {
					s.Path = []byte("/no/such")
				}
				if _, err := a.Spawn(a.ctx(), s, null); err != nil && string(s.Path) != "/no/such" {
					errs <- err
					return
				}
			}
			errs <- nil
		}()
	}
	for range workers {
		if err := <-errs; err != nil {
			t.Fatal(err)
		}
	}
	want := each*workers - 2*each/5
	seen := map[string]*keeperpb.Process{}
	for len(seen) < want {
		p := <-a.exits
		seen[p.GetKey()] = p
		var w, i int
		fmt.Sscanf(p.GetKey(), "%d-%d", &w, &i)
		if !p.GetStatusKnown() || int(p.GetStatus()) != i<<8 {
			t.Errorf("exit %v", p)
		}
		if err := a.Forget(a.ctx(), p.GetKey()); err != nil {
			t.Error(err)
		}
	}
	if after := openFDs(t, k.pid()); after > before {
		t.Errorf("the keeper has %d descriptors, before %d", after, before)
	}
	a.stop()
}

func openFDs(t *testing.T, pid int) int {
	t.Helper()
	names, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
	if err != nil {
		t.Fatal(err)
	}
	return len(names)
}
