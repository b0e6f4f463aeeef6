package keeper

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/muxd/muxd/internal/fd"
)

func TestAgentIsStartedAgain(t *testing.T) {
	k, a := ready(t, setup{})
	if a.version != "test" {
		t.Errorf("version %q", a.version)
	}
	r, w, err := fd.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	defer w.Close()
	if err := a.Hold(a.ctx(), "pipe", []byte("n"), r.Int()); err != nil {
		t.Fatal(err)
	}
	lives := sh("lives", "read x; exit 4")
	if _, err := a.Spawn(a.ctx(), lives, []int{r.Int(), w.Int(), w.Int()}); err != nil {
		t.Fatal(err)
	}
	a.output(sh("over", "exit 3"))
	pgid, err := unix.Getpgid(a.pid)
	if err != nil || pgid != a.pid {
		t.Errorf("the agent's process group is %d, %v", pgid, err)
	}

	before := a.socks
	for round := range 3 {
		if err := unix.Kill(a.pid, unix.SIGKILL); err != nil {
			t.Fatal(err)
		}
		<-a.Done()
		if _, err := a.Fetch(a.ctx(), "pipe"); err == nil || errors.Is(err, syscall.ENOENT) {
			t.Errorf("fetch after the channel's end: %v", err)
		}
		next := k.agent()
		if next.pid == a.pid {
			t.Fatal("same pid")
		}
		a = next
		held, procs, err := a.List(a.ctx())
		if err != nil || len(held) != 1 || held[0].GetName() != "pipe" || string(held[0].GetNote()) != "n" || len(procs) != 2 {
			t.Fatalf("round %d: %v %v %v", round, held, procs, err)
		}
		if procs[0].GetKey() != "lives" || procs[0].GetExited() || procs[1].GetStatus() != 3<<8 {
			t.Errorf("processes %v", procs)
		}
		for i := range before {
			same(t, before[i].Int(), a.socks[i].Int())
		}
	}
	f, err := a.Fetch(a.ctx(), "pipe")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	same(t, f.Int(), r.Int())

	// The end of a process while no agent is there.
	unix.Kill(a.pid, unix.SIGSTOP)
	unix.Kill(a.pid, unix.SIGKILL)
	if _, err := unix.Write(w.Int(), []byte("\n")); err != nil {
		t.Fatal(err)
	}
	a = k.agent()
	for ctx := a.ctx(); ; {
		_, procs, err := a.List(ctx)
		if err != nil {
			t.Fatal(err)
		}
		if procs[0].GetExited() {
			if procs[0].GetStatus() != 4<<8 {
				t.Errorf("status %v", procs[0])
			}
			break
		}
		a.exited("lives")
	}
	a.stop()
}

func same(t *testing.T, a, b int) {
	t.Helper()
	var x, y unix.Stat_t
	if err := errors.Join(unix.Fstat(a, &x), unix.Fstat(b, &y)); err != nil || x.Dev != y.Dev || x.Ino != y.Ino {
		t.Errorf("not the same file: %d %d, %v", x.Ino, y.Ino, err)
	}
}

func TestAgentThatHangsUpIsReplaced(t *testing.T) {
	k, a := ready(t, setup{})
	a.Client.Close()
	if next := k.agent(); next.pid == a.pid {
		t.Error("same agent")
	}
}

func TestBackoff(t *testing.T) {
	const quick, short, long = 10 * time.Millisecond, 2 * time.Second, 11 * time.Second
	ms := time.Millisecond
	for _, c := range []struct {
		lived []time.Duration
		want  []time.Duration
	}{
		{[]time.Duration{quick, quick, quick, quick, quick, quick, quick, quick, quick},
			[]time.Duration{0, 100 * ms, 200 * ms, 400 * ms, 800 * ms, 1600 * ms, 3200 * ms, 5000 * ms, 5000 * ms}},
		{[]time.Duration{quick, quick, short, quick, long, quick, quick}, []time.Duration{0, 100 * ms, 0, 200 * ms, 0, 0, 100 * ms}},
	} {
		var b backoff
		for i, lived := range c.lived {
			if got := b.next(lived); got != c.want[i] {
				t.Errorf("%v, %d: %v, want %v", c.lived, i, got, c.want[i])
			}
		}
	}
	b := backoff{quick: 1 << 40}
	if got := b.next(0); got != 5*time.Second {
		t.Errorf("after many: %v", got)
	}
}

func TestSignalsAreForwarded(t *testing.T) {
	k, a := ready(t, setup{words: []string{"ignore", "block"}})
	for _, sig := range []syscall.Signal{unix.SIGHUP, unix.SIGTERM, unix.SIGINT, unix.SIGTERM, unix.SIGHUP} {
		unix.Kill(k.pid(), sig)
		if got := a.signal(); got != sig.String() {
			t.Errorf("%v came as %s", sig, got)
		}
	}
	// An agent that dies over a stop: the next one hears of it, once it serves.
	unix.Kill(a.pid, unix.SIGKILL)
	a = k.agent()
	if _, _, err := a.List(a.ctx()); err != nil {
		t.Fatal(err)
	}
	if got := a.signal(); got != unix.SIGTERM.String() {
		t.Errorf("the next agent got %s", got)
	}
	a.stop()
}

func TestSignalWaitsForAnAgentThatServes(t *testing.T) {
	k := newKeeperProc(t, setup{})
	a := k.agent()
	unix.Kill(k.pid(), unix.SIGTERM)
	if _, _, err := a.List(a.ctx()); err != nil {
		t.Fatal(err)
	}
	if got := a.signal(); got != unix.SIGTERM.String() {
		t.Errorf("got %s", got)
	}
	a.quit(0)
	a = k.agent() // it did not carry the stop out
	a.quit(1)     // nor does this one, which never served
	if code := k.wait(); code != ExitFailed {
		t.Errorf("exit %d", code)
	}
	if _, err := os.Stat(filepath.Dir(k.dir)); !os.IsNotExist(err) {
		t.Errorf("%v: the parent that was made is left", err)
	}
	if !strings.Contains(k.stderr.String(), "killing what is left") {
		t.Errorf("stderr %q", k.stderr)
	}
}

func TestAgentWithBadConfig(t *testing.T) {
	k := newKeeperProc(t, setup{})
	k.agent().quit(ExitConfig)
	if code := k.wait(); code != ExitFailed {
		t.Errorf("exit %d", code)
	}
	if _, err := os.Stat(k.dir); !os.IsNotExist(err) {
		t.Errorf("runtime dir: %v", err)
	}

	k, a := ready(t, setup{})
	if err := a.Hold(a.ctx(), "x", nil, a.socks[0].Int()); err != nil {
		t.Fatal(err)
	}
	a.quit(ExitConfig)
	k.agent().stop() // there was something to keep
}

func TestAgentThatCannotBeStarted(t *testing.T) {
	k := newKeeperProc(t, setup{argv: "/no/such/agent"})
	if code := k.wait(); code != ExitFailed {
		t.Errorf("exit %d", code)
	}
	if !strings.Contains(k.stderr.String(), `"/no/such/agent": no such file`) {
		t.Errorf("stderr %q", k.stderr)
	}
	if _, err := os.Stat(k.dir); !os.IsNotExist(err) {
		t.Errorf("runtime dir: %v", err)
	}
}

// TestStopKillsWhatIsLeft has descendants that ignore signals, left their session, and whose parents are
// gone.
func TestStopKillsWhatIsLeft(t *testing.T) {
	k, a := ready(t, setup{})
	var pidfds []int
	for i := range 5 {
		p, r, err := a.launch(sh(fmt.Sprint("s", i), `trap '' TERM HUP INT
			(trap '' TERM; setsid sh -c 'echo $$; sleep 1000; sleep 1000' & ) ; sleep 1000 & wait; wait`))
		if err != nil {
			t.Fatal(err)
		}
		var orphan int
		fmt.Sscan(line(t, r), &orphan)
		pidfds = append(pidfds, pidfd(t, int(p.GetPid())), pidfd(t, orphan))
	}
	for _, name := range []string{"agent.journal", "plugin-file.sock", "plugins/x"} {
		path := filepath.Join(k.dir, name)
		os.MkdirAll(filepath.Dir(path), 0o700)
		if err := os.WriteFile(path, nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	a.stop()
	for _, n := range pidfds {
		if err := unix.PidfdSendSignal(n, 0, nil, 0); err != unix.ESRCH {
			t.Errorf("a process is left: %v", err)
		}
	}
}

func TestStopKillsAnAgentThatStays(t *testing.T) {
	k, a := ready(t, setup{})
	n := pidfd(t, a.pid)
	if err := a.Stop(a.ctx()); err != nil {
		t.Fatal(err)
	}
	if code := k.wait(); code != 0 {
		t.Errorf("exit %d", code)
	}
	if err := unix.PidfdSendSignal(n, 0, nil, 0); err != unix.ESRCH {
		t.Errorf("the agent is left: %v", err)
	}
}

// TestStopWhileSpawning stops in the middle of spawns: every process has the write end of one pipe, which
// must end.
func TestStopWhileSpawning(t *testing.T) {
	_, a := ready(t, setup{})
	r, w, err := fd.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	for i := range 100 {
		go a.Spawn(a.ctx(), command(fmt.Sprint(i), "sleep", "1000"), []int{a.socks[0].Int(), w.Int(), w.Int()})
	}
	if _, _, err := a.List(a.ctx()); err != nil {
		t.Fatal(err)
	}
	a.stop()
	a.Client.Close()
	w.Close()
	out := r.File("pipe")
	defer out.Close()
	if n, err := out.Read(make([]byte, 1)); n != 0 || err != io.EOF {
		t.Errorf("read %d, %v", n, err)
	}
}
