package main

import (
	"crypto/rand"
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/muxd/muxd/control/controlpb"
)

func (a *app) listCmd() *cobra.Command {
	var all bool
	c := &cobra.Command{
		Use: "list", Aliases: []string{"ls"}, Short: "List children", Args: args(cobra.NoArgs),
		RunE: func(c *cobra.Command, _ []string) error {
			m, err := a.muxd()
			if err != nil {
				return err
			}
			resp, err := m.API.List(c.Context(), &controlpb.ListRequest{All: all})
			if err != nil {
				return err
			}
			if a.output == "json" {
				out := []childView{}
				for _, r := range resp.Children {
					out = append(out, viewOf(r))
				}
				return printJSON(out)
			}
			t := newTable("ID", "NAME", "STATE", "PID", "AGE", "SINKS", "COMMAND")
			for _, r := range resp.Children {
				pid := ""
				if r.State == "running" && !onlyStreams(r) {
					pid = strconv.Itoa(int(r.Pid))
				}
				t.row(r.Id, r.Name, stateText(r), pid, ageText(r.Created), sinksText(r), commandOf(r, 50))
			}
			return t.print()
		},
	}
	c.Flags().BoolVarP(&all, "all", "a", false, "also those that are finished")
	return c
}

func (a *app) inspectCmd() *cobra.Command {
	return &cobra.Command{
		Use: "inspect ID...", Short: "Tell everything about children", Args: args(cobra.MinimumNArgs(1)), ValidArgsFunction: a.completeChildren,
		RunE: func(c *cobra.Command, ids []string) error {
			m, err := a.muxd()
			if err != nil {
				return err
			}
			views := []childView{}
			for _, id := range ids {
				r, err := m.API.Inspect(c.Context(), &controlpb.InspectRequest{Child: id})
				if err != nil {
					return err
				}
				if a.output == "json" {
					views = append(views, viewOf(r))
					continue
				}
				if err := printChild(r); err != nil {
					return err
				}
			}
			if a.output == "json" {
				return printJSON(views)
			}
			return nil
		},
	}
}

func (a *app) waitCmd() *cobra.Command {
	return &cobra.Command{
		Use: "wait ID...", Short: "Wait until children are finished",
		Long: `wait returns when every child that is named is finished: its process has ended, and every byte of its streams is where it
belongs. It prints how each ended, and exits with the status of the last.`,
		Args: args(cobra.MinimumNArgs(1)), ValidArgsFunction: a.completeChildren,
		RunE: func(c *cobra.Command, ids []string) error {
			m, err := a.muxd()
			if err != nil {
				return err
			}
			var last error
			views := []childView{}
			for _, id := range ids {
				r, err := m.Wait(c.Context(), id)
				if err != nil {
					return err
				}
				views = append(views, viewOf(r))
				if a.output == "table" {
					fmt.Printf("%s: %s\n", r.Name, endText(r))
					for _, h := range r.Holders {
						fmt.Printf("%s: %s was cut at the drain deadline: process %d (%s) still held it\n", r.Name, h.Stream, h.Pid, h.Command)
					}
				}
				last = statusError(r)
			}
			if a.output == "json" {
				if err := printJSON(views); err != nil {
					return err
				}
			}
			return last
		},
	}
}

func (a *app) signalCmd() *cobra.Command {
	var leader bool
	c := &cobra.Command{
		Use: "signal ID SIGNAL", Short: "Send a signal to a child's process group", Args: args(cobra.ExactArgs(2)),
		Example: "  muxctl signal web HUP",
		ValidArgsFunction: a.completeThen(cobra.FixedCompletions(
			[]string{"HUP", "INT", "QUIT", "USR1", "USR2", "TERM", "KILL", "STOP", "CONT"}, cobra.ShellCompDirectiveNoFileComp)),
		RunE: func(c *cobra.Command, argv []string) error {
			sig, err := parseSignal(argv[1])
			if err != nil {
				return err
			}
			m, err := a.muxd()
			if err != nil {
				return err
			}
			_, err = m.API.Signal(c.Context(), &controlpb.SignalRequest{Child: argv[0], Signal: uint32(sig), LeaderOnly: leader})
			return err
		},
	}
	c.Flags().BoolVar(&leader, "leader-only", false, "only to the child's first process, not its whole group")
	return c
}

// parseSignal reads a signal's name, with or without SIG, or its number.
func parseSignal(s string) (syscall.Signal, error) {
	if n, err := strconv.Atoi(s); err == nil && n > 0 && n <= 64 {
		return syscall.Signal(n), nil
	}
	name := strings.ToUpper(s)
	if !strings.HasPrefix(name, "SIG") {
		name = "SIG" + name
	}
	if n := unix.SignalNum(name); n != 0 {
		return n, nil
	}
	return 0, usageError("signal %q: want a name, as TERM or SIGUSR1, or a number from 1 to 64", s)
}

func (a *app) stopCmd() *cobra.Command {
	var grace time.Duration
	var now bool
	c := &cobra.Command{
		Use: "stop ID...", Short: "Stop children: SIGTERM, then SIGKILL after the grace time",
		Long: `stop sends SIGTERM to each child's process group, and SIGHUP to one on a console that ignores SIGTERM, as an interactive shell
does. What is still there after the grace time gets SIGKILL: the process group, and where muxd has cgroups all that the child has
started. It returns when the child is finished. Of a finished child it ends what that has left behind.`,
		Args: args(cobra.MinimumNArgs(1)), ValidArgsFunction: a.completeChildren,
		RunE: func(c *cobra.Command, ids []string) error {
			m, err := a.muxd()
			if err != nil {
				return err
			}
			views := []childView{}
			for _, id := range ids {
				r, err := m.API.Stop(c.Context(), &controlpb.StopRequest{Child: id, Grace: int64(grace), Now: now})
				if err != nil {
					return err
				}
				views = append(views, viewOf(r))
				if a.output == "table" {
					fmt.Printf("%s: %s\n", r.Name, endText(r))
				}
			}
			if a.output == "json" {
				return printJSON(views)
			}
			return nil
		},
	}
	c.Flags().DurationVar(&grace, "grace", 0, "between SIGTERM and SIGKILL (default the child's)")
	c.Flags().BoolVar(&now, "now", false, "SIGKILL at once")
	return c
}

func (a *app) resizeCmd() *cobra.Command {
	return &cobra.Command{
		Use: "resize ID ROWSxCOLS", Short: "Set the size of a child's console", Args: args(cobra.ExactArgs(2)),
		Example: "  muxctl resize editor 40x120", ValidArgsFunction: a.completeThen(),
		RunE: func(c *cobra.Command, argv []string) error {
			size, err := parseSize(argv[1])
			if err != nil {
				return usageError("size %s: %w", argv[1], err)
			}
			m, err := a.muxd()
			if err != nil {
				return err
			}
			_, err = m.API.Resize(c.Context(), &controlpb.ResizeRequest{Child: argv[0], Size: size})
			return err
		},
	}
}

func (a *app) removeCmd() *cobra.Command {
	return &cobra.Command{
		Use: "remove ID...", Aliases: []string{"rm"}, Short: "Forget finished children that have left nothing behind", Args: args(cobra.MinimumNArgs(1)),
		ValidArgsFunction: a.completeChildren,
		RunE: func(c *cobra.Command, ids []string) error {
			m, err := a.muxd()
			if err != nil {
				return err
			}
			for _, id := range ids {
				if _, err := m.API.Remove(c.Context(), &controlpb.RemoveRequest{Child: id}); err != nil {
					return err
				}
			}
			return nil
		},
	}
}

func (a *app) redirectCmd() *cobra.Command {
	var add, remove bool
	c := &cobra.Command{
		Use: "redirect ID STREAM SINK", Short: "Move an output stream of a running child to another sink", Args: args(cobra.ExactArgs(3)),
		Long: `redirect moves stdout or stderr of a running child to another sink. Nothing is lost or doubled: the output of the old sink, followed
by that of the new one, is the stream. What is on a terminal, a direct file, an inherited stream or null cannot be moved. Of several
sinks one is named as in muxctl inspect: stdout/2.

With --add the sink gets the stream from here on besides those that it has, and with --remove a sink, named by its spec or its number in
muxctl inspect, gets no more of it; the others notice nothing. What a console shows is the stream console there.`,
		Example: `  muxctl redirect web stdout file:/var/log/web-new.log
  muxctl redirect web stdout --add socket:unix:/run/debug,branch=drop-oldest
  muxctl redirect web stdout --remove 2`,
		ValidArgsFunction: a.completeThen(
			cobra.FixedCompletions([]string{"stdout", "stderr"}, cobra.ShellCompDirectiveNoFileComp), a.completeSink),
		RunE: func(c *cobra.Command, argv []string) error {
			cwd, err := os.Getwd()
			if err != nil {
				return err
			}
			m, err := a.muxd()
			if err != nil {
				return err
			}
			how := controlpb.RedirectRequest_INSTEAD
			switch {
			case add && remove:
				return usageError("redirect: --add and --remove exclude each other")
			case add:
				how = controlpb.RedirectRequest_ADD
			case remove:
				how = controlpb.RedirectRequest_REMOVE
			}
			r, err := m.API.Redirect(c.Context(), &controlpb.RedirectRequest{Child: argv[0], Stream: argv[1], Spec: argv[2], Cwd: []byte(cwd), How: how, RequestId: rand.Text()})
			if err != nil {
				return err
			}
			if a.output == "json" {
				return printJSON(viewOf(r))
			}
			return nil
		},
	}
	c.Flags().BoolVar(&add, "add", false, "the sink gets the stream too, from here on")
	c.Flags().BoolVar(&remove, "remove", false, "the sink, by spec or number, gets no more of it")
	return c
}

// processesText is a number of processes, and the first few of them.
func processesText(pids []int32) string {
	const most = 8
	text := fmt.Sprintf("%d: %s", len(pids), strings.Trim(fmt.Sprint(pids[:min(len(pids), most)]), "[]"))
	if len(pids) > most {
		text += " …"
	}
	return text
}

// printChild is inspect for people.
func printChild(r *controlpb.Child) error {
	p := func(name, format string, args ...any) { fmt.Printf("%-10s %s\n", name, fmt.Sprintf(format, args...)) }
	p("id", "%s", r.Id)
	p("name", "%s", r.Name)
	p("state", "%s", stateText(r))
	if r.State == "running" && !onlyStreams(r) {
		p("pid", "%d", r.Pid)
	}
	p("command", "%s", commandOf(r, 0))
	p("cwd", "%s", r.Cwd)
	if r.User != "" {
		p("user", "%s", r.User)
	}
	p("restart", "%s", restartText(r.Restart))
	if r.Run > 1 {
		p("run", "%d", r.Run)
	}
	p("created", "%s", timeText(r.Created))
	if r.Exited != 0 {
		p("exited", "%s", timeText(r.Exited))
	}
	if r.Exited != 0 && !r.Adopted {
		p("cpu", "%v user, %v system", time.Duration(r.UserUsec)*time.Microsecond, time.Duration(r.SystemUsec)*time.Microsecond)
		p("memory", "%s at most", sizeText(uint64(r.MaxRss)))
	}
	if r.Error != "" {
		p("error", "%s", r.Error)
	}
	if r.Cgroup != "" {
		p("cgroup", "%s", r.Cgroup)
	}
	if over := r.State == "finished" || r.State == "failed"; over && len(r.Processes) > 0 {
		p("left", "%s", processesText(r.Processes))
	} else if len(r.Processes) > 1 {
		p("processes", "%s", processesText(r.Processes))
	}
	for _, h := range r.Holders {
		p("held", "%s by process %d (%s) at the drain deadline", h.Stream, h.Pid, h.Command)
	}
	fmt.Println()
	t := newTable("STREAM", "SINK", "WIRING", "STATE", "BYTES", "VIEWERS", "WHERE")
	for _, s := range r.Sinks {
		viewers := ""
		if s.Stream == "console" && s.Wiring != "pipe" {
			viewers = fmt.Sprintf("%d (%dx%d)", s.Viewers, r.Size.GetRows(), r.Size.GetCols())
		}
		where := s.Location
		if s.Error != "" {
			where = s.Error
		}
		bytes := sizeText(s.Bytes)
		if n := s.Missed + s.Dropped; n > 0 {
			bytes += ", " + sizeText(n) + " dropped"
		}
		t.row(streamText(s), s.Spec, s.Wiring, s.State, bytes, viewers, where)
	}
	if err := t.print(); err != nil {
		return err
	}
	return printMetrics(r)
}

// printMetrics prints the numbers of the sinks' own, if there are any.
func printMetrics(r *controlpb.Child) error {
	var t *table
	for _, s := range r.Sinks {
		for _, m := range s.Metrics {
			if t == nil {
				fmt.Println()
				t = newTable("STREAM", "METRIC", "VALUE", "WHAT IT IS")
			}
			t.row(streamText(s), m.Name, fmt.Sprint(m.Value), m.Help)
		}
	}
	if t == nil {
		return nil
	}
	return t.print()
}

// streamText names a sink's stream, and which of its several sinks it is.
func streamText(s *controlpb.Sink) string {
	if s.Branch > 0 {
		return fmt.Sprintf("%s/%d", s.Stream, s.Branch)
	}
	return s.Stream
}

func (a *app) versionCmd() *cobra.Command {
	return &cobra.Command{
		Use: "version", Short: "Tell the versions of muxctl and of the muxd that runs", Args: args(cobra.NoArgs),
		RunE: func(c *cobra.Command, _ []string) error {
			v := map[string]string{"muxctl": version}
			m, err := a.muxd()
			if err == nil {
				s, statusErr := m.API.Status(c.Context(), &controlpb.StatusRequest{})
				if err = statusErr; err == nil {
					v["muxd"] = s.Version
				}
			}
			if a.output == "json" {
				return printJSON(v)
			}
			fmt.Println("muxctl", version)
			if err != nil {
				fmt.Fprintln(os.Stderr, "muxctl:", err)
				return nil
			}
			fmt.Println("muxd", v["muxd"])
			return nil
		},
	}
}
