package e2e

import (
	"cmp"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"golang.org/x/sys/unix"

	"github.com/muxd/muxd/internal/need"
	"github.com/muxd/muxd/sink"
)

// binEnv names a directory in which muxd and muxctl are built already, for a test that runs this one again.
const binEnv = "MUXD_E2E_BIN"

// markEnv marks the processes of a script in their environment.
const markEnv = "MUXD_E2E"

// scriptMost is how long a script may take: one that hangs shall tell where.
const scriptMost = 2 * time.Minute

// bin is where muxd and muxctl are. TestMain sets it before any test runs.
var bin string

func TestMain(m *testing.M) {
	if antidote := os.Getenv(poisonEnv); antidote != "" {
		sink.Serve(poisonPlugin(antidote))
		return
	}
	bin = os.Getenv(binEnv)
	if bin != "" {
		os.Exit(m.Run())
	}
	var err error
	if bin, err = build(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	code := m.Run()
	os.RemoveAll(bin)
	os.Exit(code)
}

// build builds the binaries into a new directory that everybody may read. They have the race detector if this test
// has it.
func build() (string, error) {
	dir, err := os.MkdirTemp("/tmp", "mxbin")
	if err != nil {
		return "", err
	}
	const pkg = "github.com/muxd/muxd/cmd/"
	for _, b := range []struct {
		to, version string
		packages    []string
	}{
		{"", "v0-e2e", []string{pkg + "muxd", pkg + "muxctl"}},
		{"next/", "v1-e2e", []string{pkg + "muxd"}}, // to upgrade to
		{"broken/muxd", "", []string{"github.com/muxd/muxd/e2e/testdata/broken"}},
		{"muxd-sink-spy", "", []string{"github.com/muxd/muxd/e2e/testdata/spy"}},
	} {
		args := []string{"build", "-ldflags", "-X main.version=" + b.version, "-o", dir + "/" + b.to}
		cgo := "CGO_ENABLED=0"
		if race {
			args, cgo = append(args, "-race"), "CGO_ENABLED=1"
		}
		cmd := exec.Command("go", append(args, b.packages...)...)
		cmd.Env = append(os.Environ(), cgo)
		if out, err := cmd.CombinedOutput(); err != nil {
			os.RemoveAll(dir)
			return "", fmt.Errorf("build the binaries: %w\n%s", err, out)
		}
	}
	return dir, os.Chmod(dir, 0o755)
}

// script is what the commands of one script share.
type script struct {
	t       *testing.T
	mark    string    // of the environment of all its processes: NAME=VALUE
	runtime string    // $XDG_RUNTIME_DIR
	tmp     string    // $TMPDIR
	muxd    *muxd     // nil: none is up
	killed  *muxd     // by muxd-kill, and followed by none that has ended; nil: none
	orphans []process // what the one that was killed has left
	ttys    map[string]*tty
	base    counts
}

// scriptKey is the key of the script among testscript's values.
type scriptKey struct{}

func of(ts *testscript.TestScript) *script { return ts.Value(scriptKey{}).(*script) }

// commands is the table of commands that doc.go tells of.
var commands = map[string]func(*testscript.TestScript, bool, []string){
	"muxd-up":     muxdUp,
	"muxd-down":   muxdDown,
	"muxd-gone":   muxdGone,
	"muxd-signal": muxdSignal,
	"muxd-kill":   muxdKill,

	"muxd-followed": muxdFollowed,
	"kill-client":   killClient,
	"status":        status,
	"waitfor":       waitFor,
	"keys":          keys,
	"baseline":      baseline,
	"leaks":         leaks,
	"tmpfs":         tmpfs,
	"tty":           ttyCommand,
	"bundle":        bundle,
	"consoles":      consoles,
	"module":        module,
}

func TestScripts(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txtar")
	if err != nil || len(files) == 0 {
		t.Fatal("no scripts", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txtar"), func(t *testing.T) {
			t.Parallel()
			needs(t, file)
			run(t, file)
		})
	}
}

// needs skips a script that this machine cannot run.
func needs(t *testing.T, file string) {
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		list, ok := strings.CutPrefix(line, "# needs:")
		if !ok {
			return
		}
		for _, what := range strings.Fields(list) {
			if runtime, ok := strings.CutPrefix(what, "container:"); ok {
				needContainers(t, need.Program(t, runtime))
			} else if what == "root" {
				need.Root(t)
			} else if what == "grpcio" {
				need.Python(t, "grpc, google.protobuf", "python3-grpcio python3-protobuf")
			} else {
				need.Program(t, what)
			}
		}
	}
}

// run runs one script, with more variables in its environment.
func run(t *testing.T, file string, env ...string) {
	dir, err := os.MkdirTemp("/tmp", "mx") // short: Unix sockets' paths have 107 bytes
	if err != nil {
		t.Fatal(err)
	}
	s := &script{t: t, runtime: dir, mark: markEnv + "=" + filepath.Base(dir), ttys: map[string]*tty{}}
	defer func() {
		if left, err := os.ReadDir(dir); err != nil || len(left) > 0 && !t.Failed() {
			t.Errorf("left in the runtime directory: %v %v", left, err)
		}
		os.RemoveAll(dir)
	}()
	// What hangs in spite of the deadline, such as a pipe that is still open somewhere, ends with its processes.
	watchdog := time.AfterFunc(scriptMost+soon, func() {
		for _, p := range marked(s.mark) {
			unix.Kill(p.pid, unix.SIGKILL)
		}
	})
	defer watchdog.Stop()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	repo, err := filepath.Abs("..")
	if err != nil {
		t.Fatal(err)
	}
	testscript.RunT(inline{t}, testscript.Params{
		Files:               []string{file},
		Cmds:                commands,
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		Deadline:            time.Now().Add(scriptMost),
		Condition: func(cond string) (bool, error) {
			if cond != "root" {
				return false, fmt.Errorf("unknown condition %q", cond)
			}
			return os.Geteuid() == 0, nil
		},
		Setup: func(e *testscript.Env) error {
			e.Values[scriptKey{}] = s
			s.tmp = e.Getenv("TMPDIR")
			e.Setenv("PATH", bin+":"+e.Getenv("PATH")+":/usr/sbin:/sbin")
			e.Setenv("BIN", bin)
			e.Setenv("REPO", repo)
			e.Setenv("XDG_RUNTIME_DIR", dir)
			e.Setenv("MUXD_SOCKET", filepath.Join(dir, "muxd", "control.sock"))
			e.Setenv("E2E_BINARY", self)
			e.Setenv("LC_ALL", "C.UTF-8")
			e.Setenv("TERM", "xterm")
			e.Setenv("PS1", "sh> ")
			e.Setenv("GORACE", "atexit_sleep_ms=0") // the race detector has every process sleep a second at its end
			e.Vars = append(append(e.Vars, s.mark), env...)
			e.Defer(s.close)
			return nil
		},
	})
}

// close ends what a script has left. A script that has not failed leaves nothing.
func (s *script) close() {
	for _, y := range s.ttys {
		y.close()
	}
	m := cmp.Or(s.muxd, s.killed)
	if m == nil {
		return
	}
	if !s.t.Failed() {
		s.t.Error("the script ends without muxd-down")
	}
	s.t.Logf("muxd.log:\n%s", m.logTail())
	m.kill(s.mark, s.orphans)
}

// inline runs a script as the test that it is called in, not as a test of its own below that.
type inline struct{ *testing.T }

func (t inline) Run(_ string, f func(testscript.T)) { f(t) }
func (t inline) Parallel()                          {}
func (t inline) Verbose() bool                      { return testing.Verbose() }
