package agent

import (
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/muxd/muxd/control/controlpb"
	"github.com/muxd/muxd/core/config"
)

// reload reads the configuration again. Running children are left alone; children that are new in it are started. It says in
// words what came of it.
func (a *Agent) reload() (string, error) {
	cfg, err := a.loadConfig()
	if err != nil {
		a.log.Error("configuration is not reloaded", "error", err)
		return "", err
	}
	old := a.cfg.Swap(cfg)
	a.level.Set(cfg.Agent.LogLevel)
	for _, p := range a.host.All() {
		p.Reconsider() // the new plugin_hang holds from now on
	}
	had := map[string]bool{}
	for _, c := range old.Children {
		had[c.Name] = true
	}
	started := a.startConfigured(cfg, had)
	text := "configuration reloaded"
	if len(started) > 0 {
		text += "; started " + strings.Join(started, ", ")
	}
	a.log.Info(text, "path", a.o.ConfigPath)
	return text, nil
}

// startConfigured starts the [[child]] entries whose names are not in had, one after the other in their order, and returns
// their names. One that cannot be started is logged; with a restart policy it is tried again.
func (a *Agent) startConfigured(cfg *config.Config, had map[string]bool) []string {
	var names []string
	var todo []config.Child
	for _, c := range cfg.Children {
		if !had[c.Name] {
			names = append(names, c.Name)
			todo = append(todo, c)
		}
	}
	if len(todo) > 0 {
		a.follow(func() {
			for _, c := range todo {
				_, err := a.spawn(a.ctx, childSpec(&c), caller{}, func(ch *child) {
					ch.configured = true
					ch.backoff, ch.backoffFirst, ch.backoffMax = c.Backoff, c.Backoff, c.BackoffMax
				})
				if err != nil && a.ctx.Err() == nil {
					a.log.Error("child of the configuration is not started", "name", c.Name, "error", plainError(err))
				}
			}
		})
	}
	return names
}

// names lists the children that there are, of a muxd that took them over.
func (a *Agent) names() map[string]bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	had := map[string]bool{}
	for _, c := range a.children {
		had[c.rec.Name] = true
	}
	return had
}

// childSpec is what an entry of the configuration asks for.
func childSpec(c *config.Child) *controlpb.ChildSpec {
	cs := &controlpb.ChildSpec{
		Name: c.Name, Cwd: []byte(c.Cwd), User: c.User, Umask: c.Umask,
		Restart: map[config.Restart]controlpb.Restart{
			config.RestartOnFailure: controlpb.Restart_ON_FAILURE, config.RestartAlways: controlpb.Restart_ALWAYS,
		}[c.Restart],
		Size:  &controlpb.Size{Rows: uint32(c.Size.Rows), Cols: uint32(c.Size.Cols)},
		Grace: int64(c.Grace / time.Nanosecond),
	}
	for _, arg := range c.Command {
		cs.Argv = append(cs.Argv, []byte(arg))
	}
	if !c.ClearEnv {
		for _, e := range os.Environ() {
			name, _, _ := strings.Cut(e, "=")
			if _, ok := c.Env[name]; !ok && !(c.User != "" && (name == "HOME" || name == "USER" || name == "LOGNAME")) {
				cs.Env = append(cs.Env, []byte(e))
			}
		}
	}
	for k, v := range c.Env {
		cs.Env = append(cs.Env, fmt.Appendf(nil, "%s=%s", k, v))
	}
	for name, r := range c.Rlimits {
		cs.Rlimits = append(cs.Rlimits, &controlpb.Rlimit{Name: name, Soft: r.Soft, Hard: r.Hard})
	}
	for _, s := range []struct {
		stream string
		specs  []string
	}{
		{"", []string{c.Sink}}, {"stdin", []string{c.Stdin}}, {"stdout", c.Stdout}, {"stderr", c.Stderr},
	} {
		for _, spec := range s.specs {
			if spec != "" {
				cs.Sinks = append(cs.Sinks, &controlpb.SinkChoice{Stream: s.stream, Spec: spec})
			}
		}
	}
	return cs
}
