package agent

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/muxd/muxd/core/host"
	"github.com/muxd/muxd/internal/fd"
	"github.com/muxd/muxd/sink/sinkpb"
)

// When a plugin's process dies its openings wait, each in its own pipe or terminal, which the keeper holds; a successor is started
// and handed all of them. A plugin that dies diesMost times within diesWithin is not started again unasked: its streams keep
// their bytes, and muxctl plugin restart tries again.
const (
	diesMost    = 5
	diesWithin  = 10 * time.Second
	reviveFirst = 50 * time.Millisecond // before the second attempt; the first comes at once
	reviveMost  = 5 * time.Second
)

// liveOpenings lists the openings of a plugin that its successor gets.
func (a *Agent) liveOpenings(plugin string) []string {
	a.mu.Lock()
	defer a.mu.Unlock()
	var ids []string
	for id, o := range a.openings {
		if o.choice.spec.Name == plugin {
			ids = append(ids, id)
		}
	}
	for _, c := range a.children {
		if c.move != nil && c.move.Opening != "" {
			ids = append(ids, c.move.Opening, c.move.Back) // an agent that died may have opened them
		}
	}
	return ids
}

// pluginDied is told by the host. Viewers of the plugin's consoles connect again by themselves.
func (a *Agent) pluginDied(name string, cause error) {
	a.mu.Lock()
	now := time.Now()
	a.deaths[name] = append(slices.DeleteFunc(a.deaths[name], func(t time.Time) bool { return now.Sub(t) > diesWithin }), now)
	if len(a.deaths[name]) >= diesMost {
		a.broken[name] = true
		cause = fmt.Errorf("%w; it has died %d times within %v and is not started again: see its log, then muxctl plugin restart %s",
			cause, len(a.deaths[name]), diesWithin, name)
		a.log.Error("plugin is given up", "plugin", name, "error", cause)
	}
	for _, o := range a.openings {
		if o.choice.spec.Name == name && o.deserted() {
			a.troubled(o, cause.Error())
		}
	}
	a.mu.Unlock()
	a.follow(func() { a.revive(name) })
}

// deserted says whether the process that serves o has ended. Where a move goes on with its successor, this may be told of the death late.
func (o *opening) deserted() bool {
	select {
	case <-o.plugin.Load().Gone():
		return true
	default:
		return false
	}
}

// troubled says why the streams of o wait. Agent.mu is held.
func (a *Agent) troubled(o *opening, why string) {
	for _, s := range o.streams {
		if !s.done && s.rec.Error != why {
			s.rec.Error = why
			a.emit(o.child, "trouble", partOf(s.rec), why)
		}
	}
}

// orphans lists the openings of a plugin that are not served by p.
func (a *Agent) orphans(name string, p *host.Plugin) []*opening {
	a.mu.Lock()
	defer a.mu.Unlock()
	var out []*opening
	for _, o := range a.openings {
		if o.choice.spec.Name == name && o.plugin.Load() != p && !o.child.starting() {
			out = append(out, o)
		}
	}
	return out
}

// starting says whether the openings of c are still being made: whoever makes them sees their plugin die. Agent.mu is held.
func (c *child) starting() bool { return c.rec.State == stStarting }

// revive hands the openings of a plugin whose process has died to a successor, and returns when each has one. It returns at
// once where that is being done, or the plugin is given up.
func (a *Agent) revive(name string) {
	a.mu.Lock()
	if a.reviving[name] {
		a.mu.Unlock()
		return
	}
	a.reviving[name] = true
	a.mu.Unlock()
	defer a.forsake(name)
	defer a.holdCopies(name)()
	for wait := reviveFirst; ; wait = min(2*wait, reviveMost) {
		a.mu.Lock()
		broken := a.broken[name]
		a.mu.Unlock()
		if broken || len(a.orphans(name, a.host.Running(name))) == 0 {
			a.mu.Lock()
			delete(a.reviving, name)
			a.mu.Unlock()
			return
		}
		p, err := a.host.Get(a.ctx, name)
		if err == nil {
			var all errgroup.Group
			all.SetLimit(reopenAtOnce)
			for _, o := range a.orphans(name, p) {
				all.Go(func() error { a.giveTo(o, p); return nil })
			}
			all.Wait()
			if len(a.orphans(name, p)) == 0 {
				continue
			}
		} else {
			a.mu.Lock()
			for _, o := range a.openings {
				if o.choice.spec.Name == name {
					a.troubled(o, err.Error())
				}
			}
			a.mu.Unlock()
			a.forsake(name)
		}
		select {
		case <-time.After(wait):
		case <-a.ctx.Done():
			return
		}
	}
}

// forsake fails the streams of a plugin that does not run whose drain deadline has passed, of children that were stopped and of all when muxd
// ends: nobody is to wait for ever for who puts out what they still have.
func (a *Agent) forsake(name string) {
	if a.host.Running(name) != nil {
		return
	}
	a.mu.Lock()
	late := map[*opening]error{}
	for _, o := range a.openings {
		if (a.ending || o.child.stopping) && o.child.cut && o.choice.spec.Name == name {
			late[o] = errors.New("given up while its plugin cannot run, and what was not put out is lost")
			if why := o.streams[0].rec.Error; why != "" {
				late[o] = fmt.Errorf("%w: %s", late[o], why)
			}
		}
	}
	a.mu.Unlock()
	for o, err := range late {
		a.lost(o, err)
	}
}

// forsakeBroken does so for every plugin that is given up.
func (a *Agent) forsakeBroken() {
	a.mu.Lock()
	names := slices.Collect(maps.Keys(a.broken))
	a.mu.Unlock()
	for _, name := range names {
		a.forsake(name)
	}
}

// copiesReserve is how many descriptors this process keeps for what else it does while it holds copies.
const copiesReserve = 2000

// copiesStep is how many copies are fetched before they are there for a successor of the keeper.
const copiesStep = 240

// holdCopies has this process hold, besides the keeper, what belongs to a plugin that is dead: its far ends and what it parked, as far as
// its limit of open files lets it, the far ends first. So the keeper may die too before there is a successor. It returns at
// once; release blocks until all is let go.
func (a *Agent) holdCopies(name string) (release func()) {
	ctx, cancel := context.WithCancel(a.ctx)
	var fetching sync.WaitGroup
	fetching.Go(func() { a.fetchCopies(ctx, name) })
	return func() {
		cancel()
		fetching.Wait()
		a.dropCopies(name)
	}
}

// dropCopies lets go of the copies under a key.
func (a *Agent) dropCopies(key string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, f := range a.copies[key] {
		f.Close()
	}
	delete(a.copies, key)
}

func (a *Agent) fetchCopies(ctx context.Context, name string) {
	held, _, err := a.keeper.List(ctx)
	if err != nil {
		return // the keeper is dead already, and this process becomes the next one
	}
	wanted := map[string]bool{}
	a.mu.Lock()
	for _, o := range a.openings {
		if o.choice.spec.Name == name {
			wanted[farPrefix(o.child.id())+o.id] = true
			for _, b := range o.branches() { // with its input
				wanted[path.Dir(b.input())] = true
			}
		}
	}
	a.copies[name] = map[string]*fd.FD{}
	a.mu.Unlock()
	var names []string
	for _, h := range held { // sorted: far ends are before what is parked
		if wanted[path.Dir(h.Name)] || strings.HasPrefix(h.Name, host.ParkPrefix(name)) {
			names = append(names, h.Name)
		}
	}
	var limit unix.Rlimit
	open, err := fd.Count()
	if err != nil || unix.Getrlimit(unix.RLIMIT_NOFILE, &limit) != nil {
		return
	}
	names = names[:max(0, min(len(names), int(limit.Cur)-open-copiesReserve))]
	for step := range slices.Chunk(names, copiesStep) {
		fds, _ := a.keeper.FetchAll(ctx, step) // without those that are gone
		a.mu.Lock()
		for i, f := range fds {
			if f != nil {
				a.copies[name][step[i]] = f
			}
		}
		a.mu.Unlock()
		if ctx.Err() != nil {
			return
		}
	}
}

// reopenAtOnce is how many openings are handed to a successor at a time: one after the other, each would wait for three processes to wake
// up.
const reopenAtOnce = 16

// giveTo has p serve o, or says why it does not.
func (a *Agent) giveTo(o *opening, p *host.Plugin) {
	err := a.reopen(a.ctx, o, p)
	switch {
	case errors.Is(err, unix.ENOENT):
		a.lost(o, fmt.Errorf("%w: its plugin and the keeper died together", err))
		o.plugin.Store(p)
	case err != nil && !pluginGone(err):
		a.mu.Lock()
		a.troubled(o, plainError(err).Error())
		a.mu.Unlock()
	}
}

// reopen hands o to p, which has got what its predecessor parked.
func (a *Agent) reopen(ctx context.Context, o *opening, p *host.Plugin) error {
	o.rewired.Lock()
	defer o.rewired.Unlock()
	c := o.child
	req := &sinkpb.OpenRequest{
		Opening: o.id, Spec: wireSpec(o.choice.spec), Again: true,
		Child: c.described(o.run),
		Size:  &sinkpb.Size{Rows: c.spec.Size.Rows, Cols: c.spec.Size.Cols},
	}
	a.mu.Lock()
	exited := c.rec.State != stRunning
	why := map[*stream]string{}
	for _, s := range o.streams {
		why[s] = s.rec.Error
		if input := s.kind == sinkpb.Stream_STDIN; !s.done && !s.left || input && !exited && s.rec.State == "open" {
			req.Streams = append(req.Streams, s.kind)
		}
	}
	a.mu.Unlock()
	if len(req.Streams) == 0 || o.choice.wiring == "direct" {
		o.plugin.Store(p) // nothing of it is left to serve
		return nil
	}
	var far []*fd.FD
	defer func() { fd.CloseAll(far) }()
	for _, s := range req.Streams {
		f, err := a.keeper.Fetch(ctx, farPrefix(c.id())+o.id+"/"+streamName(s))
		if err != nil {
			return fmt.Errorf("fetch the far end of %s: %w", streamName(s), err)
		}
		far = append(far, f)
	}
	memory, err := a.fetchGaps(ctx, o, p)
	if err != nil {
		return err
	}
	if memory != nil {
		req.Gaps, far = true, append(far, memory)
	}
	branches, in, err := a.fetchInputs(ctx, o)
	if err != nil {
		return err
	}
	req.Branches, far = branches, append(far, in...)
	err = p.Give(ctx, fd.Ints(far), func(ctx context.Context, ticket []byte) error {
		req.Ticket = ticket
		_, err := p.Sinks().Open(ctx, req)
		return err
	})
	if err != nil {
		return err
	}
	o.plugin.Store(p)
	a.mu.Lock()
	for _, s := range o.streams {
		if !s.done && s.rec.Error == why[s] { // and not what the successor has told already
			s.rec.Error = ""
		}
	}
	a.dropRemoved(o)
	a.emit(c, "recovered", "", fmt.Sprintf("plugin %s serves it again, pid %d", p.Name(), p.PID()))
	a.mu.Unlock()
	a.settle(o)
	return nil
}
