package keeper

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/muxd/muxd/core/keeper/keeperpb"
	"github.com/muxd/muxd/internal/fd"
	"github.com/muxd/muxd/internal/fdchan"
	"github.com/muxd/muxd/internal/need"
)

// patience bounds every wait of these tests, which are for events; reaching it is a failure.
const patience = 30 * time.Second

// buffer is the keeper's stderr.
type buffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// keeperProc is a keeper in a process of its own.
type keeperProc struct {
	t      *testing.T
	dir    string
	cmd    *exec.Cmd
	stderr *buffer
	agents *net.UnixListener // where its agents report
	exit   chan int
}

// setup is what a test may change of a keeper before it starts.
type setup struct {
	words []string // the launcher's
	uid   uint32
	argv  string
	dir   string

	cgroup string // to start in; empty: that of the test
}

// newKeeperProc starts a keeper. At the test's end it is killed, with whatever is left of it.
func newKeeperProc(t *testing.T, s setup) *keeperProc {
	t.Helper()
	base, err := os.MkdirTemp("", "keeper")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(base) })
	if s.uid != 0 {
		if err := os.Chown(base, int(s.uid), int(s.uid)); err != nil {
			t.Fatal(err)
		}
	}
	k := &keeperProc{t: t, dir: s.dir, stderr: &buffer{}, exit: make(chan int, 1)}
	if k.dir == "" {
		k.dir = filepath.Join(base, "run", "muxd")
	}
	agents := filepath.Join(base, "agents")
	if k.agents, err = net.ListenUnix("unixpacket", &net.UnixAddr{Name: agents, Net: "unixpacket"}); err != nil {
		t.Fatal(err)
	}
	os.Chmod(agents, 0o666)
	t.Cleanup(func() { k.agents.Close() })

	k.cmd = exec.Command("/proc/self/exe", append([]string{launcherVerb}, s.words...)...)
	k.cmd.Env = append(os.Environ(), dirEnv+"="+k.dir, agentsEnv+"="+agents, "KEEPER_TEST_ARGV="+s.argv, "GOTRACEBACK=all",
		"GORACE=atexit_sleep_ms=0")
	k.cmd.Stderr = k.stderr
	k.cmd.Dir = "/"
	k.cmd.WaitDelay = time.Second
	k.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if s.uid != 0 {
		k.cmd.SysProcAttr.Credential = &syscall.Credential{Uid: s.uid, Gid: s.uid}
	}
	if s.cgroup != "" {
		need.InCgroup(t, k.cmd.SysProcAttr, s.cgroup)
	}
	if err := k.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		k.cmd.Wait()
		k.exit <- k.cmd.ProcessState.ExitCode()
	}()
	t.Cleanup(func() {
		for _, pid := range childrenOf(k.cmd.Process.Pid) {
			unix.Kill(pid, unix.SIGKILL)
		}
		k.cmd.Process.Kill()
		<-done
		if t.Failed() {
			t.Logf("keeper's stderr:\n%s", k.stderr)
		}
	})
	return k
}

func childrenOf(pid int) []int {
	var out []int
	lists, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	for _, l := range lists {
		b, _ := os.ReadFile(l)
		for _, w := range strings.Fields(string(b)) {
			var n int
			fmt.Sscan(w, &n)
			out = append(out, n)
		}
	}
	return out
}

func (k *keeperProc) pid() int { return k.cmd.Process.Pid }

// wait returns the keeper's exit status.
func (k *keeperProc) wait() int {
	k.t.Helper()
	select {
	case code := <-k.exit:
		return code
	case <-time.After(patience):
		k.t.Fatalf("keeper does not exit")
		return 0
	}
}

// testAgent is an agent whose part the test plays.
type testAgent struct {
	*Client
	t       *testing.T
	k       *keeperProc
	conn    *fdchan.Conn // with the agent's process
	pid     int
	version string
	socks   []*fd.FD
	exits   chan *keeperpb.Process
	stirs   chan string
}

// agent waits for the keeper's next agent.
func (k *keeperProc) agent() *testAgent {
	k.t.Helper()
	k.agents.SetDeadline(time.Now().Add(patience))
	uc, err := k.agents.AcceptUnix()
	if err != nil {
		k.t.Fatalf("no agent came: %v", err)
	}
	a := &testAgent{t: k.t, k: k, conn: fdchan.NewConn(uc), exits: make(chan *keeperpb.Process, 10000), stirs: make(chan string, 100)}
	cred, err := a.conn.Peer()
	if err != nil {
		k.t.Fatal(err)
	}
	a.pid = int(cred.Pid)
	p, fds, err := a.conn.Recv()
	if err != nil || len(fds) != 3 {
		k.t.Fatalf("agent: %v, %d descriptors", err, len(fds))
	}
	a.version, a.socks = string(p.Payload), fds[1:]
	if a.Client, err = Connect(fds[0], func(p *keeperpb.Process) { a.exits <- p }, func(name string) { a.stirs <- name }); err != nil {
		k.t.Fatal(err)
	}
	k.t.Cleanup(a.close)
	return a
}

func (a *testAgent) close() {
	a.Client.Close()
	a.conn.Close()
	fd.CloseAll(a.socks)
}

// quit makes the agent exit.
func (a *testAgent) quit(code int) {
	a.conn.Send(fdchan.Packet{Type: fdchan.Message, Payload: fmt.Append(nil, code)})
}

// signal waits for a signal that the agent has got, and returns its name.
func (a *testAgent) signal() string {
	a.t.Helper()
	p, _, err := a.conn.Recv()
	if err != nil {
		a.t.Fatalf("agent is gone: %v", err)
	}
	return string(p.Payload)
}

// exited waits for the exit of that key.
func (a *testAgent) exited(key string) *keeperpb.Process {
	a.t.Helper()
	select {
	case p := <-a.exits:
		if p.GetKey() != key {
			a.t.Fatalf("exit of %s, want %s", p.GetKey(), key)
		}
		return p
	case <-time.After(patience):
		a.t.Fatalf("no exit of %s", key)
		return nil
	}
}

// stop asks the keeper to end and plays the agent's own end.
func (a *testAgent) stop() {
	a.t.Helper()
	if err := a.Stop(a.ctx()); err != nil {
		a.t.Fatal(err)
	}
	a.conn.Close()
	if code := a.k.wait(); code != 0 {
		a.t.Errorf("keeper exits with %d", code)
	}
	if _, err := os.Stat(a.k.dir); !os.IsNotExist(err) {
		left, _ := filepath.Glob(a.k.dir + "/*")
		a.t.Errorf("runtime dir is left: %v %v", err, left)
	}
}

func (a *testAgent) ctx() context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	a.t.Cleanup(cancel)
	return ctx
}

// ready makes a start: one keeper, one agent that has said something.
func ready(t *testing.T, s setup) (*keeperProc, *testAgent) {
	t.Helper()
	k := newKeeperProc(t, s)
	a := k.agent()
	if _, _, err := a.List(a.ctx()); err != nil {
		t.Fatal(err)
	}
	return k, a
}

func sh(key, script string) *keeperpb.Spawn {
	return command(key, "/bin/sh", "-c", script)
}

func command(key string, argv ...string) *keeperpb.Spawn {
	s := &keeperpb.Spawn{Key: key, Path: []byte(argv[0]), Fds: []uint32{0, 1, 2}, Env: [][]byte{[]byte("PATH=/usr/bin:/bin")}}
	for _, arg := range argv {
		s.Argv = append(s.Argv, []byte(arg))
	}
	return s
}

// launch spawns s with /dev/null as stdin and a pipe as stdout and stderr, whose read end it returns, and with more.
func (a *testAgent) launch(s *keeperpb.Spawn, more ...int) (*keeperpb.Process, *os.File, error) {
	a.t.Helper()
	r, w, err := fd.Pipe()
	if err != nil {
		a.t.Fatal(err)
	}
	defer w.Close()
	null, err := os.Open(os.DevNull)
	if err != nil {
		a.t.Fatal(err)
	}
	defer null.Close()
	n, err := fd.DupFile(null)
	if err != nil {
		a.t.Fatal(err)
	}
	defer n.Close()
	fds := append([]int{n.Int(), w.Int(), w.Int()}, more...)
	for len(fds) < len(s.Fds)+len(s.Hold) {
		fds = append(fds, w.Int())
	}
	p, err := a.Spawn(a.ctx(), s, fds)
	out := r.File("output")
	a.t.Cleanup(func() { out.Close() })
	return p, out, err
}

// output spawns s as launch does, and returns all its output, and its exit.
func (a *testAgent) output(s *keeperpb.Spawn, more ...int) (string, *keeperpb.Process) {
	a.t.Helper()
	p, r, err := a.launch(s, more...)
	if err != nil {
		a.t.Fatalf("spawn %s: %v", s.Key, err)
	}
	b, err := io.ReadAll(r)
	if err != nil {
		a.t.Fatal(err)
	}
	end := a.exited(s.Key)
	if p.GetPid() != end.GetPid() {
		a.t.Fatalf("pid %d, and at the exit %d", p.GetPid(), end.GetPid())
	}
	return string(b), end
}

// line reads one line of a child's output.
func line(t *testing.T, r io.Reader) string {
	t.Helper()
	var out []byte
	b := make([]byte, 1)
	for {
		if _, err := io.ReadFull(r, b); err != nil {
			t.Fatalf("read a line: %v after %q", err, out)
		}
		if b[0] == '\n' {
			return string(out)
		}
		out = append(out, b[0])
	}
}

// pidfd opens a pidfd that is closed at the test's end.
func pidfd(t *testing.T, pid int) int {
	t.Helper()
	n, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		t.Fatalf("pidfd of %d: %v", pid, err)
	}
	t.Cleanup(func() { unix.Close(n) })
	return n
}

// gone waits until the process of a pidfd has been reaped, which is a hang-up (Linux 6.9).
func gone(t *testing.T, n int, events int16) {
	t.Helper()
	fds := []unix.PollFd{{Fd: int32(n), Events: events}}
	for {
		got, err := unix.Poll(fds, int(patience.Milliseconds()))
		if err == unix.EINTR {
			continue
		}
		if err != nil || got == 0 {
			t.Fatalf("poll pidfd: %d, %v", got, err)
		}
		return
	}
}

func root(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
}
