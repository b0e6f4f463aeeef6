package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// The tests of the inherited terminal have three processes on a new terminal: a shell (the session leader), a job of
// it that calls runInherited, as muxctl does, and the child. Shell and job are this test binary run again. They
// tell what happens to them as JSON lines on a pipe.

const (
	inheritRole   = "MUXCTL_TEST_ROLE"
	inheritEnv    = "MUXCTL_TEST_REQUEST"
	inheritCatch  = "MUXCTL_TEST_CATCH"
	inheritRows   = 31
	inheritCols   = 97
	inheritSoon   = 20 * time.Second // for what happens at once, on a machine that may be busy
	commandsFD    = 3                // of the shell
	reportsFD     = 4                // of shell and job
	helperPattern = "^TestInheritHelper$"
)

// inheritRequest says what the job runs and how it is started.
type inheritRequest struct {
	Path   string
	Argv   []string
	Env    []string
	Dir    string
	Umask  *int
	UID    uint32
	Ignore string // signals that are ignored when muxctl starts

	Background bool // the shell starts the job in the background
	Lend       bool // and gives it the terminal at the first command, without SIGCONT
	Peer       bool // with another process in the job's group
	Refuse     bool // started answers with an error
	Cancel     bool // started cancels the context
}

// inheritEvent is a line of the pipe.
type inheritEvent struct {
	Event string // peer, lent, started, done, stopped, exited, broken
	PID   int    // of the child (started, done) or the peer
	Job   int    // started

	Status          syscall.WaitStatus // done; and of the job: stopped, exited
	Err             string
	Umask           int
	StillIgnored    bool
	Controlling     bool
	PipeControlling bool

	Foreground string // whose the terminal is before the shell takes it: job, shell, other
	Modes      bool   // the terminal's modes are those from before the job
}

// TestInheritHelper is no test: it is the shell, the job, and the child of some.
func TestInheritHelper(t *testing.T) {
	role := os.Getenv(inheritRole)
	if role == "" {
		return
	}
	if role == "child" {
		inheritReader()
	}
	var r inheritRequest
	if err := json.Unmarshal([]byte(os.Getenv(inheritEnv)), &r); err != nil {
		t.Fatal(err)
	}
	out := json.NewEncoder(os.NewFile(reportsFD, "reports"))
	report := func(e inheritEvent) {
		if err := out.Encode(e); err != nil {
			os.Exit(1) // the test has ended
		}
	}
	if role == "shell" {
		err := inheritShell(r, report)
		if err != nil {
			report(inheritEvent{Event: "broken", Err: "shell: " + err.Error()})
		}
	} else {
		inheritJob(r, report)
	}
	os.Exit(0)
}

// reader is a child that turns ECHO off, shows "ready", each line that it reads as <line>, and each of the signals as
// got-SIGHUP. (A shell's trap would not do: a signal just before its read is not seen until that returns.)
func reader(signals string) inheritRequest {
	return inheritRequest{
		Path: "/proc/self/exe", Argv: []string{"reader", "-test.run", helperPattern},
		Env: []string{inheritRole + "=child", inheritCatch + "=" + signals, "GORACE=atexit_sleep_ms=0"},
	}
}

func inheritReader() {
	caught := make(chan os.Signal, 10)
	for name := range strings.FieldsSeq(os.Getenv(inheritCatch)) {
		signal.Notify(caught, unix.SignalNum(name))
	}
	modes, err := unix.IoctlGetTermios(0, unix.TCGETS)
	if err != nil {
		os.Exit(3)
	}
	modes.Lflag &^= unix.ECHO
	if unix.IoctlSetTermios(0, unix.TCSETS, modes) != nil {
		os.Exit(3)
	}
	go func() {
		for sig := range caught {
			fmt.Println("got-" + unix.SignalName(sig.(syscall.Signal)))
		}
	}()
	fmt.Println("ready")
	for in := bufio.NewScanner(os.Stdin); in.Scan(); {
		fmt.Println("<" + in.Text() + ">")
	}
	os.Exit(0)
}

// inheritJob is what muxctl does.
func inheritJob(r inheritRequest, report func(inheritEvent)) {
	c := inheritedChild{
		Path: r.Path, Argv: r.Argv, Env: r.Env, Dir: r.Dir, Umask: r.Umask,
		Files: [3]*os.File{os.Stdin, os.Stdout, os.Stderr},
	}
	if r.UID != 0 {
		c.Credential = &syscall.Credential{Uid: r.UID, Gid: r.UID}
	}
	if c.Env == nil {
		c.Env = os.Environ()
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	var child int
	status, err := runInherited(ctx, c, func(pid, pidfd int) error {
		child = pid
		if err := unix.PidfdSendSignal(pidfd, 0, nil, 0); err != nil {
			return fmt.Errorf("the pidfd: %w", err)
		}
		report(inheritEvent{Event: "started", PID: pid, Job: os.Getpid()})
		switch {
		case r.Refuse:
			return errors.New("refused")
		case r.Cancel:
			cancel()
		}
		return nil
	})
	e := inheritEvent{Event: "done", PID: child, Status: status, Controlling: isControllingTerminal(0)}
	if err != nil {
		e.Err = err.Error()
	}
	e.PipeControlling = isControllingTerminal(reportsFD)
	e.Umask = unix.Umask(0)
	e.StillIgnored = signal.Ignored(unix.SIGHUP) && ignored(unix.SIGTSTP) && ignored(unix.SIGTTOU)
	report(e)
}

// inheritShell starts the job and waits for it, as a shell does, and puts it into the foreground or background as told.
func inheritShell(r inheritRequest, report func(inheritEvent)) error {
	tty, err := openJobTerminal()
	if err != nil {
		return err
	}
	unix.CloseOnExec(commandsFD)
	commands := json.NewDecoder(os.NewFile(commandsFD, "commands"))

	os.Setenv(inheritRole, "job")
	argv := inheritCommand(r)
	job, err := syscall.ForkExec(argv[0], argv, &syscall.ProcAttr{
		Env:   os.Environ(),
		Files: []uintptr{0, 1, 2, 2, reportsFD}, // the 2 for 3 is one too many, as any program may have
		Sys:   &syscall.SysProcAttr{Setpgid: true, Foreground: !r.Background, Ctty: 0},
	})
	if err != nil {
		return err
	}
	peer := 0
	if r.Peer {
		var input [2]int // whose end is the peer's, when the shell ends
		if err := unix.Pipe2(input[:], unix.O_CLOEXEC); err != nil {
			return err
		}
		peer, err = syscall.ForkExec("/bin/cat", []string{"cat"}, &syscall.ProcAttr{
			Files: []uintptr{uintptr(input[0]), 1, 2},
			Sys:   &syscall.SysProcAttr{Setpgid: true, Pgid: job},
		})
		if err != nil {
			return err
		}
		report(inheritEvent{Event: "peer", PID: peer})
	}
	var command string
	if r.Lend {
		if err := commands.Decode(&command); err != nil {
			return err
		}
		tty.change(func() { unix.IoctlSetPointerInt(tty.fd, unix.TIOCSPGRP, job) })
		report(inheritEvent{Event: "lent"})
	}
	for {
		var status syscall.WaitStatus
		if _, err := syscall.Wait4(job, &status, syscall.WUNTRACED, nil); err == syscall.EINTR {
			continue
		} else if err != nil {
			return err
		}
		e := inheritEvent{Event: "exited", Status: status, Foreground: "other"}
		if status.Stopped() {
			e.Event = "stopped"
			if peer > 0 { // a shell's job is stopped when all of it is
				var status syscall.WaitStatus
				if _, err := syscall.Wait4(peer, &status, syscall.WUNTRACED, nil); err != nil || !status.Stopped() {
					return fmt.Errorf("the peer is not stopped: %#x, %w", status, err)
				}
			}
		}
		switch tty.foreground() {
		case job:
			e.Foreground = "job"
		case tty.own:
			e.Foreground = "shell"
		}
		modes, err := unix.IoctlGetTermios(tty.fd, unix.TCGETS)
		if err != nil {
			return err
		}
		e.Modes = *modes == *tty.modes
		tty.change(func() { unix.IoctlSetPointerInt(tty.fd, unix.TIOCSPGRP, tty.own) })
		report(e)
		if !status.Stopped() {
			return nil
		}
		if err := commands.Decode(&command); err != nil {
			return err
		}
		if command == "fg" {
			tty.change(func() { unix.IoctlSetPointerInt(tty.fd, unix.TIOCSPGRP, job) })
		}
		unix.Kill(-job, unix.SIGCONT)
	}
}

// inheritCommand runs this binary again, with signals ignored where r wants that.
func inheritCommand(r inheritRequest) []string {
	self := []string{"/proc/self/exe", "-test.run", helperPattern}
	if r.Ignore == "" {
		return self
	}
	exe, err := os.Executable()
	if err != nil {
		exe = os.Args[0]
	}
	self[0] = exe
	return append([]string{"/bin/sh", "-c", "trap '' " + r.Ignore + `; exec "$@"`, "sh"}, self...)
}

// testShell is the test's side: it types, looks at the screen, and hears from shell and job.
type testShell struct {
	t        *testing.T
	master   *os.File
	commands *json.Encoder
	events   chan inheritEvent
	held     []inheritEvent // of other kinds than were asked for

	mu   sync.Mutex
	more *sync.Cond
	text []byte
	seen int
	over bool
}

// startInheritShell starts a shell on a new terminal, and the job.
func startInheritShell(t *testing.T, r inheritRequest) *testShell { return startInherit(t, "shell", r) }

// startInheritOrphan starts the job as the session's leader, without a shell.
func startInheritOrphan(t *testing.T, r inheritRequest) *testShell { return startInherit(t, "job", r) }

func startInherit(t *testing.T, role string, r inheritRequest) *testShell {
	t.Helper()
	master, tty := openTestPTY(t)
	commandsR, commandsW := testPipe(t)
	reportsR, reportsW := testPipe(t)
	request, err := json.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("/proc/self/exe", "-test.run", helperPattern)
	cmd.Env = append(os.Environ(), inheritRole+"="+role, inheritEnv+"="+string(request),
		"GORACE=atexit_sleep_ms=0") // the race detector would make every exit take a second
	cmd.Stdin, cmd.Stdout, cmd.Stderr = tty, tty, tty
	cmd.ExtraFiles = []*os.File{commandsR, reportsW}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	for _, f := range []*os.File{tty, commandsR, reportsW} {
		f.Close()
	}

	s := &testShell{t: t, master: master, commands: json.NewEncoder(commandsW), events: make(chan inheritEvent, 100)}
	s.more = sync.NewCond(&s.mu)
	var group sync.WaitGroup
	group.Go(s.readScreen)
	group.Go(func() { s.readEvents(reportsR) })
	t.Cleanup(func() {
		cmd.Process.Kill() // its session is hung up
		master.Close()
		cmd.Wait()
		reportsR.Close()
		for range s.events { // so that no reader waits for room
		}
		group.Wait()
	})
	return s
}

func (s *testShell) readScreen() {
	buf := make([]byte, 4096)
	for {
		n, err := s.master.Read(buf)
		s.mu.Lock()
		s.text = append(s.text, buf[:n]...)
		s.over = err != nil
		s.mu.Unlock()
		s.more.Broadcast()
		if err != nil {
			return
		}
	}
}

func (s *testShell) readEvents(r io.Reader) {
	defer close(s.events)
	for in := json.NewDecoder(r); ; {
		var e inheritEvent
		if in.Decode(&e) != nil {
			return
		}
		s.events <- e
	}
}

func (s *testShell) screen() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return string(s.text)
}

// see waits until text is shown, after what was seen last.
func (s *testShell) see(text string) {
	s.t.Helper()
	late := false
	timer := time.AfterFunc(inheritSoon, func() {
		s.mu.Lock()
		late = true
		s.mu.Unlock()
		s.more.Broadcast()
	})
	defer timer.Stop()
	s.mu.Lock()
	defer s.mu.Unlock()
	for {
		if i := bytes.Index(s.text[s.seen:], []byte(text)); i >= 0 {
			s.seen += i + len(text)
			return
		}
		if late || s.over {
			s.t.Fatalf("%q is not shown; the screen:\n%s", text, s.text)
		}
		s.more.Wait()
	}
}

func (s *testShell) press(keys string) {
	s.t.Helper()
	if _, err := s.master.WriteString(keys); err != nil {
		s.t.Fatal(err)
	}
}

// command tells the shell fg or bg, after it has reported a stop.
func (s *testShell) command(c string) {
	s.t.Helper()
	if err := s.commands.Encode(c); err != nil {
		s.t.Fatal(err)
	}
}

// report waits for an event of that kind.
func (s *testShell) report(kind string) inheritEvent {
	s.t.Helper()
	for i, e := range s.held {
		if e.Event == kind {
			s.held = append(s.held[:i:i], s.held[i+1:]...)
			return e
		}
	}
	timeout := time.After(inheritSoon)
	for {
		select {
		case e, ok := <-s.events:
			switch {
			case !ok:
				s.t.Fatalf("the shell has ended without %q; the screen:\n%s", kind, s.screen())
			case e.Event == kind:
				return e
			case e.Event == "broken", len(s.held) == cap(s.events):
				s.t.Fatalf("%+v, after %+v", e, s.held)
			}
			s.held = append(s.held, e)
		case <-timeout:
			s.t.Fatalf("no %q; other events: %+v; the screen:\n%s", kind, s.held, s.screen())
		}
	}
}

// started returns the child's pid.
func (s *testShell) started() int {
	s.t.Helper()
	return s.report("started").PID
}

// done waits for the end of runInherited and returns the child's status.
func (s *testShell) done() syscall.WaitStatus {
	s.t.Helper()
	e := s.report("done")
	if e.Err != "" {
		s.t.Fatal(e.Err)
	}
	return e.Status
}

// jobStopped waits until the shell sees its job stopped, with the terminal given back.
func (s *testShell) jobStopped(sig syscall.Signal) {
	s.t.Helper()
	if e := s.report("stopped"); e.Status.StopSignal() != sig || e.Foreground == "other" || !e.Modes {
		s.t.Errorf("the job is stopped with %v, the terminal is the %s's, its modes are restored: %v",
			e.Status.StopSignal(), e.Foreground, e.Modes)
	}
}

// jobEnded waits until the shell sees its job ended by itself, with the terminal given back to the job's group.
func (s *testShell) jobEnded() {
	s.t.Helper()
	if e := s.report("exited"); !e.Status.Exited() || e.Status.ExitStatus() != 0 || e.Foreground != "job" || !e.Modes {
		s.t.Errorf("the job has ended with %#x, the terminal is the %s's, its modes are restored: %v\n%s",
			e.Status, e.Foreground, e.Modes, strings.TrimSpace(s.screen()))
	}
}

func testPipe(t *testing.T) (r, w *os.File) {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		r.Close()
		w.Close()
	})
	return r, w
}

// openTestPTY returns both sides of a new terminal.
func openTestPTY(t *testing.T) (master, tty *os.File) {
	t.Helper()
	m, err := unix.Open("/dev/ptmx", unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	master = os.NewFile(uintptr(m), "the master")
	t.Cleanup(func() { master.Close() })
	if err := unix.IoctlSetPointerInt(m, unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	number, err := unix.IoctlGetInt(m, unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.IoctlSetWinsize(m, unix.TIOCSWINSZ, &unix.Winsize{Row: inheritRows, Col: inheritCols}); err != nil {
		t.Fatal(err)
	}
	n, err := unix.Open(fmt.Sprintf("/dev/pts/%d", number), unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	tty = os.NewFile(uintptr(n), "the terminal side")
	t.Cleanup(func() { tty.Close() })
	return master, tty
}
