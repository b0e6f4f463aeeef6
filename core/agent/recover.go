package agent

import (
	"context"
	"time"

	"golang.org/x/sys/unix"

	"github.com/muxd/muxd/core/host"
	"github.com/muxd/muxd/core/keeper/keeperpb"
	"github.com/muxd/muxd/sink/sinkpb"
)

// recover takes over from an agent that died: its children from the journal, their processes from the keeper, their streams
// from the plugins, which have gone on serving them.
func (a *Agent) recover(ctx context.Context, processes []*keeperpb.Process) error {
	byKey := map[string]*keeperpb.Process{}
	for _, p := range processes {
		byKey[p.Key] = p
	}
	all, err := a.journal.read()
	if err != nil {
		return err
	}
	a.mu.Lock()
	var children []*child
	for _, m := range all {
		c, err := childFrom(m)
		if err != nil {
			a.log.Error("child of the journal is lost", "child", m.GetRecord().GetId(), "error", err)
			continue
		}
		a.children[c.id()] = c
		if c.request != "" {
			a.requests[c.request] = c
		}
		for _, o := range c.openings {
			a.openings[o.id] = o
			o.plugin.Store(host.Dead(o.choice.spec.Name)) // until it is known to run
		}
		if c.over() {
			close(c.finished)
		}
		if p := byKey[c.key]; p != nil {
			a.byKey[c.key] = c
		}
		children = append(children, c)
	}
	a.mu.Unlock()

	plugins := 0
	for _, p := range processes {
		if !isPluginKey(p.Key) {
			continue
		}
		if p.Exited {
			a.host.Bury(p.Key)
			continue
		}
		plugin, err := a.host.Reattach(ctx, p)
		if err != nil {
			a.log.Error("plugin is not reattached, and killed for a successor", "key", p.Key, "error", err)
			a.keeper.Signal(ctx, p.Key, unix.SIGKILL, false)
			continue
		}
		if a.o.Takeover { // the keeper has nothing of what the one before held
			if _, err := plugin.Sinks().Repark(ctx, &sinkpb.ReparkRequest{}); err != nil {
				a.log.Error("plugin does not park again what it has", "plugin", plugin.Name(), "error", plainError(err))
			}
		}
		resp, err := plugin.Sinks().Openings(ctx, &sinkpb.OpeningsRequest{})
		if err != nil {
			continue // it has died: its openings are revived
		}
		a.mu.Lock()
		for _, id := range resp.Openings {
			if o := a.openings[id]; o != nil && o.choice.spec.Name == plugin.Name() {
				o.plugin.Store(plugin)
			}
		}
		a.mu.Unlock()
		plugins++
	}
	a.host.Sweep()
	for _, c := range children {
		a.resume(c, byKey[c.key])
		if move := c.move; move != nil {
			a.follow(func() { a.moveAgain(c, move) })
		}
	}
	a.mu.Lock()
	names := map[string]bool{}
	for _, o := range a.openings {
		names[o.choice.spec.Name] = true
	}
	a.mu.Unlock()
	for name := range names {
		a.follow(func() { a.revive(name) }) // the openings of those that died, or never got them
	}
	a.log.Info("took over from an agent that died", "children", len(children), "plugins", plugins)
	return nil
}

// resume goes on with a child where the agent before was. p is its process, nil where the keeper knows none.
func (a *Agent) resume(c *child, p *keeperpb.Process) {
	a.mu.Lock()
	state := c.rec.State
	a.mu.Unlock()
	switch {
	case state == stStarting && p != nil:
		a.running(c, p)
		if p.Exited {
			a.processExited(p)
		}
	case state == stStarting && c.forks:
		time.AfterFunc(forkTimeout, func() { a.notForked(c, "the client that was to fork it did not say that it has") })
	case state == stStarting:
		// Its spawn never came to the process, and whoever asked for it asks again.
		a.follow(func() {
			a.undo(c)
			a.mu.Lock()
			defer a.mu.Unlock()
			c.rec.Error = "muxd's agent died while it was being started"
			a.over(c, stFailed)
			a.forget(c)
		})
	case state == stRunning && p == nil:
		a.log.Error("the keeper does not know a child that ran", "child", c.id())
		a.processExited(&keeperpb.Process{Key: c.key, Ended: time.Now().UnixNano()})
	case state == stRunning:
		a.mu.Lock()
		c.openPidfd()
		a.mu.Unlock()
		if c.stopping {
			a.stop(c, time.Duration(c.spec.Grace))
		}
		if p.Exited {
			a.processExited(p)
		}
	case state == stExited:
		a.mu.Lock()
		a.drainLater(c)
		for _, o := range c.openings {
			a.follow(func() { a.settle(o) })
		}
		a.maybeFinish(c)
		a.mu.Unlock()
	case state == stBackoff:
		a.mu.Lock()
		c.restart = time.AfterFunc(c.backoff, func() { a.follow(func() { a.runAgain(c) }) })
		a.mu.Unlock()
	}
}
