package main

import (
	"cmp"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/muxd/muxd/control/controlpb"
)

func (a *app) agentCmd() *cobra.Command {
	c := &cobra.Command{Use: "agent", Short: "Look at muxd itself, or change it", Args: args(cobra.NoArgs)}
	c.AddCommand(a.agentStatusCmd(), a.agentReloadCmd(), a.agentUpgradeCmd(), a.agentProfileCmd(), a.agentStopCmd())
	return c
}

func (a *app) agentStatusCmd() *cobra.Command {
	return &cobra.Command{
		Use: "status", Short: "Tell how muxd is", Args: args(cobra.NoArgs),
		RunE: func(c *cobra.Command, _ []string) error {
			m, err := a.muxd()
			if err != nil {
				return err
			}
			s, err := m.API.Status(c.Context(), &controlpb.StatusRequest{})
			if err != nil {
				return err
			}
			if a.output == "json" {
				return printJSON(map[string]any{
					"version": s.Version, "agent_pid": s.AgentPid, "keeper_pid": s.KeeperPid, "runtime_dir": s.RuntimeDir,
					"config": s.Config, "started": timeOf(s.Started), "children_running": s.ChildrenRunning,
					"children_total": s.ChildrenTotal, "fds": s.Fds, "fd_limit": s.FdLimit, "goroutines": s.Goroutines,
				})
			}
			p := func(name, format string, args ...any) { fmt.Printf("%-12s %s\n", name, fmt.Sprintf(format, args...)) }
			p("version", "%s", s.Version)
			p("keeper", "pid %d", s.KeeperPid)
			p("agent", "pid %d, since %s", s.AgentPid, timeText(s.Started))
			p("runtime dir", "%s", s.RuntimeDir)
			if s.Config != "" {
				p("config", "%s", s.Config)
			}
			p("children", "%d running, %d known", s.ChildrenRunning, s.ChildrenTotal)
			p("agent's fds", "%d of %d", s.Fds, s.FdLimit)
			return nil
		},
	}
}

func (a *app) agentReloadCmd() *cobra.Command {
	return &cobra.Command{
		Use: "reload", Short: "Read the configuration again", Args: args(cobra.NoArgs),
		Long: `reload reads the configuration again, as SIGHUP does. Running children are left alone, and [[child]] entries with new
names are started. Where the file is wrong nothing changes.`,
		RunE: func(c *cobra.Command, _ []string) error {
			m, err := a.muxd()
			if err != nil {
				return err
			}
			resp, err := m.API.Reload(c.Context(), &controlpb.ReloadRequest{})
			if err != nil {
				return err
			}
			if a.output == "json" {
				return printJSON(map[string]string{"result": resp.Text})
			}
			fmt.Println(resp.Text)
			return nil
		},
	}
}

func (a *app) agentUpgradeCmd() *cobra.Command {
	return &cobra.Command{
		Use: "upgrade", Short: "Replace muxd by what is on disk now, under running children", Args: args(cobra.NoArgs),
		Long: `upgrade replaces keeper and agent by the program that is now where muxd was started from, and every plugin whose
executable has changed. Children run on, streams wait a moment, and no byte is lost. The new programs are asked
first: where one cannot take over from what runs, nothing is changed.`,
		RunE: func(c *cobra.Command, _ []string) error {
			m, err := a.muxd()
			if err != nil {
				return err
			}
			resp, err := m.Upgrade(c.Context())
			if err != nil {
				return err
			}
			if a.output == "json" {
				return printUpgrade(resp.Steps)
			}
			for _, s := range resp.Steps {
				if s.Replaced {
					fmt.Printf("%s: %s -> %s, pid %d -> %d\n", s.What, s.VersionBefore, s.Version, s.PidBefore, s.Pid)
				} else {
					fmt.Printf("%s: %s, pid %d, as on disk\n", s.What, s.Version, s.Pid)
				}
			}
			return nil
		},
	}
}

func printUpgrade(steps []*controlpb.Upgraded) error {
	type view struct {
		What          string `json:"what"`
		Replaced      bool   `json:"replaced"`
		PIDBefore     int32  `json:"pid_before"`
		PID           int32  `json:"pid"`
		VersionBefore string `json:"version_before"`
		Version       string `json:"version"`
	}
	out := []view{}
	for _, s := range steps {
		out = append(out, view{s.What, s.Replaced, s.PidBefore, s.Pid, s.VersionBefore, s.Version})
	}
	return printJSON(out)
}

func (a *app) agentStopCmd() *cobra.Command {
	var now bool
	c := &cobra.Command{
		Use: "stop", Short: "Stop every child, and end muxd", Args: args(cobra.NoArgs),
		RunE: func(c *cobra.Command, _ []string) error {
			m, err := a.muxd()
			if err != nil {
				return err
			}
			_, err = m.API.Shutdown(c.Context(), &controlpb.ShutdownRequest{Now: now})
			return err
		},
	}
	c.Flags().BoolVar(&now, "now", false, "kill the children at once")
	return c
}

func (a *app) pluginCmd() *cobra.Command {
	c := &cobra.Command{Use: "plugin", Short: "Look at sink plugins, restart, begin or check one", Args: args(cobra.NoArgs)}
	c.AddCommand(a.pluginListCmd(), a.pluginRestartCmd(), a.pluginNewCmd(), a.pluginCheckCmd())
	return c
}

func (a *app) pluginListCmd() *cobra.Command {
	var verbose bool
	c := &cobra.Command{
		Use: "list", Aliases: []string{"ls"}, Short: "List the plugins, with -v their options", Args: args(cobra.NoArgs),
		RunE: func(c *cobra.Command, _ []string) error {
			m, err := a.muxd()
			if err != nil {
				return err
			}
			resp, err := m.API.Plugins(c.Context(), &controlpb.PluginsRequest{Describe: verbose})
			if err != nil {
				return err
			}
			if a.output == "json" {
				return printPlugins(resp.Plugins)
			}
			if verbose {
				return describePlugins(resp.Plugins, resp.Common)
			}
			t := newTable("NAME", "STATE", "PID", "AGE", "STREAMS", "RESTARTS", "COMMAND")
			for _, p := range resp.Plugins {
				pid := ""
				if p.Pid != 0 {
					pid = fmt.Sprint(p.Pid)
				}
				t.row(p.Name, p.State, pid, ageText(p.Started), fmt.Sprint(p.Openings), fmt.Sprint(p.Restarts), strings.Join(p.Command, " "))
			}
			if err := t.print(); err != nil {
				return err
			}
			for _, p := range resp.Plugins {
				if text := cmp.Or(p.Error, p.LastEnd); text != "" {
					fmt.Printf("\n%s: %s\n", p.Name, text)
				}
			}
			return nil
		},
	}
	c.Flags().BoolVarP(&verbose, "verbose", "v", false, "start each that does not run, and tell its options")
	return c
}

func printPlugins(plugins []*controlpb.Plugin) error {
	type option struct {
		Name     string   `json:"name"`
		Type     string   `json:"type"`
		Default  string   `json:"default,omitempty"`
		Help     string   `json:"help,omitempty"`
		Values   []string `json:"values,omitempty"`
		Required bool     `json:"required,omitempty"`
	}
	type bounds struct {
		Paths     []string `json:"paths,omitempty"`
		ReadPaths []string `json:"read_paths,omitempty"`
		Landlock  uint32   `json:"landlock"`
	}
	type counts struct {
		Bytes      uint64  `json:"bytes"`
		Chunks     uint64  `json:"chunks"`
		Waits      uint64  `json:"waits"`
		PutSeconds float64 `json:"put_seconds"`
	}
	type metric struct {
		Name  string `json:"name"`
		Gauge bool   `json:"gauge,omitempty"`
		Help  string `json:"help"`
	}
	type view struct {
		Name     string   `json:"name"`
		State    string   `json:"state"`
		PID      int32    `json:"pid"`
		Version  string   `json:"version,omitempty"`
		Protocol uint32   `json:"protocol,omitempty"`
		Command  []string `json:"command"`
		Openings uint32   `json:"openings"`
		Restarts uint32   `json:"restarts"`
		Error    string   `json:"error,omitempty"`
		LastEnd  string   `json:"last_end,omitempty"`
		Help     string   `json:"help,omitempty"`
		Arg      *option  `json:"arg,omitempty"`
		Options  []option `json:"options,omitempty"`
		UID      *uint32  `json:"uid,omitempty"`
		Bounds   *bounds  `json:"bounds,omitempty"`
		Counters *counts  `json:"counters,omitempty"`
		Metrics  []metric `json:"metrics,omitempty"`
	}
	out := []view{}
	for _, p := range plugins {
		v := view{p.Name, p.State, p.Pid, p.Version, p.Protocol, p.Command, p.Openings, p.Restarts, p.Error, p.LastEnd, p.Help, nil, nil, p.Uid, nil, nil, nil}
		if b := p.Bounds; b != nil {
			v.Bounds = &bounds{b.Paths, b.ReadPaths, b.Landlock}
		}
		if c := p.Counters; c != nil {
			v.Counters = &counts{c.Bytes, c.Chunks, c.Waits, time.Duration(c.PutTime).Seconds()}
		}
		if o := p.Arg; o != nil {
			v.Arg = &option{o.Name, o.Type, o.Default, o.Help, o.Values, o.Required}
		}
		for _, o := range p.Options {
			v.Options = append(v.Options, option{o.Name, o.Type, o.Default, o.Help, o.Values, o.Required})
		}
		for _, m := range p.Metrics {
			v.Metrics = append(v.Metrics, metric{m.Name, m.Gauge, m.Help})
		}
		out = append(out, v)
	}
	return printJSON(out)
}

func describePlugins(plugins []*controlpb.Plugin, common []*controlpb.PluginOption) error {
	for i, p := range plugins {
		if i > 0 {
			fmt.Println()
		}
		fmt.Printf("%s %s: %s\n", p.Name, p.Version, p.Help)
		if p.Error != "" {
			fmt.Println("  " + p.Error)
		}
		if text := trustText(p); text != "" {
			fmt.Println("  " + text)
		}
		if p.Arg != nil {
			fmt.Printf("  %s:%s  %s\n", p.Name, strings.ToUpper(p.Arg.Name), p.Arg.Help)
		}
		if err := describeOptions(p.Options); err != nil {
			return err
		}
		if len(p.Metrics) == 0 {
			continue
		}
		t := newTable("  METRIC", "WHAT IT IS")
		for _, m := range p.Metrics {
			t.row("  "+m.Name, m.Help)
		}
		if err := t.print(); err != nil {
			return err
		}
	}
	fmt.Println("\nany sink that has the child on a pipe:")
	return describeOptions(common)
}

func describeOptions(options []*controlpb.PluginOption) error {
	if len(options) == 0 {
		return nil
	}
	t := newTable("  OPTION", "TYPE", "DEFAULT", "WHAT IT DOES")
	for _, o := range options {
		typ := o.Type
		if len(o.Values) > 0 {
			typ = strings.Join(o.Values, "|")
		}
		t.row("  "+o.Name, typ, o.Default, o.Help)
	}
	return t.print()
}

// trustText says what the plugin may, where that is less than what muxd may.
func trustText(p *controlpb.Plugin) string {
	var parts []string
	if p.Uid != nil {
		parts = append(parts, fmt.Sprintf("runs as user %d", *p.Uid))
	}
	if b := p.Bounds; b != nil {
		may := "may change no files"
		if len(b.Paths) > 0 {
			may = "may change " + strings.Join(b.Paths, ", ")
		}
		if len(b.ReadPaths) > 0 {
			may += ", and read " + strings.Join(b.ReadPaths, ", ")
		}
		if b.Landlock == 0 {
			may += ", which this kernel cannot enforce: it has no Landlock"
		}
		parts = append(parts, may)
	}
	return strings.Join(parts, "; ")
}

func (a *app) pluginRestartCmd() *cobra.Command {
	return &cobra.Command{
		Use: "restart NAME", Short: "End a plugin's process, and start it again", Args: args(cobra.ExactArgs(1)),
		ValidArgsFunction: a.completePlugins,
		RunE: func(c *cobra.Command, argv []string) error {
			m, err := a.muxd()
			if err != nil {
				return err
			}
			_, err = m.API.RestartPlugin(c.Context(), &controlpb.RestartPluginRequest{Name: argv[0]})
			return err
		},
	}
}
