package keeper

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/muxd/muxd/internal/fd"
)

func TestHold(t *testing.T) {
	k, a := ready(t, setup{})
	before := openFDs(t, k.pid())
	r, w, err := fd.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	defer w.Close()
	for _, name := range []string{"c/1", "c/2", "d/1"} {
		if err := a.Hold(a.ctx(), name, nil, r.Int()); err != nil {
			t.Fatal(err)
		}
	}
	if err := a.Hold(a.ctx(), "d/1", []byte("new"), w.Int()); err != nil {
		t.Fatal(err)
	}
	f, err := a.Fetch(a.ctx(), "d/1")
	if err != nil {
		t.Fatal(err)
	}
	flags, err := unix.FcntlInt(uintptr(f.Int()), unix.F_GETFL, 0)
	if err != nil || flags&unix.O_ACCMODE != unix.O_WRONLY {
		t.Errorf("flags %#x, %v: it is not the new one", flags, err)
	}
	f.Close()
	if err := a.Hold(a.ctx(), "", nil, r.Int()); !errors.Is(err, syscall.EINVAL) {
		t.Errorf("no name: %v", err)
	}
	if _, err := a.Fetch(a.ctx(), "c/3"); !errors.Is(err, syscall.ENOENT) || !strings.Contains(err.Error(), "c/3") {
		t.Errorf("fetch: %v", err)
	}
	if err := a.Drop(a.ctx(), "c/", false); err != nil {
		t.Error(err)
	}
	names := func() (out []string) {
		held, _, err := a.List(a.ctx())
		if err != nil {
			t.Fatal(err)
		}
		for _, h := range held {
			out = append(out, h.GetName()+string(h.GetNote()))
		}
		return out
	}
	if got := fmt.Sprint(names()); got != "[c/1 c/2 d/1new]" {
		t.Errorf("held %s", got)
	}
	if err := a.Drop(a.ctx(), "c/", true); err != nil {
		t.Error(err)
	}
	if got := fmt.Sprint(names()); got != "[d/1new]" {
		t.Errorf("held %s", got)
	}
	for n, want := range map[int]string{0: "[d/1new]", 2: "[d/1new s/000 s/001]", 3: "[d/1new s/000 s/001 s/002]"} {
		if err := a.HoldSeries(a.ctx(), "s/", []int{r.Int(), w.Int(), r.Int()}[:n]); err != nil {
			t.Fatal(err)
		}
		if got := fmt.Sprint(names()); got != want {
			t.Errorf("held %s, want %s", got, want)
		}
	}
	if err := a.HoldSeries(a.ctx(), "s/", nil); err != nil {
		t.Fatal(err)
	}
	a.Drop(a.ctx(), "d/1", false)
	if after := openFDs(t, k.pid()); after != before {
		t.Errorf("the keeper has %d descriptors, before %d", after, before)
	}
	many := make([]int, maxRequestFDs+1)
	if _, err := a.ask(a.ctx(), nil, many...); !errors.Is(err, syscall.E2BIG) {
		t.Errorf("too many descriptors: %v", err)
	}
}

func TestBudget(t *testing.T) {
	const limit = 200
	k, a := ready(t, setup{words: []string{fmt.Sprintf("nofile=%d:%d", limit, limit)}})
	r, w, err := fd.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	defer w.Close()
	held := 0
	for ; held < limit; held++ {
		if err = a.Hold(a.ctx(), fmt.Sprint("h/", held), nil, r.Int()); err != nil {
			break
		}
	}
	if !errors.Is(err, syscall.EMFILE) || !strings.Contains(err.Error(), "RLIMIT_NOFILE") || !strings.Contains(err.Error(), "200") {
		t.Fatalf("after %d: %v", held, err)
	}
	if _, _, err := a.List(a.ctx()); err != nil { // the refused one is closed when the next request is handled
		t.Fatal(err)
	}
	free := 0 // of the numbers that the keeper may use; what it inherited may stand above them
	for n := range limit {
		if _, err := os.Lstat(fmt.Sprintf("/proc/%d/fd/%d", k.pid(), n)); err != nil {
			free++
		}
	}
	if free < reserve || free > reserve+5 {
		t.Errorf("%d held, %d free", held, free)
	}
	if _, _, err := a.launch(sh("x", "")); !errors.Is(err, syscall.EMFILE) {
		t.Errorf("spawn: %v", err)
	}
	if _, err := a.Fetch(a.ctx(), "h/0"); !errors.Is(err, syscall.EMFILE) {
		t.Errorf("fetch: %v", err)
	}
	if _, err := a.Watch(a.ctx(), "w", os.Getpid(), nil, pidfd(t, os.Getpid())); !errors.Is(err, syscall.EMFILE) {
		t.Errorf("watch: %v", err)
	}
	// A new agent still finds room, and so does a request with as many descriptors as there may be.
	unix.Kill(a.pid, unix.SIGKILL)
	a = k.agent()
	s := sh("y", "")
	for i := len(s.Fds); i < maxRequestFDs; i++ {
		s.Fds = append(s.Fds, uint32(i))
	}
	if _, _, err := a.launch(s); !errors.Is(err, syscall.EMFILE) {
		t.Errorf("large spawn: %v", err)
	}
	if err := a.Drop(a.ctx(), "h/", true); err != nil {
		t.Fatal(err)
	}
	if out, _ := a.output(sh("x", "echo fine")); out != "fine\n" {
		t.Errorf("output %q", out)
	}
}

func TestRuntimeDir(t *testing.T) {
	k, a := ready(t, setup{words: []string{"umask"}})
	for name, want := range map[string]os.FileMode{
		".": os.ModeDir | 0o711, "..": os.ModeDir | 0o711, controlSock: os.ModeSocket | 0o600, fdSock: os.ModeSocket | 0o600, pidFile: 0o600,
	} {
		st, err := os.Stat(filepath.Join(k.dir, name))
		if err != nil || st.Mode() != want {
			t.Errorf("%s: %v, %v, want %v", name, st.Mode(), err, want)
		}
	}
	if b, err := os.ReadFile(filepath.Join(k.dir, pidFile)); err != nil || strings.TrimSpace(string(b)) != fmt.Sprint(k.pid()) {
		t.Errorf("pid file %q, %v", b, err)
	}
	control, fds := SocketPaths(k.dir)
	for network, path := range map[string]string{"unix": control, "unixpacket": fds} {
		c, err := net.Dial(network, path)
		if err != nil {
			t.Fatal(err)
		}
		c.Close()
	}

	second := newKeeperProc(t, setup{dir: k.dir})
	if code := second.wait(); code != ExitFailed {
		t.Errorf("a second keeper exits with %d", code)
	}
	if want := fmt.Sprintf("muxd: muxd is already running in %s (pid %d)\n", k.dir, k.pid()); second.stderr.String() != want {
		t.Errorf("it says %q, want %q", second.stderr, want)
	}
	if out, _ := a.output(sh("x", "echo fine")); out != "fine\n" {
		t.Errorf("the first is disturbed: %q", out)
	}

	// Killed, it leaves its sockets, and the next one replaces them.
	unix.Kill(a.pid, unix.SIGSTOP) // or it could report to the listener of the next
	k.cmd.Process.Kill()
	k.wait()
	unix.Kill(a.pid, unix.SIGKILL)
	third, a := ready(t, setup{dir: k.dir})
	if c, err := net.Dial("unix", control); err != nil {
		t.Error(err)
	} else {
		c.Close()
	}
	if third.pid() == k.pid() {
		t.Error("same pid")
	}
	a.stop()
}

func TestRuntimeDirIsRefused(t *testing.T) {
	open := filepath.Join(t.TempDir(), "open")
	taken := filepath.Join(t.TempDir(), "taken")
	foreign := filepath.Join(t.TempDir(), "foreign")
	file := filepath.Join(t.TempDir(), "file")
	for _, d := range []string{open, taken, foreign} {
		if err := os.Mkdir(d, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	os.Chmod(open, 0o777)
	for _, f := range []string{filepath.Join(taken, controlSock), file} {
		if err := os.WriteFile(f, []byte("precious"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	cases := map[string]string{
		open:                                  "chmod 0711",
		taken:                                 "not a socket",
		file:                                  "not a directory",
		filepath.Join(file, "below"):          "not a directory",
		"/tmp/" + strings.Repeat("long/", 25): "is 142 bytes long, and a Unix socket's may have 107: choose a shorter runtime_dir",
		"/tmp/" + strings.Repeat("x", 95-5):   "is 108 bytes long",
	}
	if os.Geteuid() == 0 {
		os.Chown(foreign, 1234, 1234)
		cases[foreign] = "belongs to uid 1234"
	}
	for dir, want := range cases {
		k := newKeeperProc(t, setup{dir: dir})
		if code := k.wait(); code != ExitFailed || !strings.Contains(k.stderr.String(), want) {
			t.Errorf("%s: exit %d, %q, want %q", dir, code, k.stderr, want)
		}
	}
	if b, err := os.ReadFile(filepath.Join(taken, controlSock)); err != nil || string(b) != "precious" {
		t.Errorf("%q, %v", b, err)
	}
}

// TestLongestPath has a control.sock of 107 bytes.
func TestLongestPath(t *testing.T) {
	base, err := os.MkdirTemp("/tmp", "k")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(base)
	dir := base + "/" + strings.Repeat("x", maxSunPath-len(base)-len("//"+controlSock))
	k, a := ready(t, setup{dir: dir})
	if control, _ := SocketPaths(k.dir); len(control) != 107 {
		t.Errorf("path of %d bytes", len(control))
	}
	a.stop()
}

func TestClientGivesUp(t *testing.T) {
	_, a := ready(t, setup{})
	unix.Kill(a.k.pid(), unix.SIGSTOP)
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	before, err := fd.Count()
	if err != nil {
		t.Fatal(err)
	}
	if err := a.Hold(ctx, "x", nil, a.socks[0].Int()); !errors.Is(err, context.Canceled) {
		t.Errorf("hold: %v", err)
	}
	if _, err := a.Fetch(ctx, "x"); !errors.Is(err, context.Canceled) {
		t.Errorf("fetch: %v", err)
	}
	unix.Kill(a.k.pid(), unix.SIGCONT)
	if _, _, err := a.List(a.ctx()); err != nil { // its reply comes after the one that nobody waits for
		t.Fatal(err)
	}
	if after, err := fd.Count(); err != nil || after != before {
		t.Errorf("%d descriptors, %v, before %d", after, err, before)
	}
	a.k.cmd.Process.Kill()
	a.k.wait()
	<-a.Done()
	if _, _, err := a.List(a.ctx()); err == nil {
		t.Error("list without a keeper")
	}
}
