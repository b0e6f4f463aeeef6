package doctest

import (
	"bufio"
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// The most that anything here may take. It is long, for machines that are busy.
const patience = 60 * time.Second

// binaries builds muxd and muxctl, once, and returns their directory.
var binaries = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "doctest")
	if err != nil {
		return "", err
	}
	built = dir
	c := exec.Command("go", "build", "-o", dir, "./cmd/muxd", "./cmd/muxctl")
	c.Dir = root
	c.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := c.CombinedOutput(); err != nil {
		return "", errors.New(string(out))
	}
	return dir, nil
})

// built is what TestMain removes.
var built string

func TestMain(m *testing.M) {
	code := m.Run()
	if built != "" {
		os.RemoveAll(built)
	}
	os.Exit(code)
}

// session is a muxd of the test's own, and a directory in which commands are run.
type session struct {
	t   *testing.T
	dir string
	env []string
	// last is the exit status of the last command, and asked whether the next one must look at it.
	last  int
	asked bool
}

// newSession starts a muxd with that configuration. It is stopped at the end of the test, and must leave nothing behind.
func newSession(t *testing.T, config string) *session {
	t.Helper()
	bin, err := binaries()
	if err != nil {
		t.Fatalf("build muxd: %v", err)
	}
	dir, err := os.MkdirTemp("", "doc") // not t.TempDir: the path of a socket is short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	s := &session{t: t, dir: filepath.Join(dir, "work")}
	run := filepath.Join(dir, "run")
	for _, d := range []string{s.dir, run} {
		if err := os.Mkdir(d, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	for _, kv := range os.Environ() {
		if name, _, _ := strings.Cut(kv, "="); name != "PATH" && name != "MUXD_SOCKET" {
			s.env = append(s.env, kv)
		}
	}
	s.env = append(s.env, "PATH="+bin+":"+os.Getenv("PATH")+":/usr/sbin:/sbin", "XDG_RUNTIME_DIR="+run,
		"HOME="+dir, "TERM=xterm", "LC_ALL=C")

	c := exec.Command(filepath.Join(bin, "muxd"), "--config", config)
	c.Env = s.env
	errs, err := c.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	ready, ended := make(chan struct{}), make(chan struct{})
	var log bytes.Buffer // read after ended
	go func() {
		defer close(ended)
		lines := bufio.NewScanner(errs)
		for began := false; lines.Scan(); {
			log.WriteString(lines.Text() + "\n")
			if !began && strings.Contains(lines.Text(), "muxd is ready") {
				began = true
				close(ready)
			}
		}
	}()
	t.Cleanup(func() {
		c.Process.Signal(unix.SIGTERM)
		late := time.AfterFunc(patience, func() { c.Process.Kill() })
		<-ended // every process that has muxd's stderr is gone
		err := c.Wait()
		late.Stop()
		if err != nil {
			t.Errorf("muxd ended with %v", err)
		}
		if left, _ := os.ReadDir(run); len(left) > 0 {
			t.Errorf("muxd left %v in its runtime directory", left)
		}
		if t.Failed() {
			t.Logf("the log of muxd:\n%s", log.Bytes())
		}
	})
	select {
	case <-ready:
	case <-ended:
		t.Fatal("muxd did not start")
	case <-time.After(patience):
		t.Fatal("muxd is not ready")
	}
	return s
}

// run runs the commands of a block.
func (s *session) run(b block) {
	s.t.Helper()
	list, err := steps(b)
	if err != nil {
		s.t.Fatal(err)
	}
	for _, c := range list {
		asks := c.command == "echo $?"
		if s.last != 0 && s.asked && !asks {
			s.t.Fatalf("README.md:%d: the command before it failed with status %d", c.line, s.last)
		}
		output, status := s.command(c.command)
		s.last, s.asked = status, !asks
		if got := printed(output); !matches(c.want, got) {
			s.t.Fatalf("README.md:%d: %s\nprints\n%s\nand README.md shows\n%s", c.line, c.command, got, strings.Join(c.want, "\n"))
		}
	}
	if s.last != 0 && s.asked {
		s.t.Fatalf("README.md:%d: the last command failed with status %d", b.line, s.last)
	}
}

// command runs a command on a new terminal, and returns what it prints there and its exit status.
func (s *session) command(text string) (output string, status int) {
	s.t.Helper()
	master, tty := terminal(s.t)
	defer master.Close()
	// (exit N) makes $? what the last command left.
	c := exec.Command("bash", "--norc", "-c", `(exit "$1"); eval "$2"`, "bash", itoa(s.last), text)
	c.Dir, c.Env = s.dir, s.env
	c.Stdin, c.Stdout, c.Stderr = tty, tty, tty
	c.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	err := c.Start()
	tty.Close()
	if err != nil {
		s.t.Fatal(err)
	}
	late := time.AfterFunc(patience, func() { syscall.Kill(-c.Process.Pid, unix.SIGKILL) })
	defer late.Stop()
	var out bytes.Buffer
	out.ReadFrom(master) // up to EIO, when nobody has the terminal open any more: pty(7)
	err = c.Wait()
	if exit, ok := errors.AsType[*exec.ExitError](err); err != nil && (!ok || exit.ExitCode() < 0) {
		s.t.Fatalf("%s: %v after printing\n%s", text, err, out.String())
	}
	return out.String(), c.ProcessState.ExitCode()
}
