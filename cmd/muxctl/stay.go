package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/muxd/muxd/control"
	"github.com/muxd/muxd/control/controlpb"
)

const defaultDetachKeys = "ctrl-p,ctrl-q"

// forwarded are the signals that a muxctl which stays with a child passes on to it.
var forwarded = []os.Signal{unix.SIGTERM, unix.SIGINT, unix.SIGHUP, unix.SIGQUIT, unix.SIGUSR1, unix.SIGUSR2}

// forward passes a signal on to a child. What is wrong with that is shown at its end.
func forward(m *control.Client, id string, s os.Signal) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	m.API.Signal(ctx, &controlpb.SignalRequest{Child: id, Signal: uint32(s.(syscall.Signal))})
}

// catch makes the channel of signals to pass on. It is made before the child, so that none ends muxctl and leaves the
// child alone.
func catch() chan os.Signal {
	signals := make(chan os.Signal, 16)
	signal.Notify(signals, forwarded...)
	return signals
}

// stayWaiting waits for a child without a viewer, and passes signals on to it.
func (a *app) stayWaiting(ctx context.Context, m *control.Client, id string, signals chan os.Signal) error {
	done := make(chan struct{})
	defer close(done)
	go func() {
		for {
			select {
			case s := <-signals:
				forward(m, id, s)
			case <-done:
				return
			}
		}
	}()
	return a.finish(ctx, m, id)
}

// stayAttached shows the child's console until the child ends or the user detaches.
func (a *app) stayAttached(ctx context.Context, m *control.Client, resp *controlpb.SpawnResponse, v *control.Viewer, keys []byte, signals chan os.Signal) error {
	for len(signals) > 0 { // those from now on are attachTerminal's
		if s := <-signals; s != unix.SIGHUP || !terminalGone() { // the child does not go with this terminal
			forward(m, resp.Id, s)
		}
	}
	r, err := attachTerminal(ctx, v, attachOptions{
		Name: resp.Name, DetachKeys: keys,
		Signal: func(s os.Signal) bool { forward(m, resp.Id, s); return true },
	})
	if err == nil && r.Detached {
		return nil
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "muxctl: the viewer of %s ended: %v\n", resp.Name, err)
	}
	return a.finish(ctx, m, resp.Id)
}

// finish waits for a child's end and returns its status as an exitError; nil for 0.
func (a *app) finish(ctx context.Context, m *control.Client, id string) error {
	c, err := a.finished(ctx, m, id)
	if err != nil {
		return err
	}
	return statusError(c)
}

// finished waits for a child's end, and says what was lost.
func (a *app) finished(ctx context.Context, m *control.Client, id string) (*controlpb.Child, error) {
	c, err := m.Wait(ctx, id)
	if err != nil {
		return nil, err
	}
	for _, h := range c.Holders {
		fmt.Fprintf(os.Stderr, "muxctl: %s of %s was cut at the drain deadline: process %d (%s) still held it\n",
			h.Stream, c.Name, h.Pid, h.Command)
	}
	for _, s := range c.Sinks {
		if s.State == "failed" {
			fmt.Fprintf(os.Stderr, "muxctl: %s of %s: %s\n", s.Stream, c.Name, s.Error)
		}
	}
	return c, nil
}

// statusError is the child's exit status as muxctl's own.
func statusError(c *controlpb.Child) error {
	ws := syscall.WaitStatus(c.Status)
	switch {
	case c.State == "failed":
		return fmt.Errorf("%s: %s", c.Name, c.Error)
	case onlyStreams(c):
		return nil
	case !c.StatusKnown:
		return &exitError{exitUnreachable, fmt.Errorf("%s has ended, and its exit status is not known", c.Name)}
	case ws.Signaled():
		return &exitError{code: 128 + int(ws.Signal())}
	case ws.ExitStatus() != 0:
		return &exitError{code: ws.ExitStatus()}
	}
	return nil
}

// runForked runs a child on muxctl's own terminal: muxctl forks it, and muxd follows it.
func (a *app) runForked(ctx context.Context, m *control.Client, cs *controlpb.ChildSpec) error {
	if cs.User != "" || len(cs.Rlimits) > 0 {
		return usageError("run: --user and --rlimit do not go with an inherited terminal; use --sink pty, or sudo -u and ulimit in the command")
	}
	path, err := lookPath(string(cs.Argv[0]), string(cs.Cwd))
	if err != nil {
		return err
	}
	f, err := m.SpawnForked(ctx, cs)
	if err != nil {
		return err
	}
	child := inheritedChild{Path: path, Dir: string(cs.Cwd), Files: [3]*os.File{os.Stdin, os.Stdout, os.Stderr}}
	for i, name := range []string{"stdin", "stdout", "stderr"} {
		if near := f.NearEnds[name]; near != nil {
			child.Files[i] = near
		}
	}
	for _, b := range cs.Argv {
		child.Argv = append(child.Argv, string(b))
	}
	for _, b := range cs.Env {
		child.Env = append(child.Env, string(b))
	}
	if cs.Umask != nil {
		mask := int(*cs.Umask)
		child.Umask = &mask
	}
	forked := false
	status, err := runInherited(ctx, child, func(pid, pidfd int) error {
		for _, near := range f.NearEnds {
			near.Close()
		}
		n, err := unix.FcntlInt(uintptr(pidfd), unix.F_DUPFD_CLOEXEC, 3)
		if err != nil {
			return err
		}
		file := os.NewFile(uintptr(n), "pidfd")
		defer file.Close()
		if err := f.Forked(ctx, pid, file); err != nil {
			return err
		}
		forked = true
		return nil
	})
	if err != nil {
		if !forked {
			f.Failed(context.WithoutCancel(ctx), err)
		}
		return err
	}
	c, err := a.finished(ctx, m, f.ID)
	if err != nil {
		return err
	}
	if !c.StatusKnown { // it ended while muxd was away, and only its parent could see how
		c.Status, c.StatusKnown = uint32(status), true
	}
	return statusError(c)
}

// lookPath finds the program of a child that muxctl forks, relative to the child's working directory.
func lookPath(name, cwd string) (string, error) {
	if strings.Contains(name, "/") && !filepath.IsAbs(name) {
		return filepath.Join(cwd, name), nil // what is wrong with it the fork says
	}
	path, err := exec.LookPath(name)
	if err != nil {
		return "", fmt.Errorf("run %s: %w", name, err)
	}
	return path, nil
}

// terminalGone says whether stdin is a terminal that has hung up.
func terminalGone() bool {
	var st unix.Stat_t
	return unix.Fstat(0, &st) == nil && st.Mode&unix.S_IFMT == unix.S_IFCHR && (&terminal{fd: 0}).hungUp()
}

// ownSize is the size of muxctl's terminal; zero where it has none.
func ownSize() (rows, cols int) {
	for _, fd := range []int{0, 1, 2} {
		if ws, err := unix.IoctlGetWinsize(fd, unix.TIOCGWINSZ); err == nil && ws.Row > 0 && ws.Col > 0 {
			return int(ws.Row), int(ws.Col)
		}
	}
	return 0, 0
}

func (a *app) attachCmd() *cobra.Command {
	var readOnly bool
	var keysText, replay string
	c := &cobra.Command{
		Use:   "attach ID",
		Short: "Connect this terminal with a child's console",
		Long: `attach shows a child's console and passes on what is typed, until the child ends or the detach keys are typed.
Several can be attached at once. It exits with the child's status if the child ends, and with 0 after a detach.`,
		Args: args(cobra.ExactArgs(1)), ValidArgsFunction: a.completeThen(),
		RunE: func(c *cobra.Command, argv []string) error {
			keys, err := parseDetachKeys(keysText)
			if err != nil {
				return usageError("--detach-keys %s: %w", keysText, err)
			}
			if err := checkReplay(replay); err != nil {
				return err
			}
			m, err := a.muxd()
			if err != nil {
				return err
			}
			rows, cols := ownSize()
			child, err := m.API.Inspect(c.Context(), &controlpb.InspectRequest{Child: argv[0]})
			if err != nil {
				return err
			}
			v, err := m.Attach(c.Context(), child.Id, control.AttachOptions{
				ReadOnly: readOnly, Replay: replay, Rows: rows, Cols: cols, Terminal: canHandOver(0, 1),
			})
			if err != nil {
				return err
			}
			r, err := attachTerminal(c.Context(), v, attachOptions{Name: child.Name, DetachKeys: keys, ReadOnly: readOnly})
			switch {
			case err != nil:
				return err
			case r.Detached:
				return nil
			}
			return a.finish(c.Context(), m, child.Id)
		},
	}
	c.Flags().BoolVar(&readOnly, "read-only", false, "only look")
	c.Flags().StringVar(&keysText, "detach-keys", defaultDetachKeys, "`KEYS` that detach; empty: none")
	c.Flags().StringVar(&replay, "replay", "screen", "what of the past to show first: `WHAT` is screen, all, none or lines=N")
	return c
}

// checkReplay judges --replay.
func checkReplay(s string) error {
	var n int
	switch _, err := fmt.Sscanf(s, "lines=%d", &n); {
	case s == "screen", s == "all", s == "none", err == nil && n >= 0:
		return nil
	}
	return usageError("--replay %s: want screen, all, none or lines=N", s)
}
