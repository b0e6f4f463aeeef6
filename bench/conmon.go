package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// stubRuntime is what conmon takes for an OCI runtime: it starts the program of the bundle, in the lightest way there is.
const stubRuntime = `#!/bin/sh
while [ $# -gt 0 ]; do
	case $1 in
	create) create=1 ;;
	--bundle) bundle=$2 ;;
	--pid-file) pidfile=$2 ;;
	esac
	shift
done
[ "$create" ] || exit 0
. "$bundle/program" &
echo $! >"$pidfile"
`

// conmonRun is a program under conmon.
type conmonRun struct {
	dir string
	cmd *exec.Cmd
	pid int // of the conmon that stays
}

// startConmon has conmon run argv with its files in dir, which it makes; its log is dir/out. It returns
// when the program runs.
func startConmon(ctx context.Context, dir string, argv ...string) (*conmonRun, error) {
	if err := os.MkdirAll(filepath.Join(dir, "exits"), 0o700); err != nil {
		return nil, err
	}
	runtime := filepath.Join(dir, "runtime")
	if err := os.WriteFile(runtime, []byte(stubRuntime), 0o700); err != nil {
		return nil, err
	}
	program := "exec '" + strings.Join(argv, "' '") + "'\n"
	if err := os.WriteFile(filepath.Join(dir, "program"), []byte(program), 0o600); err != nil {
		return nil, err
	}
	args := []string{
		"--cid", "bench", "--cuuid", "bench", "--name", "bench", "--runtime", runtime, "--bundle", dir,
		"--container-pidfile", filepath.Join(dir, "pid"), "--conmon-pidfile", filepath.Join(dir, "conmon.pid"),
		"--exit-dir", filepath.Join(dir, "exits"), "--persist-dir", dir, "--socket-dir-path", dir, "--full-attach", "--no-sync-log",
		"--log-path", "k8s-file:" + filepath.Join(dir, "out"),
	}
	c := &conmonRun{dir: dir, cmd: exec.CommandContext(ctx, "conmon", args...)}
	c.cmd.Stderr = os.Stderr
	// conmon forks, and the one that stays becomes a child of the bench, which is a subreaper.
	if err := c.cmd.Run(); err != nil {
		return nil, fmt.Errorf("conmon: %w", err)
	}
	b, err := os.ReadFile(filepath.Join(dir, "conmon.pid"))
	if err != nil {
		return nil, err
	}
	c.pid, err = strconv.Atoi(strings.TrimSpace(string(b)))
	return c, err
}

// wait returns when conmon has ended, which it does when the program's output is written, with the CPU time that it took.
// Its exit status means nothing: the stub is a shell, and may reap a program that ends at once before conmon can.
func (c *conmonRun) wait() (time.Duration, error) {
	cpu, _, err := waitAny(c.pid)
	return cpu, err
}

// conmon has conmon write the child's output in the CRI format.
func (f *flow) conmon(ctx context.Context) (values, error) {
	c, err := startConmon(ctx, f.dir, f.writer()...)
	if err != nil {
		return nil, err
	}
	cpu, err := c.wait()
	end := monotonic()
	if err != nil {
		return nil, err
	}
	return f.measured(end, cpu)
}

// beSubreaper makes this process the parent of what its children leave behind: prctl(2).
func beSubreaper() error {
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("become a subreaper: %w", err)
	}
	return nil
}

// reapAll reaps what has become this process's child and has ended.
func reapAll() {
	for {
		pid, err := unix.Wait4(-1, nil, unix.WNOHANG, nil)
		if pid <= 0 && !errors.Is(err, unix.EINTR) {
			return
		}
	}
}
