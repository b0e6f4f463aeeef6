package agent

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/muxd/muxd/core/host"
	"github.com/muxd/muxd/core/keeper"
	"github.com/muxd/muxd/core/keeper/keeperpb"
	"github.com/muxd/muxd/internal/latch"
	"github.com/muxd/muxd/sink/sinkpb"
)

// recover takes over from an agent that died: its children from the journal, their processes from the keeper, their streams
// from the plugins, which have gone on serving them. Where the keeper died too, what it knew comes from the journal and the plugins, and
// the journal is this keeper's from then on: an agent that dies before begins this anew.
func (a *Agent) recover(ctx context.Context, processes []*keeperpb.Process, from origin, keeper string) error {
	children, err := a.restore()
	if err != nil {
		return err
	}
	if from == others {
		if processes, err = a.adopt(ctx, children, processes); err != nil {
			return err
		}
	}
	byKey := map[string]*keeperpb.Process{}
	for _, p := range processes {
		byKey[p.Key] = p
	}
	a.mu.Lock()
	for _, c := range children {
		if byKey[c.key] != nil {
			a.byKey[c.key] = c
		}
	}
	a.mu.Unlock()
	plugins := a.reattach(ctx, processes, from == others)
	if from == others {
		if err := a.journal.claim(keeper); err != nil {
			return err
		}
	}
	a.host.Sweep()
	if err := a.dropUnwanted(ctx); err != nil {
		return err
	}
	for _, c := range children {
		a.resume(ctx, c, byKey[c.key])
		a.resumeBetween(ctx, c)
		a.resumeCopies(c)
		if move := c.move; move != nil {
			a.moveAgain(c, move)
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
	a.log.Info("took over from "+map[bool]string{false: "an agent", true: "a keeper"}[from == others]+" that died",
		"children", len(children), "plugins", plugins)
	return nil
}

// restore makes the children of the journal, and returns them, the oldest first.
func (a *Agent) restore() ([]*child, error) {
	all, err := a.journal.read()
	if err != nil {
		return nil, err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
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
		switch {
		case c.over():
			c.finished.Close()
			a.done = append(a.done, c)
		case c.rec.State == stExited: // before a plugin tells of its streams: the last of them ends the wait
			a.drainLater(c)
		}
		children = append(children, c)
		a.name(c)
	}
	slices.SortStableFunc(a.done, func(x, y *child) int { return cmp.Compare(x.rec.Finished, y.rec.Finished) })
	a.remains.dropOthers(func(id string) bool { return a.children[id] != nil })
	return children, nil
}

// adopt has the keeper follow what one that died knew, and returns all that it follows then: children, as the journal names
// their processes, and plugins, as they are written down beside their sockets. What runs no more is not among them. Doing it again
// changes nothing.
func (a *Agent) adopt(ctx context.Context, children []*child, processes []*keeperpb.Process) ([]*keeperpb.Process, error) {
	known := map[string]bool{}
	for _, p := range processes { // this process became the keeper, or another agent had begun this
		known[p.Key] = true
	}
	for _, c := range children {
		if running := c.rec.State == stRunning || c.rec.State == stStarting; known[c.key] || !running || c.started == 0 {
			continue
		}
		pidfd, err := keeper.OpenProcess(int(c.rec.Pid), c.started)
		if errors.Is(err, unix.ESRCH) {
			continue // it has ended, and nobody knows how
		}
		if err != nil {
			return nil, fmt.Errorf("take child %s over: %w", c.id(), err)
		}
		p, err := a.keeper.Watch(ctx, c.key, int(c.rec.Pid), nil, pidfd.Int())
		pidfd.Close()
		if err != nil {
			return nil, fmt.Errorf("take child %s over: %w", c.id(), err)
		}
		processes = append(processes, p)
	}
	plugins, err := a.host.Adopt(ctx, known)
	if err != nil {
		return nil, err
	}
	return append(processes, plugins...), nil
}

// reattach connects to the plugins that run, and returns how many. With repark each parks again what it has: the keeper that held
// it has died. A plugin that is slow holds up the others no longer than its start may take.
func (a *Agent) reattach(ctx context.Context, processes []*keeperpb.Process, repark bool) int {
	var n atomic.Int32
	var work sync.WaitGroup
	for _, p := range processes {
		switch {
		case !isPluginKey(p.Key):
		case p.Exited:
			a.host.Bury(p.Key)
		default:
			work.Go(func() {
				if a.reattachOne(ctx, p, repark) {
					n.Add(1)
				}
			})
		}
	}
	work.Wait()
	return int(n.Load())
}

func (a *Agent) reattachOne(ctx context.Context, p *keeperpb.Process, repark bool) bool {
	plugin, err := a.host.Reattach(ctx, p)
	if err != nil {
		a.log.Error("plugin is not reattached, and killed for a successor", "key", p.Key, "error", err)
		a.keeper.Signal(ctx, p.Key, unix.SIGKILL, false)
		return false
	}
	most := a.cfg.Load().Agent.PluginStartTimeout
	if repark {
		reparkCtx, cancel := context.WithTimeout(ctx, most)
		_, err := plugin.Sinks().Repark(reparkCtx, &sinkpb.ReparkRequest{})
		cancel()
		if err != nil {
			a.log.Error("plugin does not park again what it has", "plugin", plugin.Name(), "error", plainError(err))
		}
	}
	ctx, cancel := context.WithTimeout(ctx, most)
	defer cancel()
	resp, err := plugin.Sinks().Openings(ctx, &sinkpb.OpeningsRequest{}, host.LargeAnswer())
	if err != nil { // its openings are revived when it has died
		if !pluginGone(err) {
			a.log.Error("plugin does not say which streams it has, and is killed for a successor", "plugin", plugin.Name(), "error", plainError(err))
			plugin.Kill()
		}
		return false
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, id := range resp.Openings {
		if o := a.openings[id]; o != nil && o.choice.spec.Name == plugin.Name() {
			o.plugin.Store(plugin)
		}
	}
	return true
}

var errStarting = status.Error(codes.Unavailable, "muxd's agent died while the child was being started")

// resume goes on with a child where the agent before was. p is its process, nil where the keeper knows none.
func (a *Agent) resume(ctx context.Context, c *child, p *keeperpb.Process) {
	a.mu.Lock()
	state := c.rec.State
	a.mu.Unlock()
	if c.runtime != nil && c.key != runtimeKey(c) {
		a.keeper.Forget(ctx, runtimeKey(c)) // the agent before may not have come so far
	}
	switch {
	case state == stStarting && c.runtime != nil && (p != nil || c.started != 0):
		if p == nil {
			p = &keeperpb.Process{Key: c.key, Pid: c.rec.Pid, Started: c.rec.Started, Exited: true, Ended: time.Now().UnixNano()}
		}
		c.ready, c.failed = latch.Latch{}, nil
		a.follow(func() { a.resumeContainer(c, p) })
	case state == stStarting && c.adopted:
		a.resumeAdopted(ctx, c, p)
	case state == stStarting && p != nil:
		a.running(c, p, nil)
		if p.Exited {
			a.mu.Lock()
			a.exited(c, p)
			a.mu.Unlock()
		}
	case state == stStarting && c.forks:
		time.AfterFunc(forkTimeout, func() { a.notForked(c, "the client that was to fork it did not say that it has") })
	case state == stStarting && (c.rec.Run > 1 || c.request == ""): // of a restart, or of the configuration: nobody else tries again
		a.follow(func() {
			a.undo(c)
			a.tryLater(c, errStarting)
		})
	case state == stStarting:
		// Its spawn never came to the process. Whoever asked for it asks again, is told to once more, and starts another.
		c.ready, c.failed = latch.Latch{}, errStarting
		a.follow(func() {
			a.undo(c)
			a.mu.Lock()
			defer a.mu.Unlock()
			c.rec.Error = plainError(errStarting).Error()
			a.over(c, stFailed)
			a.forget(c)
			c.ready.Close()
		})
	case state == stRunning && p == nil && !(c.adopted && c.rec.Pid == 0):
		a.log.Error("a child ended while nobody followed it, and its exit status is not known", "child", c.id(), "pid", c.rec.Pid)
		a.mu.Lock()
		a.exited(c, &keeperpb.Process{Key: c.key, Ended: time.Now().UnixNano()})
		a.mu.Unlock()
	case state == stRunning:
		a.mu.Lock()
		c.openPidfd()
		for _, o := range c.openings {
			if o.endsAlone() { // the agent before may not have come so far
				a.follow(func() { a.settle(o) })
			}
		}
		a.mu.Unlock()
		if c.stopping {
			a.stop(c, time.Duration(c.spec.Grace))
		}
		if p.GetExited() {
			a.mu.Lock()
			a.exited(c, p)
			a.mu.Unlock()
		}
	case state == stExited:
		a.mu.Lock()
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
