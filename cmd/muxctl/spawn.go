package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/muxd/muxd/control"
	"github.com/muxd/muxd/control/controlpb"
)

// spawnFlags are the flags of spawn and run.
type spawnFlags struct {
	name, sink, stdin string
	stdout, stderr    []string
	env               []string
	clearEnv          bool
	cwd, user, umask  string
	rlimits           []string
	restart           string
	size              string
	grace             time.Duration
	remove, attach    bool
	detachKeys        string
}

func (f *spawnFlags) register(a *app, c *cobra.Command) {
	fl := c.Flags()
	fl.SetInterspersed(false) // what follows the command is the command's
	fl.StringVar(&f.name, "name", "", "a `NAME` for the child, unique among the living")
	fl.StringVar(&f.sink, "sink", "", "the `SINK` of all streams that it can carry")
	fl.StringVar(&f.stdin, "stdin", "", "the `SINK` that stdin comes from")
	fl.StringArrayVar(&f.stdout, "stdout", nil, "the `SINK` of stdout; may be repeated: each sink gets all of it")
	fl.StringArrayVar(&f.stderr, "stderr", nil, "the `SINK` of stderr; may be repeated")
	fl.StringArrayVarP(&f.env, "env", "e", nil, "`K=V` for the environment; K alone takes it from muxctl's own; may be repeated")
	fl.BoolVar(&f.clearEnv, "clear-env", false, "give the child no environment but that of --env")
	fl.StringVar(&f.cwd, "cwd", "", "the child's working `DIR` (default muxctl's own)")
	fl.StringVar(&f.user, "user", "", "run as `USER[:GROUP]`, names or numbers (muxd must be root's)")
	fl.StringVar(&f.umask, "umask", "", "the child's umask, `OCTAL`")
	fl.StringArrayVar(&f.rlimits, "rlimit", nil, "`NAME=SOFT[:HARD]`, numbers or unlimited; may be repeated")
	fl.StringVar(&f.restart, "restart", "no", "start the child again when it has ended: `no`, on-failure or always")
	fl.StringVar(&f.size, "size", "", "a console's size before anyone attaches, `ROWSxCOLS`")
	fl.DurationVar(&f.grace, "grace", 0, "between SIGTERM and SIGKILL when it is stopped (default muxd's)")
	fl.BoolVar(&f.remove, "rm", false, "forget the child once it is finished and has been waited for")
	fl.StringVar(&f.detachKeys, "detach-keys", defaultDetachKeys, "`KEYS` that detach; empty: none")
	for _, flag := range []string{"sink", "stdin", "stdout", "stderr"} {
		c.RegisterFlagCompletionFunc(flag, a.completeSink)
	}
	c.RegisterFlagCompletionFunc("restart", cobra.FixedCompletions([]string{"no", "on-failure", "always"}, cobra.ShellCompDirectiveNoFileComp))
}

// spec is the child that flags and arguments describe.
func (f *spawnFlags) spec(argv []string) (*controlpb.ChildSpec, error) {
	cs := &controlpb.ChildSpec{Name: f.name, User: f.user, Remove: f.remove, Grace: int64(f.grace)}
	for _, a := range argv {
		cs.Argv = append(cs.Argv, []byte(a))
	}
	for _, e := range f.environment() {
		cs.Env = append(cs.Env, []byte(e))
	}
	cwd, err := os.Getwd()
	if err != nil {
		return nil, fmt.Errorf("find the working directory: %w", err)
	}
	switch {
	case f.cwd == "":
		f.cwd = cwd
	case f.cwd[0] != '/':
		f.cwd = cwd + "/" + f.cwd
	}
	cs.Cwd = []byte(f.cwd)
	for _, s := range []struct {
		stream string
		specs  []string
	}{
		{"", []string{f.sink}}, {"stdin", []string{f.stdin}}, {"stdout", f.stdout}, {"stderr", f.stderr},
	} {
		for _, spec := range s.specs {
			if spec != "" {
				cs.Sinks = append(cs.Sinks, &controlpb.SinkChoice{Stream: s.stream, Spec: spec})
			}
		}
	}
	if f.umask != "" {
		n, err := strconv.ParseUint(f.umask, 8, 32)
		if err != nil || n > 0o777 {
			return nil, usageError("--umask %s: want an octal number up to 777", f.umask)
		}
		m := uint32(n)
		cs.Umask = &m
	}
	for _, r := range f.rlimits {
		lim, err := parseRlimit(r)
		if err != nil {
			return nil, err
		}
		cs.Rlimits = append(cs.Rlimits, lim)
	}
	restart, ok := map[string]controlpb.Restart{
		"no": controlpb.Restart_NO, "on-failure": controlpb.Restart_ON_FAILURE, "always": controlpb.Restart_ALWAYS,
	}[f.restart]
	if !ok {
		return nil, usageError("--restart %s: want no, on-failure or always", f.restart)
	}
	cs.Restart = restart
	if f.size != "" {
		if cs.Size, err = parseSize(f.size); err != nil {
			return nil, usageError("--size %s: %w", f.size, err)
		}
	}
	return cs, nil
}

// environment is muxctl's own with --env over it. What names the user is left out where another is asked for.
func (f *spawnFlags) environment() []string {
	var env []string
	if !f.clearEnv {
		env = os.Environ()
	}
	if f.user != "" {
		env = slices.DeleteFunc(env, func(kv string) bool {
			name, _, _ := strings.Cut(kv, "=")
			return slices.Contains([]string{"HOME", "USER", "LOGNAME", "SHELL", "MAIL", "XDG_RUNTIME_DIR"}, name)
		})
	}
	for _, e := range f.env {
		name, _, given := strings.Cut(e, "=")
		if !given {
			v, ok := os.LookupEnv(name)
			if !ok {
				continue
			}
			e = name + "=" + v
		}
		env = slices.DeleteFunc(env, func(kv string) bool { return strings.HasPrefix(kv, name+"=") })
		env = append(env, e)
	}
	return env
}

func parseRlimit(s string) (*controlpb.Rlimit, error) {
	name, value, ok := strings.Cut(s, "=")
	soft, hard, two := strings.Cut(value, ":")
	if !two {
		hard = soft
	}
	r := &controlpb.Rlimit{Name: name}
	for _, l := range []struct {
		text string
		to   *uint64
	}{{soft, &r.Soft}, {hard, &r.Hard}} {
		if l.text == "unlimited" {
			*l.to = ^uint64(0)
			continue
		}
		n, err := strconv.ParseUint(l.text, 10, 64)
		if err != nil {
			ok = false
		}
		*l.to = n
	}
	if !ok {
		return nil, usageError("--rlimit %s: want NAME=SOFT[:HARD], as nofile=1024:4096 or core=unlimited", s)
	}
	return r, nil
}

func parseSize(s string) (*controlpb.Size, error) {
	r, c, ok := strings.Cut(s, "x")
	rows, err1 := strconv.ParseUint(r, 10, 16)
	cols, err2 := strconv.ParseUint(c, 10, 16)
	if !ok || err1 != nil || err2 != nil || rows == 0 || cols == 0 {
		return nil, fmt.Errorf("want ROWSxCOLS, as 24x80")
	}
	return &controlpb.Size{Rows: uint32(rows), Cols: uint32(cols)}, nil
}

func (a *app) spawnCmd() *cobra.Command {
	f := &spawnFlags{}
	c := &cobra.Command{
		Use:   "spawn [flags] [--] CMD [ARG...]",
		Short: "Start a child, and print its id",
		Long: `spawn starts a child in the background and prints its id, once its program runs.

Without a sink option the child gets muxd's default_sink (pty). A stream that no sink carries is /dev/null.`,
		Example: `  muxctl spawn --name web --sink file:/var/log/web.log -- ./server --port 80
  muxctl spawn --sink pty -- bash
  muxctl spawn --stdout file:out.log --stderr file:err.log -- make
  muxctl spawn --stdout file:out.log --stdout socket:unix:/run/collector,branch=drop-oldest -- ./server`,
		Args: args(cobra.MinimumNArgs(1)),
		RunE: func(c *cobra.Command, argv []string) error {
			if f.attach {
				return a.run(c.Context(), f, argv)
			}
			cs, err := f.spec(argv)
			if err != nil {
				return err
			}
			m, err := a.muxd()
			if err != nil {
				return err
			}
			files, terminal := inherits(cs)
			if terminal {
				return usageError("spawn: a terminal that is inherited needs its caller to stay; use muxctl run, or spawn --attach")
			}
			resp, err := m.Spawn(c.Context(), cs, files...)
			if err != nil {
				return err
			}
			if a.output == "json" {
				return printJSON(map[string]any{"id": resp.Id, "name": resp.Name, "pid": resp.Pid})
			}
			fmt.Println(resp.Id)
			return nil
		},
	}
	f.register(a, c)
	c.Flags().BoolVar(&f.attach, "attach", false, "stay, as muxctl run does")
	return c
}

func (a *app) runCmd() *cobra.Command {
	f := &spawnFlags{}
	c := &cobra.Command{
		Use:   "run [flags] [--] CMD [ARG...]",
		Short: "Start a child, stay with it, and exit with its status",
		Long: `run starts a child and stays until it is finished: with --sink pty attached to its console, with --sink inherit (the
default) on muxctl's own terminal or files, otherwise waiting. Signals are passed on to the child. It returns after the
last byte of every stream is where it belongs, and exits with the child's status, 128+n where signal n killed it.`,
		Example: `  muxctl run -- make test
  muxctl run --sink pty --rm -- bash
  muxctl run --sink file:/tmp/out -- sh -c 'yes | head -c 8388608'`,
		Args: args(cobra.MinimumNArgs(1)),
		RunE: func(c *cobra.Command, argv []string) error { return a.run(c.Context(), f, argv) },
	}
	f.register(a, c)
	return c
}

// inherits returns muxctl's own files for the streams whose sink is inherit, and whether one is its terminal.
func inherits(cs *controlpb.ChildSpec) (files []*os.File, terminal bool) {
	std := map[string]*os.File{"stdin": os.Stdin, "stdout": os.Stdout, "stderr": os.Stderr}
	whole := ""
	by := map[string]string{}
	for _, s := range cs.Sinks {
		if s.Stream == "" {
			whole = s.Spec
		} else {
			by[s.Stream] = s.Spec
		}
	}
	for i, name := range []string{"stdin", "stdout", "stderr"} {
		spec, given := by[name]
		if !given {
			spec = whole
		}
		if spec == "inherit" {
			files = append(files, std[name])
			terminal = terminal || isControllingTerminal(i)
		}
	}
	return files, terminal
}

// run spawns a child, stays with it, and returns its exit status as an exitError.
func (a *app) run(ctx context.Context, f *spawnFlags, argv []string) error {
	cs, err := f.spec(argv)
	if err != nil {
		return err
	}
	if len(cs.Sinks) == 0 {
		cs.Sinks = []*controlpb.SinkChoice{{Spec: "inherit"}}
	}
	keys, err := parseDetachKeys(f.detachKeys)
	if err != nil {
		return usageError("--detach-keys %s: %w", f.detachKeys, err)
	}
	m, err := a.muxd()
	if err != nil {
		return err
	}
	files, terminal := inherits(cs)
	if terminal {
		return a.runForked(ctx, m, cs)
	}
	signals := catch()
	defer signal.Stop(signals)
	if len(files) > 0 {
		resp, err := m.Spawn(ctx, cs, files...)
		if err != nil {
			return err
		}
		return a.stayWaiting(ctx, m, resp.Id, signals)
	}
	rows, cols := ownSize()
	resp, v, err := m.SpawnAttached(ctx, cs, control.AttachOptions{
		Replay: "all", Rows: rows, Cols: cols,
		Terminal: canHandOver(0, 1),
		Hold:     !isTerminal(1), // what goes into a file or a pipe is to be whole
	})
	switch {
	case err != nil:
		return err
	case v == nil:
		return a.stayWaiting(ctx, m, resp.Id, signals)
	}
	return a.stayAttached(ctx, m, resp, v, keys, signals)
}
