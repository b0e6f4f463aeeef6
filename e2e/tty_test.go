package e2e

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"golang.org/x/sys/unix"
)

// tty is a terminal, with a command on it.
type tty struct {
	master *os.File
	cmd    *exec.Cmd
	exited chan struct{} // closed when the command has been reaped
	modes  unix.Termios  // before the command

	mu      sync.Mutex
	shown   []byte
	matched int           // the end of the last match in shown
	more    chan struct{} // closed, and made anew, when shown has grown
	ended   chan struct{} // closed when no more will be shown
}

func ttyCommand(ts *testscript.TestScript, neg bool, args []string) {
	s := of(ts)
	if len(args) < 2 || neg && args[1] != "seen" {
		ts.Fatalf("usage: tty NAME run|send|expect|seen|resize|restored|hangup|exit ...")
	}
	name, verb, args := args[0], args[1], args[2:]
	y := s.ttys[name]
	if y != nil && verb == "run" { // an earlier one of that name
		y.close()
	}
	if y == nil && verb != "run" {
		ts.Fatalf("tty %s %s: nothing has been run on it", name, verb)
	}
	argument := func() string {
		if len(args) != 1 {
			ts.Fatalf("tty %s %s: want one argument", name, verb)
		}
		return args[0]
	}
	switch verb {
	case "run":
		if len(args) < 2 {
			ts.Fatalf("usage: tty NAME run ROWSxCOLS COMMAND...")
		}
		var err error
		y, err = newTTY(ts, s, args[0], args[1:])
		ts.Check(err)
		s.ttys[name] = y
	case "send":
		text, err := strconv.Unquote(`"` + strings.ReplaceAll(argument(), `"`, `\"`) + `"`)
		ts.Check(err)
		_, err = y.master.WriteString(text)
		ts.Check(err)
	case "expect":
		if err := y.expect(regexp.MustCompile("(?s)" + argument())); err != nil {
			ts.Fatalf("tty %s: %v", name, err)
		}
	case "seen":
		if y.seen(regexp.MustCompile(argument())) == neg {
			ts.Fatalf("tty %s showed %q", name, y.text())
		}
	case "resize":
		ts.Check(y.resize(argument()))
	case "restored":
		if now, err := y.termios(); err != nil || now != y.modes {
			ts.Fatalf("tty %s: the modes are %+v, and were %+v (%v)", name, now, y.modes, err)
		}
	case "hangup":
		ts.Check(y.master.Close())
	case "exit":
		want := anyStatus
		if len(args) > 0 {
			var err error
			want, err = strconv.Atoi(argument())
			ts.Check(err)
		}
		if err := y.exit(want); err != nil {
			ts.Fatalf("tty %s: %v", name, err)
		}
	default:
		ts.Fatalf("tty: unknown verb %s", verb)
	}
}

// newTTY runs argv on a new terminal.
func newTTY(ts *testscript.TestScript, s *script, size string, argv []string) (*tty, error) {
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY|unix.O_NONBLOCK, 0) // non-blocking: Close ends a Read
	if err != nil {
		return nil, err
	}
	y := &tty{
		master: master, exited: make(chan struct{}), more: make(chan struct{}), ended: make(chan struct{}),
	}
	slave, err := y.open(size)
	if err != nil {
		master.Close()
		return nil, err
	}
	defer slave.Close()
	y.cmd = exec.Command(argv[0], argv[1:]...)
	if y.cmd.Path, err = lookPath(argv[0], ts.Getenv("PATH")); err != nil {
		master.Close()
		return nil, err
	}
	y.cmd.Err = nil
	y.cmd.Dir = ts.MkAbs(".")
	for _, name := range []string{
		"PATH", "HOME", "TMPDIR", "XDG_RUNTIME_DIR", "MUXD_SOCKET", "LC_ALL", "TERM", "PS1", "WORK", "GORACE", markEnv,
	} {
		y.cmd.Env = append(y.cmd.Env, name+"="+ts.Getenv(name))
	}
	y.cmd.Stdin, y.cmd.Stdout, y.cmd.Stderr = slave, slave, slave
	y.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	if err := y.cmd.Start(); err != nil {
		master.Close()
		return nil, err
	}
	go func() {
		defer close(y.exited)
		y.cmd.Wait()
	}()
	go y.read()
	return y, nil
}

// lookPath looks a program up in the script's PATH, not in this test's.
func lookPath(name, path string) (string, error) {
	for _, dir := range append([]string{""}, regexp.MustCompile(":").Split(path, -1)...) {
		if dir == "" && name[0] != '/' {
			continue
		}
		if p, err := exec.LookPath(dir + "/" + name); err == nil {
			return p, nil
		}
	}
	return "", fmt.Errorf("%s is not in %s", name, path)
}

// control calls f with the master's descriptor.
func (y *tty) control(f func(fd int) error) error {
	c, err := y.master.SyscallConn()
	if err != nil {
		return err
	}
	var inner error
	return errors.Join(c.Control(func(fd uintptr) { inner = f(int(fd)) }), inner)
}

// open opens the terminal's other side.
func (y *tty) open(size string) (slave *os.File, err error) {
	err = y.control(func(fd int) error {
		if err := unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0); err != nil {
			return err
		}
		n, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.TIOCGPTPEER, unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC)
		if errno != 0 {
			return errno
		}
		slave = os.NewFile(n, "tty")
		return nil
	})
	if err != nil {
		return nil, err
	}
	if err := y.resize(size); err != nil {
		slave.Close()
		return nil, err
	}
	y.modes, err = y.termios()
	return slave, err
}

func (y *tty) resize(size string) error {
	var w unix.Winsize
	if _, err := fmt.Sscanf(size, "%dx%d", &w.Row, &w.Col); err != nil {
		return fmt.Errorf("size %s: %w", size, err)
	}
	return y.control(func(fd int) error { return unix.IoctlSetWinsize(fd, unix.TIOCSWINSZ, &w) })
}

// termios returns the modes. The master's are the terminal's own (tty_mode_ioctl in drivers/tty/tty_ioctl.c).
func (y *tty) termios() (modes unix.Termios, err error) {
	err = y.control(func(fd int) error {
		m, err := unix.IoctlGetTermios(fd, unix.TCGETS)
		if err == nil {
			modes = *m
		}
		return err
	})
	return modes, err
}

// read collects what is shown until the last process has closed the terminal, which is EIO, or the master is closed.
func (y *tty) read() {
	defer close(y.ended)
	buf := make([]byte, 32<<10)
	for {
		n, err := y.master.Read(buf)
		y.mu.Lock()
		y.shown = append(y.shown, buf[:n]...)
		close(y.more)
		y.more = make(chan struct{})
		y.mu.Unlock()
		if err != nil {
			return
		}
	}
}

func (y *tty) expect(re *regexp.Regexp) error {
	timeout := time.After(soon)
	for over := false; ; {
		y.mu.Lock()
		rest, more := y.shown[y.matched:], y.more
		if loc := re.FindIndex(rest); loc != nil {
			y.matched += loc[1]
			y.mu.Unlock()
			return nil
		}
		y.mu.Unlock()
		if over {
			return fmt.Errorf("%q does not match %s", rest, re)
		}
		select {
		case <-more:
		case <-y.ended:
			over = true
		case <-timeout:
			over = true
		}
	}
}

// text is everything that has been shown.
func (y *tty) text() string {
	y.mu.Lock()
	defer y.mu.Unlock()
	return string(y.shown)
}

func (y *tty) seen(re *regexp.Regexp) bool { return re.MatchString(y.text()) }

// anyStatus is no exit status: it stands for all.
const anyStatus = -2

func (y *tty) exit(want int) error {
	select {
	case <-y.exited:
	case <-time.After(soon):
		return fmt.Errorf("the command does not end; it showed %q", y.text())
	}
	if got := y.cmd.ProcessState.ExitCode(); got != want && want != anyStatus {
		return fmt.Errorf("the command ended with %v, want status %d; it showed %q", y.cmd.ProcessState, want, y.text())
	}
	return nil
}

// close ends the command, if it still runs.
func (y *tty) close() {
	y.master.Close()
	select {
	case <-y.exited:
	default:
		unix.Kill(-y.cmd.Process.Pid, unix.SIGKILL)
		<-y.exited
	}
	<-y.ended
}
