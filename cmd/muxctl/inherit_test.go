package main

import (
	"fmt"
	"os"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/muxd/muxd/internal/need"
)

// sh is a child that runs a script.
func sh(script string) inheritRequest {
	return inheritRequest{Path: "/bin/sh", Argv: []string{"sh", "-c", script}}
}

func TestInheritedExitStatus(t *testing.T) {
	s := startInheritShell(t, sh("echo here; exit 7"))
	s.see("here")
	if status := s.done(); !status.Exited() || status.ExitStatus() != 7 {
		t.Errorf("status %#x", status)
	}
	s.jobEnded()
}

// ^C and ^\ go to the child's group, and muxctl lives to tell.
func TestInheritedInterrupt(t *testing.T) {
	for key, want := range map[string]syscall.Signal{"\x03": unix.SIGINT, "\x1c": unix.SIGQUIT} {
		s := startInheritShell(t, sh("echo ready; exec sleep 1000"))
		s.see("ready")
		s.press(key)
		if status := s.done(); !status.Signaled() || status.Signal() != want {
			t.Errorf("key %q: status %#x", key, status)
		}
		s.jobEnded()
	}
}

// ^Z stops the child and muxctl, and the shell gets its terminal back as it was; fg gives the child its own modes again.
func TestInheritedSuspend(t *testing.T) {
	s := startInheritShell(t, reader("SIGCONT"))
	s.see("ready")
	child := s.started()
	for range 3 {
		s.press("\x1a")
		s.jobStopped(unix.SIGTSTP)
		if state := processState(t, child); state != "T" {
			t.Errorf("the child's state is %s", state)
		}
		s.command("fg")
		s.see("got-SIGCONT")
		s.press("hello\r")
		s.see("<hello>")
	}
	s.press("\x03")
	if status := s.done(); status.Signal() != unix.SIGINT {
		t.Errorf("status %#x", status)
	}
	s.jobEnded()
	for text, want := range map[string]int{"hello": 3, "got-SIGCONT": 3} { // ECHO is off, and one SIGCONT is enough
		if got := strings.Count(s.screen(), text); got != want {
			t.Errorf("%q is shown %d times, want %d:\n%s", text, got, want, s.screen())
		}
	}
}

// A child in the background stops when it reads from the terminal, like any job; fg then lets it.
func TestInheritedBackground(t *testing.T) {
	s := startInheritShell(t, sh(`echo ready; read x; echo "<$x>"`))
	s.see("ready")
	s.press("\x1a")
	s.jobStopped(unix.SIGTSTP)
	s.command("bg")
	s.jobStopped(unix.SIGTSTP) // it has read
	s.command("fg")
	s.press("word\r")
	s.see("<word>")
	if status := s.done(); status.ExitStatus() != 0 {
		t.Errorf("status %#x", status)
	}
	s.jobEnded()
}

// Started in the background it leaves the terminal to the shell, whose modes and foreground stay.
func TestInheritedStartedInBackground(t *testing.T) {
	r := sh("echo there")
	r.Background = true
	s := startInheritShell(t, r)
	s.see("there")
	s.done()
	if e := s.report("exited"); e.Foreground != "shell" || !e.Modes {
		t.Errorf("at its end: %+v", e)
	}
}

// A shell sends no SIGCONT to a running job that it puts into the foreground; muxctl notices when the child wants to read.
func TestInheritedForegroundWhileRunning(t *testing.T) {
	fifo := t.TempDir() + "/fifo"
	if err := unix.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	r := sh(`echo ready; read go <` + fifo + `; read x; echo "<$x>"`)
	r.Background, r.Lend = true, true
	s := startInheritShell(t, r)
	s.see("ready")
	s.command("lend")
	s.report("lent")
	if err := os.WriteFile(fifo, []byte("go\n"), 0); err != nil {
		t.Fatal(err)
	}
	s.press("word\r")
	s.see("<word>")
	s.done()
	s.jobEnded()
}

// The others of a pipeline stop with muxctl, or the shell would go on waiting for the job.
func TestInheritedSuspendsPipeline(t *testing.T) {
	r := reader("SIGCONT")
	r.Peer = true
	s := startInheritShell(t, r)
	peer := s.report("peer").PID
	s.see("ready")
	s.press("\x1a")
	s.jobStopped(unix.SIGTSTP)
	if state := processState(t, peer); state != "T" {
		t.Errorf("the state of the other one is %s", state)
	}
	s.command("fg")
	s.see("got-SIGCONT")
	s.press("\x03")
	s.done()
	s.jobEnded()
}

// Where no shell could continue it, ^Z has no effect.
func TestInheritedWithoutShell(t *testing.T) {
	s := startInheritOrphan(t, reader("SIGCONT"))
	s.see("ready")
	s.press("\x1a")
	s.see("got-SIGCONT")
	s.press("on\r")
	s.see("<on>")
	s.press("\x04")
	if status := s.done(); status.ExitStatus() != 0 {
		t.Errorf("status %#x", status)
	}
}

func TestInheritedTerminal(t *testing.T) {
	s := startInheritShell(t, sh(`tty >/dev/null && stty size && echo to-tty >/dev/tty && read x </dev/tty && echo "<$x>"`))
	s.see(fmt.Sprintf("%d %d", inheritRows, inheritCols))
	s.see("to-tty")
	s.press("word\r")
	s.see("<word>")
	s.done()
	s.jobEnded()
}

// A child that is killed leaves the terminal in whatever modes it had set.
func TestInheritedRestoresModes(t *testing.T) {
	s := startInheritShell(t, sh("stty raw -echo; kill -KILL $$"))
	if status := s.done(); status.Signal() != unix.SIGKILL {
		t.Errorf("status %#x", status)
	}
	s.jobEnded()
}

// A job-control shell as the child makes groups of its own and lends them the terminal.
func TestInheritedShell(t *testing.T) {
	s := startInheritShell(t, sh(`set -m; sh -c 'echo inner; kill -KILL $PPID; read x' & fg`))
	s.see("inner")
	if status := s.done(); status.Signal() != unix.SIGKILL {
		t.Errorf("status %#x", status)
	}
	s.jobEnded()
}

func TestInheritedForwardsSignals(t *testing.T) {
	signals := []string{"SIGHUP", "SIGINT", "SIGQUIT", "SIGUSR1", "SIGUSR2"}
	s := startInheritShell(t, reader(strings.Join(signals, " ")))
	job := s.report("started").Job
	s.see("ready")
	for _, name := range signals {
		if err := unix.Kill(job, unix.SignalNum(name)); err != nil {
			t.Fatal(err)
		}
		s.see("got-" + name)
	}
	if err := unix.Kill(job, unix.SIGTSTP); err != nil {
		t.Fatal(err)
	}
	s.jobStopped(unix.SIGTSTP)
	s.command("fg")
	if err := unix.Kill(job, unix.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if status := s.done(); status.Signal() != unix.SIGTERM {
		t.Errorf("status %#x", status)
	}
	s.jobEnded()
}

// Ignored and blocked signals that muxctl was started with do not reach the child.
func TestInheritedSignalsAreDefault(t *testing.T) {
	r := inheritRequest{Path: "/bin/grep", Argv: []string{"grep", "-E", "^Sig(Blk|Ign)", "/proc/self/status"}}
	r.Ignore = "HUP INT PIPE TERM USR1 TSTP TTIN TTOU CONT WINCH"
	s := startInheritShell(t, r)
	s.see("SigBlk:\t0000000000000000\r\nSigIgn:\t0000000000000000\r\n")
	if e := s.report("done"); !e.StillIgnored {
		t.Error("muxctl no longer ignores what it was told to ignore")
	}
	s.jobEnded()
}

// The child has 0, 1 and 2 whatever else muxctl was started with, and what the request says.
func TestInheritedSurroundings(t *testing.T) {
	r := sh("ls -m /proc/$$/fd; umask; pwd; echo $V")
	r.Umask, r.Dir, r.Env = ptr(0o27), "/usr", []string{"V=value", "PATH=/usr/bin:/bin"}
	s := startInheritShell(t, r)
	s.see("0, 1, 2\r\n0027\r\n/usr\r\nvalue\r\n")
	if e := s.report("done"); e.Umask == 0o27 {
		t.Error("muxctl has the child's umask")
	}
	s.jobEnded()
}

func ptr[T any](v T) *T { return &v }

func TestInheritedCredential(t *testing.T) {
	need.Root(t)
	r := sh("id -u; id -g")
	r.UID = 65534
	s := startInheritShell(t, r)
	s.see("65534\r\n65534\r\n")
	s.done()
	s.jobEnded()
}

func TestInheritedStartFails(t *testing.T) {
	plain := t.TempDir() + "/plain"
	if err := os.WriteFile(plain, []byte("text"), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, x := range []struct {
		request inheritRequest
		want    string
	}{
		{inheritRequest{Path: "/nonexistent", Argv: []string{"x"}}, "start /nonexistent: no such file or directory"},
		{inheritRequest{Path: plain, Argv: []string{"x"}}, "start " + plain + ": permission denied"},
		{inheritRequest{Path: "/bin/sh", Argv: []string{"x"}, Dir: "/nowhere"},
			"start /bin/sh: change to directory /nowhere: no such file or directory"},
		{inheritRequest{Path: "/bin/sh", Argv: []string{"x"}, Dir: plain}, "start /bin/sh: change to directory " + plain + ": not a directory"},
	} {
		s := startInheritShell(t, x.request)
		if e := s.report("done"); e.Err != x.want {
			t.Errorf("got  %s\nwant %s", e.Err, x.want)
		}
		s.jobEnded()
	}
}

// Where nobody wants the child any more, it is killed and reaped, and the terminal comes back.
func TestInheritedGivenUp(t *testing.T) {
	refused := sh("trap '' HUP TERM INT; echo ready; exec sleep 1000")
	refused.Refuse = true
	cancelled := refused
	cancelled.Refuse, cancelled.Cancel = false, true
	for want, r := range map[string]inheritRequest{"refused": refused, "": cancelled} {
		s := startInheritShell(t, r)
		e := s.report("done")
		if e.Err != want || want == "" && e.Status.Signal() != unix.SIGKILL {
			t.Errorf("want error %q: %+v", want, e)
		}
		if err := unix.Kill(e.PID, 0); err != unix.ESRCH {
			t.Errorf("the child lives: %v", err)
		}
		s.jobEnded()
	}
}

func TestIsControllingTerminal(t *testing.T) {
	s := startInheritShell(t, sh("exit 0"))
	e := s.report("done")
	if !e.Controlling {
		t.Error("the job's stdin is not its controlling terminal")
	}
	if e.PipeControlling {
		t.Error("a pipe is")
	}
	s.jobEnded()
	master, tty := openTestPTY(t)
	for _, f := range []*os.File{master, tty} {
		if n, err := descriptor(f); err != nil || isControllingTerminal(n) {
			t.Errorf("%s of another terminal is, %v", f.Name(), err)
		}
	}
}

// processState is the letter of /proc/PID/stat.
func processState(t *testing.T, pid int) string {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		t.Fatal(err)
	}
	return strings.Fields(string(text[strings.LastIndex(string(text), ")")+1:]))[0]
}
