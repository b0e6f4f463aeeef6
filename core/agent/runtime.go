package agent

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/muxd/muxd/core/keeper"
	"github.com/muxd/muxd/internal/fd"
)

// A command that starts a container with an OCI runtime names what muxd gives the runtime by these words, anywhere in its
// arguments.
const (
	consoleSocketWord = "{console-socket}" // the path of a socket, to which the runtime sends the master of the container's terminal
	pidFileWord       = "{pid-file}"       // the path of a file, into which it writes the pid of the container's first process
)

// ociRuntime says which of them the command of a child has; nil: none, and the child is no runtime.
type ociRuntime struct{ console, pidFile bool }

func runtimeOf(argv [][]byte) *ociRuntime {
	var r ociRuntime
	for _, arg := range argv {
		r.console = r.console || bytes.Contains(arg, []byte(consoleSocketWord))
		r.pidFile = r.pidFile || bytes.Contains(arg, []byte(pidFileWord))
	}
	if r == (ociRuntime{}) {
		return nil
	}
	return &r
}

// checkRuntime says whether the sinks of c fit its command.
func checkRuntime(c *child) error {
	takes := ""
	for _, ch := range c.sinks {
		if ch.wiring == wiringSocket {
			takes = ch.text
		}
	}
	has := c.runtime != nil && c.runtime.console
	switch {
	case takes != "" && !has:
		return fmt.Errorf("sink %s: the command does not say where to send the console; as in runc run -d --console-socket %s --pid-file %s NAME",
			takes, consoleSocketWord, pidFileWord)
	case takes == "" && has:
		return fmt.Errorf("the command has %s, and no sink takes what is sent there; use --sink pty,from=console-socket", consoleSocketWord)
	case c.runtime != nil && c.forks:
		return fmt.Errorf("the command has %s or %s, and a terminal that is inherited cannot be a container's; use another sink", consoleSocketWord, pidFileWord)
	}
	return nil
}

// containers is the directory of what runtimes are given, in the runtime directory.
const containers = "containers"

// runtimeDir is a directory for one run of c, and nobody else's, while its container is being started.
func (a *Agent) runtimeDir(c *child) string {
	return filepath.Join(a.o.RuntimeDir, containers, fmt.Sprintf("%s-%d", c.id(), c.rec.Run))
}

func (a *Agent) consoleSocket(c *child) string { return filepath.Join(a.runtimeDir(c), "console") }
func (a *Agent) pidFile(c *child) string       { return filepath.Join(a.runtimeDir(c), "pid") }

// command is the argument vector of c's next process.
func (a *Agent) command(c *child) [][]byte {
	if c.runtime == nil {
		return c.spec.Argv
	}
	var out [][]byte
	for _, arg := range c.spec.Argv {
		arg = bytes.ReplaceAll(arg, []byte(consoleSocketWord), []byte(a.consoleSocket(c)))
		out = append(out, bytes.ReplaceAll(arg, []byte(pidFileWord), []byte(a.pidFile(c))))
	}
	return out
}

// makeRuntimeDir makes the directory, empty, and gives it to the child's user.
func (a *Agent) makeRuntimeDir(c *child) error {
	dir := a.runtimeDir(c)
	parent := filepath.Dir(dir)
	if err := os.MkdirAll(parent, 0o711); err != nil {
		return fmt.Errorf("make the directory of a container: %w", err)
	}
	if err := os.RemoveAll(dir); err != nil {
		return fmt.Errorf("clear the directory of a container: %w", err)
	}
	if err := os.Mkdir(dir, 0o700); err != nil {
		return fmt.Errorf("make the directory of a container: %w", err)
	}
	if c.user == nil || int(c.user.cred.GetUid()) == os.Geteuid() {
		return nil
	}
	if st, err := os.Stat(a.o.RuntimeDir); err == nil && st.Mode()&0o001 == 0 {
		return fmt.Errorf("user %s cannot reach the runtime directory %s, where the runtime's console socket and pid file are: chmod 0711 %s",
			c.spec.User, a.o.RuntimeDir, a.o.RuntimeDir)
	}
	if err := os.Lchown(dir, int(c.user.cred.GetUid()), int(c.user.cred.GetGid())); err != nil {
		return fmt.Errorf("give the directory of a container to user %s: %w", c.spec.User, err)
	}
	return nil
}

// listenForConsole listens at path, which is in a directory that only the runtime's user may enter. The socket does not block.
func listenForConsole(path string, uid, gid int) (*fd.FD, error) {
	n, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("make the console socket: %w", err)
	}
	l := fd.New(n)
	err = errors.Join(unix.Fchmod(n, 0o600), unix.Bind(n, &unix.SockaddrUnix{Name: path}))
	if err == nil && uid != os.Geteuid() {
		err = os.Lchown(path, uid, gid)
	}
	if err == nil {
		err = unix.Listen(n, 8)
	}
	if err != nil {
		l.Close()
		return nil, fmt.Errorf("listen on the console socket %s: %w", path, err)
	}
	return l, nil
}

// wordsMost is how much of what a runtime says about itself is kept.
const wordsMost = 64 << 10

// newWords makes what a runtime whose container has a console gets as its own stdout and stderr: memory of a fixed size, which is looked
// at only where the runtime fails. Nobody has to read it for the runtime to go on.
func newWords() (*fd.FD, error) {
	n, err := unix.MemfdCreate("muxd-runtime", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	if err != nil {
		return nil, fmt.Errorf("make memory for what the runtime says: %w", err)
	}
	f := fd.New(n)
	err = unix.Ftruncate(n, wordsMost)
	if err == nil {
		_, err = unix.FcntlInt(uintptr(n), unix.F_ADD_SEALS, unix.F_SEAL_GROW|unix.F_SEAL_SHRINK)
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("make memory for what the runtime says: %w", err)
	}
	return f, nil
}

// wordsShown is how much of it is in an error.
const wordsShown = 2 << 10

// lastWords is the end of what a runtime has said, for people.
func lastWords(words *fd.FD) string {
	b := make([]byte, wordsMost)
	n, err := unix.Pread(words.Int(), b, 0)
	if err != nil {
		return ""
	}
	b = bytes.TrimRight(b[:n], "\x00") // what was not written
	if len(b) > wordsShown {
		b = b[len(b)-wordsShown:]
	}
	return strings.TrimSpace(strings.ToValidUTF8(string(b), "\ufffd"))
}

// pidFileMost is longer than any pid.
const pidFileMost = 32

// readPidFile reads the file of a runtime that has exited: it is not being written any more.
func readPidFile(path string) (int, error) {
	n, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err == unix.ENOENT {
		return 0, errors.New("it has written no pid file")
	}
	if err != nil {
		return 0, fmt.Errorf("open its pid file: %w", err)
	}
	f := fd.New(n)
	defer f.Close()
	var st unix.Stat_t
	if err := unix.Fstat(n, &st); err != nil || st.Mode&unix.S_IFMT != unix.S_IFREG {
		return 0, errors.New("its pid file is no regular file")
	}
	b := make([]byte, pidFileMost+1)
	got, err := unix.Read(n, b)
	if err != nil {
		return 0, fmt.Errorf("read its pid file: %w", err)
	}
	text := strings.TrimSpace(string(b[:max(got, 0)]))
	pid, err := strconv.ParseUint(text, 10, 31)
	if err != nil || got > pidFileMost || pid < 2 || pid > math.MaxInt32 {
		return 0, fmt.Errorf("its pid file says %q, which is no pid", text[:min(len(text), pidFileMost)])
	}
	return int(pid), nil
}

// leftBehind returns a pidfd, owned by the caller, of a process that is younger than the one that started at `after`. It is closed where
// there is none: the process has exited, and been reaped.
func leftBehind(pid int, after uint64) (*fd.FD, error) {
	started, err := keeper.StartTime(pid)
	if errors.Is(err, unix.ESRCH) {
		return fd.New(-1), nil
	}
	if err != nil {
		return nil, err
	}
	if started < after {
		return nil, fmt.Errorf("the runtime's pid file names process %d, which is older than the runtime", pid)
	}
	f, err := keeper.OpenProcess(pid, started)
	if errors.Is(err, unix.ESRCH) {
		return fd.New(-1), nil
	}
	return f, err
}
