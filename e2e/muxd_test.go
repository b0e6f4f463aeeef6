package e2e

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"golang.org/x/sys/unix"

	"github.com/muxd/muxd/internal/need"
)

const (
	soon     = 20 * time.Second      // for what happens at once, on a machine that may be busy
	interval = 20 * time.Millisecond // between two looks at something that cannot be waited for
)

// muxd is a running muxd: its keeper.
type muxd struct {
	cmd    *exec.Cmd
	dir    string        // its runtime directory
	log    string        // path of its log
	exited chan struct{} // closed when it has been reaped
}

func muxdUp(ts *testscript.TestScript, neg bool, args []string) {
	s := of(ts)
	if neg || s.muxd != nil {
		ts.Fatalf("muxd-up cannot be negated, and one muxd must be down before the next goes up")
	}
	argv, group := []string{filepath.Join(bin, "muxd")}, ""
	for len(args) > 1 && strings.HasPrefix(args[0], "-") {
		switch args[0] {
		case "-nofile":
			argv = append([]string{"sh", "-c", `ulimit -n ` + args[1] + `; exec "$@"`, "sh"}, argv...)
		case "-program":
			argv[len(argv)-1] = args[1]
		case "-cgroup":
			if group = ts.Getenv(args[1]); group == "" {
				group = need.Cgroup(s.t, os.Geteuid())
				ts.Setenv(args[1], group)
			}
		case "-devpts":
			argv = append([]string{"unshare", "--mount", "sh", "-e", "-c", privatePts, args[1]}, argv...)
		default:
			ts.Fatalf("muxd-up: unknown option %s", args[0])
		}
		args = args[2:]
	}
	switch len(args) {
	case 0:
	case 1:
		argv = append(argv, "--config", args[0])
	default:
		ts.Fatalf("usage: muxd-up [-nofile N] [-devpts N] [-cgroup VARIABLE] [-program MUXD] [CONFIG]")
	}
	m, err := startMuxd(ts, argv, group)
	ts.Check(err)
	s.muxd = m
	for deadline := time.Now().Add(soon); ; time.Sleep(interval) {
		c, err := net.Dial("unix", filepath.Join(m.dir, "control.sock"))
		if err == nil {
			c.Close()
			return
		}
		if m.over() {
			s.muxd = nil
			ts.Fatalf("muxd ended: %v\n%s", m.cmd.ProcessState, m.logTail())
		}
		if time.Now().After(deadline) {
			ts.Fatalf("muxd does not listen: %v", err)
		}
	}
}

// privatePts mounts a devpts of its own with $0 terminals, and executes its arguments.
const privatePts = `mount -t devpts -o newinstance,ptmxmode=0666,max="$0" devpts /dev/pts
mount --bind /dev/pts/ptmx /dev/ptmx
exec "$@"`

// startMuxd starts muxd, in a cgroup unless that is empty.
func startMuxd(ts *testscript.TestScript, argv []string, group string) (*muxd, error) {
	m := &muxd{
		dir: filepath.Join(of(ts).runtime, "muxd"), log: ts.MkAbs("muxd.log"), exited: make(chan struct{}),
	}
	flags := os.O_CREATE | os.O_WRONLY | os.O_APPEND | os.O_TRUNC
	if of(ts).killed != nil {
		flags &^= os.O_TRUNC
	}
	log, err := os.OpenFile(m.log, flags, 0o600)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	m.cmd = exec.Command(argv[0], argv[1:]...)
	m.cmd.Dir, m.cmd.Stdout, m.cmd.Stderr = ts.MkAbs("."), log, log
	for _, name := range []string{
		"PATH", "HOME", "TMPDIR", "XDG_RUNTIME_DIR", "LC_ALL", "TERM", markEnv, "GORACE",
	} {
		m.cmd.Env = append(m.cmd.Env, name+"="+ts.Getenv(name))
	}
	// What a terminal sends to this test's group is none of muxd's.
	m.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if group != "" {
		need.InCgroup(of(ts).t, m.cmd.SysProcAttr, group)
	}
	if err := m.cmd.Start(); err != nil {
		return nil, err
	}
	go func() {
		defer close(m.exited)
		m.cmd.Wait()
	}()
	return m, nil
}

func (m *muxd) over() bool {
	select {
	case <-m.exited:
		return true
	default:
		return false
	}
}

func muxdDown(ts *testscript.TestScript, neg bool, args []string) { end(ts, neg, args, true) }

func muxdGone(ts *testscript.TestScript, neg bool, args []string) { end(ts, neg, args, false) }

// end waits for muxd to end, and looks for what it has left.
func end(ts *testscript.TestScript, neg bool, args []string, ask bool) {
	s := of(ts)
	m := s.muxd
	if neg || len(args) > 0 || m == nil {
		ts.Fatalf("muxd-down and muxd-gone take no arguments, and muxd must be up")
	}
	below := append(descendants(m.cmd.Process.Pid), s.orphans...)
	if ask {
		ts.Check(m.cmd.Process.Signal(unix.SIGTERM))
	}
	select {
	case <-m.exited:
	case <-time.After(soon):
		ts.Fatalf("muxd does not end") // the script's close shows the log
	}
	var wrong []string
	complain := func(format string, args ...any) { wrong = append(wrong, fmt.Sprintf(format, args...)) }
	if !m.cmd.ProcessState.Success() {
		complain("muxd ended with %v", m.cmd.ProcessState)
	}
	if _, err := os.Lstat(m.dir); !os.IsNotExist(err) {
		left, _ := filepath.Glob(m.dir + "/*")
		complain("the runtime directory is still there, with %v", left)
	}
	if left, _ := filepath.Glob(s.tmp + "/*"); len(left) > 0 {
		complain("left in TMPDIR: %v", left)
	}
	for _, p := range below {
		if p.alive() {
			complain("a process of muxd is left: %s", p)
		}
	}
	for _, p := range strangers(s.mark) {
		complain("a process is left: %s", p)
	}
	log := m.logText()
	for _, bad := range []string{"DATA RACE", "panic:", "fatal error:"} {
		if strings.Contains(log, bad) {
			complain("the log tells of a %s", bad)
		}
	}
	if len(wrong) > 0 {
		ts.Fatalf("%s", strings.Join(wrong, "\n"))
	}
	s.muxd, s.killed, s.orphans = nil, nil, nil
}

func muxdSignal(ts *testscript.TestScript, neg bool, args []string) {
	s := of(ts)
	if neg || len(args) != 1 || s.muxd == nil {
		ts.Fatalf("usage: muxd-signal SIGNAL, while muxd is up")
	}
	sig := unix.SignalNum("SIG" + args[0])
	if sig == 0 {
		ts.Fatalf("unknown signal %s", args[0])
	}
	ts.Check(s.muxd.cmd.Process.Signal(sig))
}

func muxdKill(ts *testscript.TestScript, neg bool, args []string) {
	s := of(ts)
	if neg || len(args) > 0 || s.muxd == nil {
		ts.Fatalf("usage: muxd-kill, while muxd is up")
	}
	both := []int{s.muxd.cmd.Process.Pid}
	for _, p := range descendants(both[0]) {
		if line := commandLine(p.pid); p.parent == both[0] && len(line) > 1 && line[1] == "agent" {
			both = append(both, p.pid)
		}
	}
	if len(both) != 2 {
		ts.Fatalf("muxd has no agent")
	}
	s.orphans = slices.DeleteFunc(descendants(both[0]), func(p process) bool { return p.pid == both[1] })
	for _, sig := range []unix.Signal{unix.SIGSTOP, unix.SIGKILL} {
		for _, pid := range both {
			ts.Check(unix.Kill(pid, sig))
		}
	}
	<-s.muxd.exited
	for agent := both[1]; ; time.Sleep(interval) { // it is nobody's child here
		if p, ok := look(agent); !ok || !p.alive() {
			break
		}
	}
	s.killed, s.muxd = s.muxd, nil
}

func muxdFollowed(ts *testscript.TestScript, neg bool, args []string) {
	s := of(ts)
	if neg || len(args) > 0 || s.muxd == nil {
		ts.Fatalf("usage: muxd-followed, when another keeper is in the place of the one that was started")
	}
	select {
	case <-s.muxd.exited:
	case <-time.After(soon):
		ts.Fatalf("the keeper that was started lives")
	}
	ts.Check(ts.Exec("muxctl", "agent", "stop"))
	for deadline := time.Now().Add(soon); ; time.Sleep(interval) {
		_, err := os.Lstat(s.muxd.dir)
		left := strangers(s.mark)
		if os.IsNotExist(err) && len(left) == 0 {
			break
		}
		if time.Now().After(deadline) {
			ts.Fatalf("left: %s (%v), %v", s.muxd.dir, err, left)
		}
	}
	s.muxd, s.killed, s.orphans = nil, nil, nil
}

func killClient(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: kill-client SIGNAL REGEXP")
	}
	sig, re := unix.SignalNum("SIG"+args[0]), regexp.MustCompile(args[1])
	if sig == 0 {
		ts.Fatalf("unknown signal %s", args[0])
	}
	var found []process
	for _, p := range marked(of(ts).mark) {
		if line := commandLine(p.pid); filepath.Base(line[0]) == "muxctl" && re.MatchString(strings.Join(line[1:], " ")) {
			found = append(found, p)
		}
	}
	if len(found) != 1 {
		ts.Fatalf("want one muxctl whose arguments match %s, found %v", re, found)
	}
	ts.Check(unix.Kill(found[0].pid, sig))
}

func (m *muxd) logText() string {
	b, _ := os.ReadFile(m.log)
	return string(b)
}

// logTail is as much of the log as a failure should show.
func (m *muxd) logTail() string {
	text := m.logText()
	if most := 12 << 10; len(text) > most {
		text = "[...]" + text[len(text)-most:]
	}
	return text
}

// kill ends what a failed script has left: the keeper, and all that carries the script's mark.
func (m *muxd) kill(mark string, orphans []process) {
	if !m.over() {
		m.cmd.Process.Signal(unix.SIGTERM)
	}
	select {
	case <-m.exited:
	case <-time.After(3 * time.Second):
	}
	all := marked(mark)
	m.cmd.Process.Kill()
	<-m.exited
	for _, p := range slices.Concat(all, marked(mark), orphans) {
		if p.alive() {
			unix.Kill(p.pid, unix.SIGKILL)
		}
	}
	os.RemoveAll(m.dir)
}
