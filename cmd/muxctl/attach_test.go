package main

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"github.com/muxd/muxd/control"
)

// fakeConsole is the console's end of a viewer connection, which speaks the bytes of PROTOCOL.md by itself.
type fakeConsole struct {
	t *testing.T
	s int
}

func newFakeConsole(t *testing.T) (*fakeConsole, *os.File) {
	t.Helper()
	p, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	c := &fakeConsole{t, p[0]}
	t.Cleanup(c.close)
	return c, os.NewFile(uintptr(p[1]), "viewer")
}

func (c *fakeConsole) close() {
	if c.s >= 0 {
		unix.Close(c.s)
		c.s = -1
	}
}

func (c *fakeConsole) send(b []byte) {
	c.t.Helper()
	if err := unix.Send(c.s, b, unix.MSG_NOSIGNAL); err != nil {
		c.t.Fatal(err)
	}
}

func (c *fakeConsole) output(s string) { c.send(append([]byte{0x81, 0, 0, 0, 0, 0, 0, 0, 0}, s...)) }

// end sends the wait status.
func (c *fakeConsole) end(status uint32) {
	c.send(binary.BigEndian.AppendUint32([]byte{0x85, 1}, status))
}

// next is the next frame, in words; "" at the end of the connection.
func (c *fakeConsole) next() string {
	c.t.Helper()
	n, err := -1, error(unix.EINTR)
	for errors.Is(err, unix.EINTR) {
		n, err = unix.Poll([]unix.PollFd{{Fd: int32(c.s), Events: unix.POLLIN}}, 20000)
	}
	if n != 1 {
		c.t.Fatalf("the client sends nothing: %v", err)
	}
	b := make([]byte, 70000)
	n, err = unix.Read(c.s, b)
	switch {
	case err != nil || n == 0:
		return ""
	case b[0] == 1:
		off := binary.BigEndian.Uint64(b[1:]) + uint64(n-9)
		unix.Send(c.s, binary.BigEndian.AppendUint64([]byte{0x82}, off), unix.MSG_NOSIGNAL) // the client may have left
		return string(b[9:n])
	case b[0] == 2:
		return fmt.Sprintf("size %dx%d", binary.BigEndian.Uint16(b[1:]), binary.BigEndian.Uint16(b[3:]))
	case b[0] == 3:
		return "end of input"
	}
	return fmt.Sprintf("frame %#x", b[0])
}

// expect takes frames until what they typed, put together, is want.
func (c *fakeConsole) expect(want string) {
	c.t.Helper()
	got := ""
	for got != want {
		s := c.next()
		if s == "" || !strings.HasPrefix(want, got+s) {
			c.t.Fatalf("the client sent %q and then %q, want %q", got, s, want)
		}
		got += s
	}
}

// userTerminal is a PTY whose master the test is the person at.
type userTerminal struct {
	t      *testing.T
	master *os.File
	tty    *os.File
	modes  unix.Termios
	mu     sync.Mutex
	shown  bytes.Buffer
	more   chan struct{}
}

func newUserTerminal(t *testing.T) *userTerminal {
	t.Helper()
	m, err := unix.Open("/dev/ptmx", unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.IoctlSetPointerInt(m, unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	s, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(m), unix.TIOCGPTPEER, unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC)
	if errno != 0 {
		t.Fatal(errno)
	}
	if err := unix.IoctlSetWinsize(m, unix.TIOCSWINSZ, &unix.Winsize{Row: 24, Col: 80}); err != nil {
		t.Fatal(err)
	}
	u := &userTerminal{
		t:      t,
		master: os.NewFile(uintptr(m), "master"),
		tty:    os.NewFile(s, "terminal"),
		more:   make(chan struct{}, 1),
	}
	u.modes = u.now()
	done := make(chan struct{})
	go func() {
		defer close(done)
		buf := make([]byte, 4096)
		for {
			n, err := u.master.Read(buf)
			if err != nil {
				return
			}
			u.mu.Lock()
			u.shown.Write(buf[:n])
			u.mu.Unlock()
			select {
			case u.more <- struct{}{}:
			default:
			}
		}
	}()
	t.Cleanup(func() {
		u.tty.Close()
		u.master.Close()
		<-done
	})
	return u
}

func (u *userTerminal) now() unix.Termios {
	u.t.Helper()
	fd, err := descriptor(u.tty)
	if err != nil {
		u.t.Fatal(err)
	}
	m, err := unix.IoctlGetTermios(fd, unix.TCGETS)
	if err != nil {
		u.t.Fatal(err)
	}
	return *m
}

func (u *userTerminal) raw() bool { return u.now().Lflag&unix.ICANON == 0 }

func (u *userTerminal) press(s string) {
	u.t.Helper()
	if _, err := u.master.WriteString(s); err != nil {
		u.t.Fatal(err)
	}
}

func (u *userTerminal) screen() string {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.shown.String()
}

func (u *userTerminal) see(text string) {
	u.t.Helper()
	timeout := time.After(20 * time.Second)
	for !strings.Contains(u.screen(), text) {
		select {
		case <-u.more:
		case <-timeout:
			u.t.Fatalf("%q is not shown: %q", text, u.screen())
		}
	}
}

// checkRestored fails the test where the terminal is not as it was before.
func (u *userTerminal) checkRestored() {
	u.t.Helper()
	if now := u.now(); now != u.modes {
		u.t.Errorf("the terminal's modes are %+v, they were %+v", now, u.modes)
	}
	fd, err := descriptor(u.tty)
	if err != nil {
		u.t.Fatal(err)
	}
	if flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFL, 0); err != nil || flags&unix.O_NONBLOCK != 0 {
		u.t.Errorf("O_NONBLOCK was set on the user's terminal (%v)", err)
	}
}

// attachRun is an attachTerminal that runs in the test's process.
type attachRun struct {
	t      *testing.T
	done   chan struct{}
	result attachResult
	err    error
}

func startAttach(t *testing.T, ctx context.Context, f *os.File, o attachOptions) *attachRun {
	t.Helper()
	v, err := control.NewViewer(f)
	if err != nil {
		t.Fatal(err)
	}
	r := &attachRun{t: t, done: make(chan struct{})}
	go func() {
		defer close(r.done)
		r.result, r.err = attachTerminal(ctx, v, o)
	}()
	return r
}

func (r *attachRun) wait() (attachResult, error) {
	r.t.Helper()
	select {
	case <-r.done:
	case <-time.After(20 * time.Second):
		r.t.Fatal("attachTerminal does not return")
	}
	return r.result, r.err
}

// setup is an attach with a terminal, already in raw mode.
func setup(t *testing.T, o attachOptions) (*fakeConsole, *userTerminal, *attachRun) {
	t.Helper()
	ignore := goleak.IgnoreCurrent()
	t.Cleanup(func() { goleak.VerifyNone(t, ignore) })
	c, f := newFakeConsole(t)
	u := newUserTerminal(t)
	o.Name, o.Stdin, o.Stdout, o.Stderr = "web", u.tty, u.tty, u.tty
	r := startAttach(t, context.Background(), f, o)
	if !o.ReadOnly {
		c.expect("size 24x80")
	} else {
		c.output("ready")
		u.see("ready")
	}
	if !u.raw() {
		t.Error("the terminal is not in raw mode")
	}
	return c, u, r
}

var ctrlPQ = []byte("\x10\x11")

func TestAttachDetachKeys(t *testing.T) {
	c, u, r := setup(t, attachOptions{DetachKeys: ctrlPQ})
	u.press("ls\r\x1a\x03")
	c.expect("ls\r\x1a\x03")
	u.press("\x10x")
	c.expect("\x10x")
	u.press("\x10") // alone: passed on after a while
	c.expect("\x10")
	c.output("one\ntwo\x1b[31m\x1b[?1049h")
	u.see("one\ntwo\x1b[31m\x1b[?1049h")
	u.press("last\x10\x11for the shell\r")
	if res, err := r.wait(); err != nil || res != (attachResult{Detached: true}) {
		t.Errorf("%+v, %v", res, err)
	}
	u.checkRestored()
	u.see("\x1b[m\x1b[?1049l\x1b[23;0t\r\r\n[detached from web]\r\n")
	c.expect("last")
	if s := c.next(); s != "" {
		t.Errorf("after the detach %q was sent", s)
	}
	fd, _ := descriptor(u.tty)
	b := make([]byte, 100)
	if n, _ := unix.Read(fd, b); string(b[:n]) != "for the shell\r" && string(b[:n]) != "for the shell\n" {
		t.Errorf("%q is left for the shell", b[:max(n, 0)])
	}
}

func TestAttachEnd(t *testing.T) {
	for _, c := range []struct {
		frame []byte
		want  attachResult
		line  string
	}{
		{[]byte{0x85, 1, 0, 0, 3, 0}, attachResult{Ended: true, HasStatus: true, Status: 3 << 8}, "[web exited with status 3]"},
		{[]byte{0x85, 1, 0, 0, 0, 9}, attachResult{Ended: true, HasStatus: true, Status: 9}, "[web was killed by signal SIGKILL]"},
		{[]byte{0x85, 1, 0, 0, 0, 0x8b}, attachResult{Ended: true, HasStatus: true, Status: 0x8b},
			"[web was killed by signal SIGSEGV, core dumped]"},
		{[]byte{0x85, 0, 0, 0, 0, 0}, attachResult{Ended: true}, "[web has ended; its exit status is not known]"},
	} {
		t.Run(c.line, func(t *testing.T) {
			console, u, r := setup(t, attachOptions{})
			console.output("bye\r\n")
			console.send(c.frame)
			if res, err := r.wait(); err != nil || res != c.want {
				t.Errorf("%+v, %v, want %+v", res, err, c.want)
			}
			u.checkRestored()
			u.see("bye\r\n\x1b[23;0t\r" + c.line + "\r\n")
		})
	}
}

func TestAttachConnectionBreaks(t *testing.T) {
	c, u, r := setup(t, attachOptions{})
	c.output("\x1b[?25l")
	c.send(append([]byte{0x84}, "muxd goes down"...))
	c.close()
	if _, err := r.wait(); err == nil || !strings.Contains(err.Error(), "broke") {
		t.Errorf("%v", err)
	}
	u.checkRestored()
	u.see("\r\n[muxd goes down]\r\n\x1b[?25h")
}

func TestAttachSizes(t *testing.T) {
	c, u, r := setup(t, attachOptions{DetachKeys: ctrlPQ})
	fd, _ := descriptor(u.tty)
	unix.IoctlSetWinsize(fd, unix.TIOCSWINSZ, &unix.Winsize{Row: 30, Col: 90})
	unix.Kill(os.Getpid(), unix.SIGWINCH) // it is not this process's controlling terminal
	c.expect("size 30x90")
	unix.Kill(os.Getpid(), unix.SIGCONT)
	c.expect("size 30x91size 30x90")
	u.press("\x10\x11")
	r.wait()
}

func TestAttachSignals(t *testing.T) {
	for _, sig := range []syscall.Signal{unix.SIGTERM, unix.SIGHUP, unix.SIGINT} {
		asked := make(chan os.Signal, 2)
		answers := make(chan bool, 2)
		answers <- true
		answers <- false
		c, u, r := setup(t, attachOptions{Signal: func(s os.Signal) bool { asked <- s; return <-answers }})
		unix.Kill(os.Getpid(), sig)
		if s := <-asked; s != sig {
			t.Errorf("asked about %v, want %v", s, sig)
		}
		u.press("still here")
		c.expect("still here")
		unix.Kill(os.Getpid(), sig)
		var se *signalError
		if res, err := r.wait(); !errors.As(err, &se) || se.signal != sig || !res.Detached {
			t.Errorf("%v: %+v, %v", sig, res, err)
		}
		u.checkRestored()
	}
}

func TestAttachReadOnly(t *testing.T) {
	c, u, r := setup(t, attachOptions{ReadOnly: true, DetachKeys: ctrlPQ})
	u.press("not sent\x10\x11")
	r.wait()
	u.checkRestored()
	if s := c.next(); s != "" {
		t.Errorf("%q was sent", s)
	}
}

// A console that takes nothing does not keep the user from detaching.
func TestAttachDetachWhileBlocked(t *testing.T) {
	_, u, r := setup(t, attachOptions{DetachKeys: ctrlPQ})
	fill := strings.Repeat("x", 3000)
	for range control.ViewerWindow/len(fill) + 2 { // nothing is acknowledged, since nothing is read
		u.press(fill)
	}
	u.press("\x10\x11")
	if res, err := r.wait(); err != nil || !res.Detached {
		t.Errorf("%+v, %v", res, err)
	}
	u.checkRestored()
}

// A terminal that stands still does not keep a signal from ending it.
func TestAttachStuckTerminal(t *testing.T) {
	c, u, r := setup(t, attachOptions{})
	fd, _ := descriptor(u.tty)
	if err := unix.IoctlSetInt(fd, unix.TCXONC, unix.TCOOFF); err != nil { // as ^S does
		t.Fatal(err)
	}
	c.output(strings.Repeat("y", 60000))
	unix.Kill(os.Getpid(), unix.SIGTERM)
	r.wait()
	u.checkRestored()
	if err := unix.IoctlSetInt(fd, unix.TCXONC, unix.TCOON); err != nil {
		t.Fatal(err)
	}
}

// pipes is an attach without a terminal.
func pipes(t *testing.T, o attachOptions) (c *fakeConsole, in, out *os.File, r *attachRun) {
	t.Helper()
	ignore := goleak.IgnoreCurrent()
	t.Cleanup(func() { goleak.VerifyNone(t, ignore) })
	c, f := newFakeConsole(t)
	inR, in, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	out, outW, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	o.Name, o.Stdin, o.Stdout, o.Stderr = "web", inR, outW, outW
	r = startAttach(t, context.Background(), f, o)
	t.Cleanup(func() {
		for _, f := range []*os.File{in, inR, out, outW} {
			f.Close()
		}
	})
	return c, in, out, r
}

func TestAttachPipes(t *testing.T) {
	c, in, out, r := pipes(t, attachOptions{DetachKeys: ctrlPQ})
	in.WriteString("a\x10\x11b") // no keys: what is not typed does not detach
	c.expect("a\x10\x11b")
	in.Close()
	c.expect("end of input")
	c.output("one\n\x1b[?1049h")
	c.end(0)
	if res, err := r.wait(); err != nil || res != (attachResult{Ended: true, HasStatus: true}) {
		t.Errorf("%+v, %v", res, err)
	}
	b := make([]byte, 100)
	if n, _ := out.Read(b); string(b[:n]) != "one\n\x1b[?1049h" {
		t.Errorf("stdout got %q", b[:n])
	}
}

func TestAttachStdoutCloses(t *testing.T) {
	c, _, out, r := pipes(t, attachOptions{})
	out.Close()
	c.output("x")
	if res, err := r.wait(); err != nil || res != (attachResult{Detached: true}) {
		t.Errorf("%+v, %v", res, err)
	}
}

// Of a terminal that is gone SIGCONT may be seen before SIGHUP. It is a detach all the same, and no error after which run would wait for
// the child.
func TestAttachHangUp(t *testing.T) {
	u := newUserTerminal(t)
	a, err := newAttachment(nil, attachOptions{Name: "web", Stdin: u.tty, Stdout: u.tty, Stderr: u.tty})
	if err != nil {
		t.Fatal(err)
	}
	defer a.close()
	u.master.Close()
	a.resume()
	want := outcome{result: attachResult{Detached: true}}
	if end := <-a.outcome; end != want {
		t.Errorf("SIGCONT: %+v", end)
	}
	if res, err := a.run(context.Background()); err != nil || res != want.result {
		t.Errorf("run: %+v, %v", res, err)
	}
}

// attachHelperEnv makes this test binary an attach of its own, with the viewer's socket as fd 3.
const attachHelperEnv = "MUXCTL_TEST_ATTACH"

func TestAttachHelper(t *testing.T) {
	if os.Getenv(attachHelperEnv) == "" {
		t.Skip("a part of TestAttachSuspends")
	}
	v, err := control.NewViewer(os.NewFile(3, "viewer"))
	if err != nil {
		t.Fatal(err)
	}
	attachTerminal(context.Background(), v, attachOptions{Name: "web"})
}

// SIGTSTP gives the terminal back and stops; SIGCONT takes it again and has the screen drawn.
func TestAttachSuspends(t *testing.T) {
	c, f := newFakeConsole(t)
	u := newUserTerminal(t)
	cmd := exec.Command(os.Args[0], "-test.run=^TestAttachHelper$")
	cmd.Env = append(os.Environ(), attachHelperEnv+"=1")
	cmd.Stdin, cmd.Stdout, cmd.Stderr, cmd.ExtraFiles = u.tty, u.tty, u.tty, []*os.File{f}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	f.Close()
	reaped := false
	defer func() {
		if !reaped {
			cmd.Process.Kill()
			cmd.Wait()
		}
	}()
	c.expect("size 24x80")
	c.output("\x1b[?2004hready")
	u.see("ready")

	cmd.Process.Signal(unix.SIGTSTP)
	var status unix.WaitStatus
	if _, err := unix.Wait4(cmd.Process.Pid, &status, unix.WUNTRACED, nil); err != nil || !status.Stopped() {
		t.Fatalf("it does not stop: %v %#x", err, status)
	}
	u.checkRestored()
	u.see("\x1b[?2004l")

	cmd.Process.Signal(unix.SIGCONT)
	c.expect("size 24x81size 24x80")
	if !u.raw() {
		t.Error("the terminal is not in raw mode again")
	}
	u.see("\x1b[?2004l\x1b[23;0t\x1b[22;0t\x1b[?2004h")
	u.press("x")
	c.expect("x")
	c.end(0)
	if err := cmd.Wait(); err != nil {
		t.Error(err)
	}
	reaped = true
	u.checkRestored()
}
