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

	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"

	"github.com/muxd/muxd/core/keeper/keeperpb"
	"github.com/muxd/muxd/internal/fd"
)

func TestSpawnAndExit(t *testing.T) {
	_, a := ready(t, setup{})
	s := sh("one", `echo "$0 $1 $FOO"; exit 7`)
	s.Argv = append(s.Argv, []byte("zero"), []byte("\xff\xfe one"))
	s.Env = append(s.Env, []byte("FOO=b\xe4r"))
	s.Note = []byte("note\x00\xff")
	out, p := a.output(s)
	if want := "zero \xff\xfe one b\xe4r\n"; out != want {
		t.Errorf("output %q, want %q", out, want)
	}
	if ws := syscall.WaitStatus(p.GetStatus()); !p.GetExited() || !p.GetStatusKnown() || ws.ExitStatus() != 7 {
		t.Errorf("exit %v", p)
	}
	if p.GetStarted() == 0 || p.GetEnded() < p.GetStarted() || p.GetMaxRssKib() == 0 {
		t.Errorf("times and usage: %v", p)
	}
	again, _, err := a.launch(sh("one", "echo second"))
	if err != nil || !proto.Equal(again, p) {
		t.Errorf("the same key again: %v, %v; want %v", again, err, p)
	}
	_, procs, err := a.List(a.ctx())
	if err != nil || len(procs) != 1 || !proto.Equal(procs[0], p) {
		t.Errorf("list: %v, %v", procs, err)
	}
	for range 2 {
		if err := a.Forget(a.ctx(), "one"); err != nil {
			t.Errorf("forget: %v", err)
		}
	}
	if _, procs, _ := a.List(a.ctx()); len(procs) != 0 {
		t.Errorf("list after forget: %v", procs)
	}
	if out, _ := a.output(sh("one", "kill -9 $$")); out != "" {
		t.Errorf("output %q", out)
	}
}

func TestLargeArguments(t *testing.T) {
	_, a := ready(t, setup{})
	for _, limits := range [][]*keeperpb.Rlimit{nil, {{Resource: unix.RLIMIT_CORE}}} {
		s := sh(fmt.Sprint("large", len(limits)), `for x; do last=$x; done; echo $# ${#last}`)
		s.Rlimits = limits
		s.Argv = append(s.Argv, []byte("sh"))
		for range 15 {
			s.Argv = append(s.Argv, []byte(strings.Repeat("x", 100<<10)))
		}
		if out, _ := a.output(s); out != "15 102400\n" {
			t.Errorf("output %q", out)
		}
		s.Key += "!"
		s.Argv = append(s.Argv, s.Argv[4:]...)
		if _, _, err := a.launch(s); !errors.Is(err, syscall.E2BIG) {
			t.Errorf("3 MB: %v", err)
		}
	}
	s := sh("huge", "")
	s.Argv = append(s.Argv, make([]byte, maxMessage))
	if _, _, err := a.launch(s); !errors.Is(err, syscall.EMSGSIZE) {
		t.Errorf("over 8 MiB: %v", err)
	}
}

// TestLargeList makes the keeper answer with a memfd.
func TestLargeList(t *testing.T) {
	_, a := ready(t, setup{})
	r, w, err := fd.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	defer w.Close()
	note := make([]byte, 60<<10)
	for i := range 10 {
		if err := a.Hold(a.ctx(), fmt.Sprint("n", i), note, r.Int()); err != nil {
			t.Fatal(err)
		}
	}
	held, _, err := a.List(a.ctx())
	if err != nil || len(held) != 10 || len(held[9].GetNote()) != len(note) {
		t.Fatalf("%d held, %v", len(held), err)
	}
}

const listFDs = `i=0; while [ $i -lt 300 ]; do [ -e /proc/$$/fd/$i ] && echo $i; i=$((i+1)); done`

func TestDescriptors(t *testing.T) {
	_, a := ready(t, setup{words: []string{"leak"}})
	for name, limits := range map[string][]*keeperpb.Rlimit{"plain": nil, "shim": {{Resource: unix.RLIMIT_CORE}}} {
		s := sh(name, listFDs)
		s.Rlimits = limits
		s.Fds = []uint32{0, 1, 2, 7, 4}
		if out, _ := a.output(s); out != "0\n1\n2\n4\n7\n" {
			t.Errorf("%s: descriptors %q", name, strings.Fields(out))
		}
	}
	for _, fds := range [][]uint32{{}, {0, 1}, {0, 1, 3}, {0, 1, 2, 2}, {0, 1, 2, 5000}} {
		s := sh("bad", "")
		s.Fds = fds
		if _, _, err := a.launch(s); !errors.Is(err, syscall.EINVAL) && len(fds) >= 3 {
			t.Errorf("numbers %v: %v", fds, err)
		}
	}
}

func TestBlockingModeStays(t *testing.T) {
	_, a := ready(t, setup{})
	for _, nonblock := range []bool{false, true} {
		r, w, err := fd.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		defer w.Close()
		if err := unix.SetNonblock(r.Int(), nonblock); err != nil {
			t.Fatal(err)
		}
		key := fmt.Sprint("block", nonblock)
		s := sh(key, "exit 0")
		s.Hold = []string{"far"}
		if _, err := a.Spawn(a.ctx(), s, []int{r.Int(), w.Int(), w.Int(), r.Int()}); err != nil {
			t.Fatal(err)
		}
		a.exited(key)
		flags, err := unix.FcntlInt(uintptr(r.Int()), unix.F_GETFL, 0)
		if err != nil || flags&unix.O_NONBLOCK != 0 != nonblock {
			t.Errorf("nonblock %v: flags %#x, %v", nonblock, flags, err)
		}
	}
}

func TestSignalsAreDefault(t *testing.T) {
	_, a := ready(t, setup{words: []string{"ignore", "block"}})
	for name, limits := range map[string][]*keeperpb.Rlimit{"plain": nil, "shim": {{Resource: unix.RLIMIT_CORE}}} {
		s := command(name, "cat", "/proc/self/status")
		s.Rlimits = limits
		out, _ := a.output(s)
		for _, field := range []string{"SigBlk", "SigIgn", "SigCgt"} {
			if !strings.Contains(out, field+":\t0000000000000000\n") {
				_, rest, _ := strings.Cut(out, field)
				got, _, _ := strings.Cut(rest, "\n")
				t.Errorf("%s: %s%s", name, field, got)
			}
		}
	}
	agent, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", a.pid))
	if err != nil || !strings.Contains(string(agent), "SigIgn:\t0000000000000000\n") {
		t.Errorf("the agent's: %v %s", err, agent)
	}
}

func TestFileLimitIsTheOriginal(t *testing.T) {
	_, a := ready(t, setup{words: []string{"nofile=700:4000"}})
	for _, c := range []struct {
		name   string
		limits []*keeperpb.Rlimit
		want   string
	}{
		{"plain", nil, "700 4000\n"},
		{"shim", []*keeperpb.Rlimit{{Resource: unix.RLIMIT_CORE}}, "700 4000\n"},
		{"given", []*keeperpb.Rlimit{{Resource: unix.RLIMIT_NOFILE, Soft: 50, Hard: 60}}, "50 60\n"},
	} {
		s := sh(c.name, "echo $(ulimit -Sn) $(ulimit -Hn)")
		s.Rlimits = c.limits
		if out, _ := a.output(s); out != c.want {
			t.Errorf("%s: %q, want %q", c.name, out, c.want)
		}
	}
}

func TestRlimits(t *testing.T) {
	_, a := ready(t, setup{})
	s := command("limits", "cat", "/proc/self/limits")
	s.Rlimits = []*keeperpb.Rlimit{
		{Resource: unix.RLIMIT_AS, Soft: 64 << 20, Hard: 128 << 20}, // less than a Go process has mapped
		{Resource: unix.RLIMIT_DATA, Soft: 8 << 20, Hard: 8 << 20},
		{Resource: unix.RLIMIT_NPROC, Soft: 1, Hard: 1},
		{Resource: unix.RLIMIT_SIGPENDING, Soft: 0, Hard: 0},
		{Resource: unix.RLIMIT_CPU, Soft: 10, Hard: 20},
	}
	out, _ := a.output(s)
	squeezed := strings.Join(strings.Fields(out), " ")
	for _, want := range []string{"Max address space 67108864 134217728", "Max data size 8388608 8388608", "Max processes 1 1",
		"Max pending signals 0 0", "Max cpu time 10 20"} {
		if !strings.Contains(squeezed, want) {
			t.Errorf("no %q in\n%s", want, out)
		}
	}
	s = sh("bad", "")
	s.Rlimits = []*keeperpb.Rlimit{{Resource: unix.RLIMIT_CPU, Soft: 2, Hard: 1}}
	_, _, err := a.launch(s)
	if !errors.Is(err, syscall.EINVAL) || !strings.Contains(err.Error(), "RLIMIT_CPU") {
		t.Errorf("soft over hard: %v", err)
	}
	s.Rlimits[0].Resource = 99
	if _, _, err := a.launch(s); !errors.Is(err, syscall.EINVAL) {
		t.Errorf("no such limit: %v", err)
	}
}

func TestUmaskAndDirectory(t *testing.T) {
	_, a := ready(t, setup{})
	dir, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	s := sh("one", "umask; pwd -P")
	s.Umask = proto.Uint32(0o127)
	s.Cwd = []byte(dir)
	if out, _ := a.output(s); out != "0127\n"+dir+"\n" {
		t.Errorf("output %q", out)
	}
	s.Key = "shim"
	s.Rlimits = []*keeperpb.Rlimit{{Resource: unix.RLIMIT_CORE}}
	if out, _ := a.output(s); out != "0127\n"+dir+"\n" {
		t.Errorf("output through the shim %q", out)
	}
	if out, _ := a.output(sh("two", "pwd -P; umask")); out != fmt.Sprintf("/\n%04o\n", ownUmask(t)) {
		t.Errorf("the next child's: %q", out)
	}
}

func ownUmask(t *testing.T) int {
	b, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(b), "Umask:")
	var mask int
	fmt.Sscanf(strings.TrimSpace(rest), "%o", &mask)
	return mask
}

func TestCredentials(t *testing.T) {
	root(t)
	_, a := ready(t, setup{})
	for i, limits := range [][]*keeperpb.Rlimit{nil, {{Resource: unix.RLIMIT_CORE}}} {
		s := sh(fmt.Sprint("user", i), "id -u; id -g; id -G; grep CapEff /proc/self/status")
		s.Credential = &keeperpb.Credential{Uid: 12345, Gid: 2345, Groups: []uint32{2345, 7, 8}}
		s.Rlimits = limits
		if out, _ := a.output(s); out != "12345\n2345\n2345 7 8\nCapEff:\t0000000000000000\n" {
			t.Errorf("output %q", out)
		}
	}
	if out, _ := a.output(sh("after", "id -u; grep Groups /proc/self/status")); !strings.HasPrefix(out, "0\n") {
		t.Errorf("the next child's: %q", out)
	}
	private := t.TempDir() // 0755 under a parent that is not: what counts is what the user may
	os.Chmod(private, 0o700)
	s := sh("dir", "")
	s.Credential = &keeperpb.Credential{Uid: 12345, Gid: 2345}
	s.Cwd = []byte(private)
	if _, _, err := a.launch(s); !errors.Is(err, syscall.EACCES) || !strings.Contains(err.Error(), "working directory") {
		t.Errorf("private cwd: %v", err)
	}
}

func TestOrdinaryUser(t *testing.T) {
	root(t)
	_, a := ready(t, setup{uid: 65534})
	if out, _ := a.output(sh("one", "id -u")); out != "65534\n" {
		t.Errorf("output %q", out)
	}
	s := sh("same", "id -u; ulimit -c")
	s.Credential = &keeperpb.Credential{Uid: 65534, Gid: 65534}
	s.Rlimits = []*keeperpb.Rlimit{{Resource: unix.RLIMIT_CORE}}
	if out, _ := a.output(s); out != "65534\n0\n" {
		t.Errorf("its own uid: %q", out)
	}
	s = sh("other", "id -u")
	s.Credential = &keeperpb.Credential{Uid: 1, Gid: 1}
	if _, _, err := a.launch(s); !errors.Is(err, syscall.EPERM) || !strings.Contains(err.Error(), "uid 65534") {
		t.Errorf("another uid: %v", err)
	}
	s = sh("limit", "")
	s.Rlimits = []*keeperpb.Rlimit{{Resource: unix.RLIMIT_NOFILE, Soft: 1, Hard: 1 << 20}}
	if _, _, err := a.launch(s); !errors.Is(err, syscall.EPERM) || !strings.Contains(err.Error(), "RLIMIT_NOFILE") {
		t.Errorf("raise a hard limit: %v", err)
	}
	a.stop()
}

func TestControllingTerminal(t *testing.T) {
	_, a := ready(t, setup{})
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Skipf("no terminals here: %v", err)
	}
	defer master.Close()
	m, err := fd.DupFile(master)
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	unix.IoctlSetPointerInt(m.Int(), unix.TIOCSPTLCK, 0)
	n, err := unix.IoctlGetInt(m.Int(), unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	tty, err := unix.Open(fmt.Sprintf("/dev/pts/%d", n), unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(tty)
	r, w, err := fd.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	for i, limits := range [][]*keeperpb.Rlimit{nil, {{Resource: unix.RLIMIT_CORE}}} {
		// The fields of stat: pid, name, state, parent, group, session, terminal, foreground group.
		s := sh(fmt.Sprint("tty", i), `: </dev/tty && set -- $(cat /proc/$$/stat) && [ $5 = $$ ] && [ $6 = $$ ] && [ $7 != 0 ] && [ $8 = $$ ]`)
		s.ControllingTerminal = true
		s.Rlimits = limits
		if _, err := a.Spawn(a.ctx(), s, []int{tty, tty, w.Int()}); err != nil {
			t.Fatal(err)
		}
		if p := a.exited(s.Key); p.GetStatus() != 0 {
			w.Close()
			why, _ := io.ReadAll(r.File("stderr"))
			t.Fatalf("status %#x %s", p.GetStatus(), why)
		}
	}
	s := sh("no terminal", "")
	s.ControllingTerminal = true
	if _, _, err := a.launch(s); !errors.Is(err, syscall.ENOTTY) || !strings.Contains(err.Error(), "fd 0") {
		t.Errorf("without a terminal: %v", err)
	}
	if out, _ := a.output(sh("session", `set -- $(cat /proc/$$/stat); echo $(($5-$$)) $(($6-$$)) $7`)); out != "0 0 0\n" {
		t.Errorf("session of a child without a terminal: %q", out)
	}
}

func TestExecErrors(t *testing.T) {
	k, a := ready(t, setup{})
	dir := t.TempDir()
	write := func(name, content string, mode os.FileMode) string {
		p := filepath.Join(dir, name)
		if err := os.WriteFile(p, []byte(content), mode); err != nil {
			t.Fatal(err)
		}
		return p
	}
	plain := write("plain", "hello", 0o644)
	garbage := write("garbage", "\x01\x02\x03", 0o755)
	script := write("script", "#! /no/such/interpreter -x\n", 0o755)
	write("ok", "#!/bin/sh\necho found $PWD\n", 0o755)
	if err := os.Mkdir(filepath.Join(dir, "sub"), 0o755); err != nil {
		t.Fatal(err)
	}
	write("sub/plain", "", 0o644)
	os.Mkdir(filepath.Join(dir, "sub/ok"), 0o755)
	for _, c := range []struct {
		name  string
		path  string
		cwd   string
		env   string
		errno syscall.Errno
		words string
	}{
		{"not in PATH", "no-such-program", "", "PATH=/usr/bin:/bin", syscall.ENOENT, `"no-such-program" was not found in PATH (/usr/bin:/bin)`},
		{"no PATH at all", "no-such-program", "", "X=y", syscall.ENOENT, "PATH (" + defaultPath},
		{"no such file", "/no/such", "", "", syscall.ENOENT, `"/no/such": no such file or directory`},
		{"not executable", plain, "", "", syscall.EACCES, "not executable"},
		{"not executable in PATH", "plain", "", "PATH=" + dir + "/sub:/none", syscall.EACCES, "not executable"},
		{"a directory", dir, "", "", syscall.EACCES, "is a directory"},
		{"through a file", plain + "/x", "", "", syscall.ENOTDIR, "plain/x"},
		{"empty name", "", "", "", syscall.ENOENT, "empty"},
		{"interpreter", script, "", "", syscall.ENOENT, `interpreter "/no/such/interpreter"`},
		{"format", garbage, "", "", syscall.ENOEXEC, "no binary"},
		{"cwd is not there", "/bin/true", "/no/such/dir", "", syscall.ENOENT, `working directory "/no/such/dir"`},
		{"cwd is a file", "/bin/true", plain, "", syscall.ENOTDIR, "working directory"},
		{"NUL", "/bin/true\x00", "", "", syscall.EINVAL, "NUL"},
		{"found in PATH, behind a directory", "ok", "", "PATH=" + dir + "/sub:" + dir, 0, "found"},
		{"found relative to cwd", "./ok", dir, "PATH=/none", 0, dir},
		{"found in a relative PATH", "ok", filepath.Join(dir, "sub"), "PATH=..:/none", 0, dir},
		{"found in an empty entry of PATH", "ok", dir, "PATH=/none:", 0, dir},
	} {
		for _, limits := range [][]*keeperpb.Rlimit{nil, {{Resource: unix.RLIMIT_CORE}}} {
			t.Run(fmt.Sprintf("%s/%d", c.name, len(limits)), func(t *testing.T) {
				s := command(t.Name(), "x")
				s.Path, s.Cwd, s.Env, s.Rlimits = []byte(c.path), []byte(c.cwd), [][]byte{[]byte(c.env)}, limits
				if c.errno == 0 {
					if out, _ := a.output(s); !strings.Contains(out, c.words) {
						t.Errorf("output %q", out)
					}
					return
				}
				s.Hold = []string{"kept"} // not when the start fails
				_, _, err := a.launch(s)
				if !errors.Is(err, c.errno) || !strings.Contains(err.Error(), c.words) || !strings.HasSuffix(err.Error(), c.errno.Error()) {
					t.Errorf("%v; want %v with %q", err, c.errno, c.words)
				}
				if held, procs, err := a.List(a.ctx()); err != nil || len(held)+len(procs) != 0 {
					t.Errorf("left: %v %v %v", held, procs, err)
				}
			})
		}
		_, procs, _ := a.List(a.ctx())
		for _, p := range procs {
			a.Forget(a.ctx(), p.GetKey())
		}
	}
	if left := childrenOf(k.pid()); len(left) != 1 {
		t.Errorf("children %v, want the agent (%d)", left, a.pid)
	}
}
