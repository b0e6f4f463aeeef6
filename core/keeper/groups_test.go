package keeper

import (
	"bufio"
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/muxd/muxd/core/keeper/keeperpb"
	"github.com/muxd/muxd/internal/need"
)

// in is s with a cgroup of its own.
func in(cgroup string, s *keeperpb.Spawn) *keeperpb.Spawn {
	s.Cgroup = cgroup
	return s
}

// cgroupOf is the name of the cgroup of a process.
func cgroupOf(t *testing.T, pid int) string {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
	if err != nil {
		t.Fatal(err)
	}
	for line := range bytes.Lines(b) {
		if path, ok := bytes.CutPrefix(bytes.TrimSpace(line), []byte("0::")); ok {
			return filepath.Base(string(path))
		}
	}
	t.Fatalf("process %d is in no cgroup of version 2", pid)
	return ""
}

// stray spawns a process that leaves another behind in a session of its own, and returns both pids.
func (a *testAgent) stray(key, cgroup string) (leader, stray int) {
	a.t.Helper()
	p, out, err := a.launch(in(cgroup, sh(key, `setsid sh -c 'echo $$; exec sleep 1000' & exec sleep 1000`)))
	if err != nil {
		a.t.Fatal(err)
	}
	if _, err := fmt.Fscan(bufio.NewReader(out), &stray); err != nil {
		a.t.Fatal(err)
	}
	return int(p.GetPid()), stray
}

// awaitGone waits until a cgroup is removed. Nothing tells of that but its absence.
func awaitGone(t *testing.T, path string) {
	t.Helper()
	for deadline := time.Now().Add(patience); ; time.Sleep(time.Millisecond) {
		if _, err := os.Stat(path); os.IsNotExist(err) {
			return
		}
		if time.Now().After(deadline) {
			b, _ := os.ReadFile(filepath.Join(path, "cgroup.procs"))
			t.Fatalf("%s is not removed; in it: %q", path, b)
		}
	}
}

func TestGroups(t *testing.T) { testGroups(t, os.Geteuid()) }

func TestGroupsOfAnOrdinaryUser(t *testing.T) {
	root(t)
	testGroups(t, 65534)
}

func testGroups(t *testing.T, uid int) {
	tree := need.Cgroup(t, uid)
	s := setup{cgroup: tree}
	if uid != os.Geteuid() {
		s.uid = uint32(uid)
	}
	k, a := ready(t, s)
	for who, pid := range map[string]int{"keeper": k.pid(), "agent": a.pid} {
		if got := cgroupOf(t, pid); got != "muxd" {
			t.Errorf("the %s is in cgroup %s, want muxd's own", who, got)
		}
	}

	// Killed: also what is in no process group of it any more.
	leader, stray := a.stray("one", "child-one")
	for _, pid := range []int{leader, stray} {
		if got := cgroupOf(t, pid); got != "child-one" {
			t.Errorf("process %d is in cgroup %s, want child-one", pid, got)
		}
	}
	died := pidfd(t, stray)
	if err := a.Kill(a.ctx(), "one", "child-one"); err != nil {
		t.Fatal(err)
	}
	a.exited("one")
	gone(t, died, unix.POLLIN)
	if err := a.ForgetAll(a.ctx(), "one", "", "child-one"); err != nil {
		t.Error(err)
	}
	awaitGone(t, filepath.Join(tree, "child-one"))

	// Left behind: it goes on, and its cgroup stays as long as it does, for the next run too.
	leader, stray = a.stray("two/1", "child-two")
	unix.Kill(leader, unix.SIGKILL)
	a.exited("two/1")
	if err := a.ForgetAll(a.ctx(), "two/1", "", "child-two"); err != nil {
		t.Error(err)
	}
	if got := cgroupOf(t, stray); got != "child-two" {
		t.Errorf("what was left behind is in %s", got)
	}
	if _, end := a.output(in("child-two", sh("two/2", "exit 3"))); end.GetStatus()>>8 != 3 {
		t.Errorf("the next run: %v", end)
	}
	if err := a.ForgetAll(a.ctx(), "two/2", "", "child-two"); err != nil {
		t.Error(err)
	}
	unix.Kill(stray, unix.SIGKILL)
	awaitGone(t, filepath.Join(tree, "child-two"))

	// Not started: nothing stays.
	if _, _, err := a.launch(in("child-three", command("three", "/nowhere"))); err == nil {
		t.Error("a program that is not there was started")
	}
	awaitGone(t, filepath.Join(tree, "child-three"))

	// The end takes all, through an agent's stop. With limits, a process comes there as well.
	limited := in("child-five", sh("five", "exec sleep 1000"))
	limited.Rlimits = []*keeperpb.Rlimit{{Resource: unix.RLIMIT_CORE}}
	p, _, err := a.launch(limited)
	if err != nil {
		t.Fatal(err)
	}
	if got := cgroupOf(t, int(p.GetPid())); got != "child-five" {
		t.Errorf("with limits it is in %s", got)
	}
	_, stray = a.stray("four", "child-four")
	died = pidfd(t, stray)
	a.stop()
	gone(t, died, unix.POLLIN)
	left, _ := filepath.Glob(tree + "/*/")
	if len(left) > 0 {
		t.Errorf("left in the cgroup: %v", left)
	}
}

// A keeper that comes after one that was killed finds what there is: nothing has to be told to it.
func TestGroupsOfAKilledKeeper(t *testing.T) {
	root(t)
	tree := need.Cgroup(t, 0)
	dir := filepath.Join(t.TempDir(), "run")
	k, a := ready(t, setup{cgroup: tree, dir: dir})
	_, stray := a.stray("one", "child-one")
	_, other := a.stray("two", "child-two")
	if _, end := a.output(in("child-empty", sh("empty", ":"))); end.GetStatus() != 0 {
		t.Error(end)
	}
	agent := pidfd(t, a.pid)
	k.cmd.Process.Kill()
	k.wait()
	a.quit(0)
	gone(t, agent, unix.POLLIN)

	_, a = ready(t, setup{cgroup: tree, dir: dir})
	awaitGone(t, filepath.Join(tree, "child-empty"))
	died := pidfd(t, stray)
	if err := a.Kill(a.ctx(), "one", "child-one"); err != nil {
		t.Error(err)
	}
	gone(t, died, unix.POLLIN)
	awaitGone(t, filepath.Join(tree, "child-one"))
	died = pidfd(t, other)
	a.stop()
	gone(t, died, unix.POLLIN)
}

// A second muxd in one cgroup lets the first one's alone, and says so.
func TestGroupsOfAnother(t *testing.T) {
	root(t)
	tree := need.Cgroup(t, 0)
	_, a := ready(t, setup{cgroup: tree})
	k2, b := ready(t, setup{cgroup: tree})
	p, _, err := b.launch(in("child-one", sh("one", "sleep 1000")))
	if err != nil {
		t.Fatal(err)
	}
	if got := cgroupOf(t, int(p.GetPid())); got != filepath.Base(tree) {
		t.Errorf("the second one's child is in %s", got)
	}
	if !strings.Contains(k2.stderr.String(), "children get no cgroups of their own: cgroup "+tree+" is divided by the muxd of") {
		t.Errorf("it says: %s", k2.stderr)
	}
	b.stop()
	a.stop()
}
