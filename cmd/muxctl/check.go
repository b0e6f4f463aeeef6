package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"time"

	units "github.com/docker/go-units"
	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/muxd/muxd/control/controlpb"
	"github.com/muxd/muxd/sink/sinktest"
)

func (a *app) pluginCheckCmd() *cobra.Command {
	var o sinktest.Options
	var size string
	var list bool
	c := &cobra.Command{
		Use:   "check PATH|NAME [--] [ARG...]",
		Short: "Hold a sink plugin, in any language, to what muxd relies on",
		Long: `check starts a plugin by itself, plays muxd to it, and tells what it does as PROTOCOL.md says, and what it does not. It needs no
muxd; only for a NAME, without a slash, it asks the running one how that plugin is started. Further arguments are passed to the
plugin, options of its own behind "--".

Sinks are opened with the specs that --spec gives, each of which may have placeholders for what differs with every opening:

  {out}      the path of a file that does not exist; what stands in it is compared with what was written
  {listen}   the path of a Unix stream socket on which the kit listens; what is sent to it is compared
  {connect}  the path of a Unix stream socket to which the kit connects once it exists; what comes is compared
  {fifo}     the path of a FIFO that the kit reads; what comes is compared
  {dir}      an empty directory

--read says where to find what came out, if not there: "logs" has the plugin read it back (Logs), "none" compares nothing, a
placeholder alone is the one that counts where there are several or the plugin keeps logs too, and anything else is a shell
command that prints it, in which placeholders are replaced. A console is read as a viewer. Without --spec
the built-in sinks are checked with specs that are known, and others with what their description lets guess.

A check of what a sink does not claim does not apply: whether nothing is lost when it is killed is compared if it answers Check
with exact. Checks run in processes of their own, several at once. --full has 1 GiB written at once, 1,000 streams,
10,000 openings and 100 kills, and takes minutes; otherwise a run takes seconds. fds.unclaimed, which waits for 10 seconds, is only done with
--full, or where --only names it.

However a run ends, by SIGKILL too, nothing of what it has started is left.

Exit status: 0 if nothing failed, 1 if something did or nothing could be checked, 2 for usage.`,
		Example: `  muxctl plugin check ./muxd-sink-mine --spec 'mine:{out}'
  muxctl plugin check ./mine.py --spec 'mine:unix:{listen},framing=none' --only kill,bytes
  muxctl plugin check ./muxd-sink-s3 --spec 's3:bucket,key={dir}' --read 's3cat bucket {dir}'
  muxctl plugin check bin/muxd plugin file -o junit > file.xml
  muxctl plugin check ./muxd-sink-mine --spec 'mine:{out}' -- --verbose`,
		Args: func(c *cobra.Command, argv []string) error {
			if list {
				return args(cobra.NoArgs)(c, argv)
			}
			return args(cobra.MinimumNArgs(1))(c, argv)
		},
		PersistentPreRunE: func(*cobra.Command, []string) error {
			switch a.output {
			case "table", "json", "junit":
				return nil
			}
			return usageError("--output %s: want table, json or junit", a.output)
		},
		RunE: func(c *cobra.Command, argv []string) error {
			if list {
				return a.listChecks()
			}
			if size != "" {
				n, err := units.RAMInBytes(size)
				if err != nil || n <= 0 {
					return usageError("--size %s: want a size, as 64MiB", size)
				}
				o.Size = n
			}
			for _, id := range append(o.Only, o.Skip...) {
				if !sinktest.Known(id) {
					return usageError("there is no check %q; see muxctl plugin check --list", id)
				}
			}
			ctx, stop := signal.NotifyContext(c.Context(), unix.SIGINT, unix.SIGTERM)
			defer stop()
			var err error
			if o.Command, err = a.pluginCommand(ctx, argv); err != nil {
				return err
			}
			return a.checkPlugin(ctx, o)
		},
	}
	f := c.Flags()
	f.StringArrayVar(&o.Specs, "spec", nil, "a sink `SPEC` to check with; may be repeated")
	f.StringVar(&o.Read, "read", "", "how to find what came out: logs, none, a placeholder, or a shell `COMMAND` that prints it")
	f.StringSliceVar(&o.Only, "only", nil, "do only these checks: `ID`s, or groups of them, as kill")
	f.StringSliceVar(&o.Skip, "skip", nil, "leave these checks out")
	f.BoolVar(&o.Full, "full", false, "everything at its full size; takes minutes")
	f.StringVar(&size, "size", "", "how much bytes.large writes (default 16MiB, with --full 1GiB)")
	f.StringArrayVar(&o.Env, "env", nil, "`NAME=VALUE` for the plugin's environment, as env in config.toml")
	f.DurationVar(&o.StartTimeout, "start-timeout", 10*time.Second, "how long the plugin may take to start, as plugin_start_timeout in config.toml")
	f.DurationVar(&o.Timeout, "timeout", 30*time.Second, "how long anything else may take, each time")
	f.IntVar(&o.Parallel, "parallel", 0, "how many checks at once (default: one more than there are processors)")
	f.Int64Var(&o.Seed, "seed", 0, "repeats a run's random choices, as a failure names it")
	f.BoolVar(&list, "list", false, "list the checks with what they expect, and do nothing")
	ids := func(*cobra.Command, []string, string) ([]cobra.Completion, cobra.ShellCompDirective) {
		var out []cobra.Completion
		for _, i := range sinktest.Checks() {
			out = append(out, cobra.CompletionWithDesc(i.ID, i.Expect))
		}
		return out, cobra.ShellCompDirectiveNoFileComp
	}
	c.RegisterFlagCompletionFunc("only", ids)
	c.RegisterFlagCompletionFunc("skip", ids)
	return c
}

// pluginCommand is the command of the plugin that argv names.
func (a *app) pluginCommand(ctx context.Context, argv []string) ([]string, error) {
	if strings.Contains(argv[0], "/") {
		return argv, nil
	}
	fail := func(err error) ([]string, error) {
		return nil, fmt.Errorf("find plugin %s: %w; to check a file give its path, with a slash in it", argv[0], err)
	}
	m, err := a.muxd()
	if err != nil {
		return fail(err)
	}
	resp, err := m.API.Plugins(ctx, &controlpb.PluginsRequest{})
	if err != nil {
		return fail(err)
	}
	for _, p := range resp.Plugins {
		if p.Name == argv[0] && len(p.Command) > 0 {
			return append(p.Command, argv[1:]...), nil
		}
	}
	return fail(errors.New("muxd knows no plugin of that name"))
}

// checkPlugin does the checks and prints what they find.
func (a *app) checkPlugin(ctx context.Context, o sinktest.Options) error {
	const row = "%-16s  %-40s  %-14s  %s\n"
	var failed []sinktest.Result
	each := func(r sinktest.Result) {
		if r.Outcome == sinktest.Failed {
			failed = append(failed, r)
		}
		if a.output == "table" {
			text := r.Expect
			if r.Outcome == sinktest.NotApplicable {
				text = r.Detail
			}
			fmt.Printf(row, r.ID, r.Spec, r.Outcome, text)
		}
	}
	if a.output == "table" {
		fmt.Printf(row, "CHECK", "SPEC", "RESULT", "EXPECTED")
	}
	report, err := sinktest.Check(ctx, o, each)
	if err != nil {
		return fmt.Errorf("check %s: %w", o.Command[0], err)
	}
	switch a.output {
	case "json":
		err = json.NewEncoder(os.Stdout).Encode(report)
	case "junit":
		err = report.JUnit(os.Stdout)
	default:
		for _, r := range failed {
			fmt.Printf("\n%s", r.ID)
			if r.Spec != "" {
				fmt.Printf(" with %s", r.Spec)
			}
			fmt.Printf(" failed:\n  expected: %s\n  found:    %s\n", r.Expect, r.Detail)
		}
		what := o.Command[0] // it has not told its name
		if report.Plugin != "" {
			what = strings.TrimSpace(report.Plugin + " " + report.Version)
		}
		fmt.Printf("\n%s: %d passed, %d failed, %d not applicable\n", what,
			report.Count(sinktest.Passed), report.Count(sinktest.Failed), report.Count(sinktest.NotApplicable))
	}
	if err != nil {
		return err
	}
	if len(failed) > 0 {
		return &exitError{code: exitFailed}
	}
	return nil
}

// listChecks prints what there is to check.
func (a *app) listChecks() error {
	all := sinktest.Checks()
	if a.output != "table" {
		return printJSON(all)
	}
	t := newTable("CHECK", "DONE", "EXPECTED")
	for _, c := range all {
		done := "once"
		if c.PerSpec {
			done = "with each spec"
		}
		t.row(c.ID, done, c.Expect)
	}
	return t.print()
}
