package agent

import (
	"context"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/muxd/muxd/control/controlpb"
	"github.com/muxd/muxd/core/config"
	"github.com/muxd/muxd/core/host"
	"github.com/muxd/muxd/core/keeper"
	"github.com/muxd/muxd/core/keeper/keeperpb"
	"github.com/muxd/muxd/internal/nearest"
	"github.com/muxd/muxd/internal/spec"
	"github.com/muxd/muxd/sink/sinkpb"
)

// pluginFile begins the name of an executable in plugin_dirs.
const pluginFile = "muxd-sink-"

// pluginNames lists the plugins that are known without starting them: built in, configured, or found.
func (a *Agent) pluginNames() []string {
	names := config.Builtin()
	cfg := a.cfg.Load()
	for name := range cfg.Plugins {
		names = append(names, name)
	}
	for _, dir := range cfg.PluginDirs {
		found, _ := filepath.Glob(filepath.Join(dir, pluginFile+"*"))
		for _, f := range found {
			names = append(names, strings.TrimPrefix(filepath.Base(f), pluginFile))
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// pluginCommand finds how the plugin of that name is run.
func (a *Agent) pluginCommand(name string) (host.Command, error) {
	cfg := a.cfg.Load()
	p, configured := cfg.Plugins[name]
	c := host.Command{Path: p.Command, Args: p.Args, SHA256: p.SHA256}
	for k, v := range p.Env {
		c.Env = append(c.Env, k+"="+v)
	}
	for resource, r := range p.Rlimits {
		n, _ := config.Resource(resource) // checked
		c.Rlimits = append(c.Rlimits, &keeperpb.Rlimit{Resource: uint32(n), Soft: r.Soft, Hard: r.Hard})
	}
	user, err := lookupUser(p.User)
	if err != nil {
		return c, fmt.Errorf("plugin %s: %w; see user in [plugins.%s]", name, err, name)
	}
	if user != nil {
		c.User = user.cred
	}
	c.Bounds = &host.Bounds{Read: p.ReadPaths, Write: p.Paths}
	if c.Path == "" {
		switch {
		case slices.Contains(config.Builtin(), name):
			c.Path, c.Self, c.Args = a.o.Path, true, append([]string{"plugin", name}, p.Args...)
			if p.Paths == nil {
				c.Bounds = nil // muxd's own code, whose user names any path
			} else if name == "pty" {
				c.Bounds.Write = append([]string{"/dev/ptmx", "/dev/pts"}, c.Bounds.Write...)
			}
			return c, nil
		default:
			for _, dir := range cfg.PluginDirs {
				path := filepath.Join(dir, pluginFile+name)
				if _, err := os.Stat(path); err == nil {
					c.Path = path
					break
				}
			}
		}
	}
	if c.Path == "" {
		return c, a.unknownSink(name, configured)
	}
	switch st, err := os.Stat(c.Path); {
	case err != nil:
		return c, fmt.Errorf("plugin %s: %w; see [plugins.%s] and plugin_dirs in the config", name, err, name)
	case st.IsDir():
		return c, fmt.Errorf("plugin %s: %s is a directory; want an executable", name, c.Path)
	case st.Mode()&0o111 == 0:
		return c, fmt.Errorf("plugin %s: %s is not executable; chmod +x it", name, c.Path)
	}
	return c, nil
}

// unknownSink says that there is no sink of that name, and what was most likely meant.
func (a *Agent) unknownSink(name string, configured bool) error {
	if configured {
		return fmt.Errorf("plugin %s: [plugins.%s] has no command, and no plugin_dirs has %s%s", name, name, pluginFile, name)
	}
	known := append(a.pluginNames(), config.Wirings()...)
	for preset := range a.cfg.Load().Sinks {
		known = append(known, preset)
	}
	slices.Sort(known)
	if hint := nearest.Hint(name, known); hint != "" {
		return fmt.Errorf("unknown sink %q%s", name, hint)
	}
	return fmt.Errorf("unknown sink %q; there are %s", name, strings.Join(known, ", "))
}

// listPlugins tells of every plugin, or of the one that a sink of that name is of; with describe each is started, if it does not run.
func (a *Agent) listPlugins(ctx context.Context, describe bool, sink string) []*controlpb.Plugin {
	if preset, ok := a.cfg.Load().Sinks[sink]; ok {
		sink = preset.Name
	}
	var list []host.Status
	for _, s := range a.host.List() {
		if sink != "" && s.Name != sink {
			continue
		}
		if describe {
			a.host.Get(ctx, s.Name) // what is wrong is in its status
		}
	}
	for _, s := range a.host.List() {
		if sink == "" || s.Name == sink {
			list = append(list, s)
		}
	}
	a.mu.Lock()
	broken := maps.Clone(a.broken)
	openings := map[string]uint32{}
	for _, o := range a.openings {
		if name := o.choice.spec.Name; o.plugin.Load() == a.host.Running(name) { // not those that wait for a successor
			openings[name]++
		}
	}
	a.mu.Unlock()
	var out []*controlpb.Plugin
	for _, s := range list {
		p := &controlpb.Plugin{
			Name: s.Name, State: "idle", Pid: int32(s.PID), Command: s.Command, Openings: openings[s.Name],
			Restarts: uint32(s.Restarts), Error: s.Error, LastEnd: s.LastEnd,
		}
		if s.User != nil {
			p.Uid = &s.User.Uid
		}
		if b := s.Bounds; b != nil {
			p.Bounds = &controlpb.PluginBounds{Paths: b.Write, ReadPaths: b.Read, Landlock: uint32(keeper.LandlockABI())}
		}
		if s.Running {
			p.State, p.Started, p.Protocol = "running", s.Started.UnixNano(), uint32(s.Protocol)
			p.Counters = countersOf(ctx, a.host.Running(s.Name))
		} else if s.Error != "" {
			p.State = "failed"
		}
		if broken[s.Name] {
			p.Error += "; it died too often and is not started again: muxctl plugin restart " + s.Name
		}
		if d := s.Description; d != nil {
			p.Version, p.Help, p.Internal = d.Version, d.Help, d.Copies
			if d.Arg != nil {
				p.Arg = optionForClients(d.Arg)
			}
			for _, o := range d.Options {
				p.Options = append(p.Options, optionForClients(o))
			}
			p.Metrics = metricsOf(d, nil)
		}
		out = append(out, p)
	}
	return out
}

// optionForClients is an option as the control API tells it.
func optionForClients(o *sinkpb.Option) *controlpb.PluginOption {
	return &controlpb.PluginOption{
		Name: o.Name, Type: spec.Type(o.Type).String(), Default: o.Default, Help: o.Help, Values: o.Values, Required: o.Required,
	}
}

// presets lists the sinks that the configuration has names for.
func (a *Agent) presets() []*controlpb.Preset {
	var out []*controlpb.Preset
	sinks := a.cfg.Load().Sinks
	for _, name := range slices.Sorted(maps.Keys(sinks)) {
		out = append(out, &controlpb.Preset{Name: name, Sink: sinks[name].String()})
	}
	return out
}

// restartPlugin ends the plugin of that name, and starts it again: its streams go on where they were.
func (a *Agent) restartPlugin(ctx context.Context, name string) error {
	if !slices.ContainsFunc(a.host.List(), func(s host.Status) bool { return s.Name == name }) {
		return status.Error(codes.NotFound, a.unknownSink(name, false).Error())
	}
	if p := a.host.Running(name); p != nil {
		p.Replace()
	}
	a.mu.Lock()
	delete(a.deaths, name)
	delete(a.broken, name)
	a.mu.Unlock()
	if _, err := a.host.Get(ctx, name); err != nil {
		return status.Error(codes.FailedPrecondition, err.Error())
	}
	a.revive(name)
	return nil
}
