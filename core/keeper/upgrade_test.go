package keeper

import (
	"context"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/muxd/muxd/internal/fd"
)

// openExe opens an executable, closed at the test's end.
func openExe(t *testing.T, path string) int {
	t.Helper()
	n, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(n) })
	return n
}

// upgradeTo has the keeper go on as this test's program, and returns when that is being done.
func (a *testAgent) upgradeTo(exe int) {
	ctx, cancel := context.WithCancel(context.Background())
	returned := make(chan struct{})
	go func() {
		defer close(returned)
		a.Upgrade(ctx, exe)
	}()
	a.t.Cleanup(func() { cancel(); <-returned })
	<-a.Done()
}

// upgradeable is a keeper with a child that lives, one that has ended, and something that it holds; finish ends the child.
func upgradeable(t *testing.T) (k *keeperProc, a *testAgent, finish func()) {
	k, a = ready(t, setup{})
	r, w, err := fd.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close(); w.Close() })
	if err := a.Hold(a.ctx(), "pipe", []byte("n"), w.Int()); err != nil {
		t.Fatal(err)
	}
	if _, err := a.Spawn(a.ctx(), sh("lives", "read x; exit 4"), []int{r.Int(), w.Int(), w.Int()}); err != nil {
		t.Fatal(err)
	}
	a.output(sh("over", "exit 3"))
	return k, a, func() {
		if _, err := unix.Write(w.Int(), []byte("x\n")); err != nil {
			t.Fatal(err)
		}
	}
}

// hasAll checks that a knows what upgradeable made.
func (a *testAgent) hasAll() {
	a.t.Helper()
	held, procs, err := a.List(a.ctx())
	if err != nil || len(held) != 1 || held[0].GetName() != "pipe" || string(held[0].GetNote()) != "n" || len(procs) != 2 {
		a.t.Fatalf("%v %v %v", held, procs, err)
	}
	if procs[0].GetKey() != "lives" || procs[0].GetExited() || procs[1].GetStatus() != 3<<8 {
		a.t.Errorf("processes %v", procs)
	}
}

func TestUpgrade(t *testing.T) {
	k, a, finish := upgradeable(t)
	old := pidfd(t, a.pid)
	a.upgradeTo(openExe(t, Self))
	next := k.agent()
	if next.version != "again" {
		t.Errorf("version %q", next.version)
	}
	gone(t, old, unix.POLLIN) // the agent before is, when the next one comes
	next.hasAll()
	if err := next.Ready(next.ctx()); err != nil {
		t.Fatal(err)
	}
	for i := range a.socks {
		same(t, a.socks[i].Int(), next.socks[i].Int())
	}
	finish() // the keeper is still the child's parent
	if p := next.exited("lives"); !p.GetStatusKnown() || p.GetStatus() != 4<<8 {
		t.Errorf("the child ended with %v", p)
	}
	next.output(sh("another", "exit 0"))
	next.stop()
}

// A program that cannot be executed changes nothing.
func TestUpgradeToNothing(t *testing.T) {
	k, a, finish := upgradeable(t)
	if err := a.Upgrade(a.ctx(), openExe(t, os.DevNull)); err == nil {
		t.Fatal("the keeper goes on as /dev/null")
	}
	a.hasAll()
	finish()
	if p := a.exited("lives"); p.GetStatus() != 4<<8 {
		t.Errorf("the child ended with %v", p)
	}
	a.stop()
	if err := k.stderr.String(); !strings.Contains(err, "upgrade: become the keeper: ") {
		t.Errorf("the keeper says %q", err)
	}
}

// A program whose agents die before one is ready is followed by the one before.
func TestUpgradeFallsBack(t *testing.T) {
	k, a, finish := upgradeable(t)
	a.upgradeTo(openExe(t, Self))
	for range upgradeAttempts {
		next := k.agent()
		next.hasAll()
		next.quit(1)
	}
	next := k.agent()
	if err := k.stderr.String(); !strings.Contains(err, "going back to the version before") {
		t.Errorf("the keeper says %q", err)
	}
	next.hasAll()
	finish()
	if p := next.exited("lives"); !p.GetStatusKnown() || p.GetStatus() != 4<<8 {
		t.Errorf("the child ended with %v", p)
	}
	next.stop()
}
