package agent

import (
	"context"
	"strings"

	"github.com/muxd/muxd/core/host"
	"github.com/muxd/muxd/sink/sinkpb"
)

// The keeper holds what it is given until it is told to drop it, and never asks what for. Where an agent dies between a hold and what it
// was for, or a plugin parks for a call that is long over, nobody would ever drop it: so every agent looks once at what there is when it
// takes over, and a plugin's far ends are looked at when they come.

// wants says whether the keeper shall hold the far end of an opening's stream; "in" is the input of the branch of that name.
func (a *Agent) wants(id, name string) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.isWanted(id, name)
}

// isWanted is wants. Agent.mu is held.
func (a *Agent) isWanted(id, name string) bool {
	switch name {
	case gapsEnd: // of a branch, or of a sink's opening
		if o := a.openings[id]; o != nil && o.choice.loses() || a.isMoving(id) {
			return true
		}
		fallthrough
	case inEnd, spillEnd:
		b, ok := a.branchNamed(id)
		return ok && !b.s.closed && b.copiedBy() != nil && !b.copiedBy().streams[0].done
	}
	o := a.openings[id]
	return o != nil && o.wants(name) || o == nil && a.isMoving(id)
}

// branchNamed finds a branch by its name. Agent.mu is held.
func (a *Agent) branchNamed(id string) (branch, bool) {
	child, _, _ := strings.Cut(id, "/")
	if c := a.children[child]; c != nil {
		for _, o := range c.openings {
			for _, s := range o.streams {
				if s.branch == id {
					return branch{o, s}, true
				}
			}
		}
	}
	return branch{}, false
}

// wants is Agent.wants of a far end of an opening that is known. Agent.mu is held.
func (o *opening) wants(name string) bool {
	for _, s := range o.streams {
		if name == nextEnd && s.next {
			return true
		}
		if streamName(s.kind) == name {
			return s.rec.State != "moved" && (s.kind != sinkpb.Stream_STDIN || s.rec.State == "open")
		}
	}
	return len(o.streams) == 0 // it is being moved here
}

// dropUnwanted has the keeper drop what an agent before this one had it hold for an opening, and is of nobody: far ends, and what a
// plugin has parked. What is of a child that is being started is its start's, which is taken back as a whole, or goes on.
func (a *Agent) dropUnwanted(ctx context.Context) error {
	held, _, err := a.keeper.List(ctx)
	if err != nil {
		return err
	}
	for _, h := range held {
		id, stream, ok := heldFor(h.Name)
		if !ok {
			continue
		}
		child, _, _ := strings.Cut(id, "/")
		a.mu.Lock()
		c, o := a.children[child], a.openings[id]
		keep := c != nil && c.rec.State == stStarting || a.isMoving(id) || o != nil && stream == "" || stream != "" && a.isWanted(id, stream)
		a.mu.Unlock()
		if keep {
			continue
		}
		a.log.Info("dropping what an agent that died has left", "name", h.Name)
		if err := a.keeper.Drop(ctx, h.Name, false); err != nil {
			return err
		}
	}
	return nil
}

// heldFor says of which opening a name of the keeper's is, and of which stream a far end. Of others ok is false.
func heldFor(name string) (id, stream string, ok bool) {
	if rest, far := strings.CutPrefix(name, farRoot); far {
		_, rest, _ = strings.Cut(rest, "/")
		i := strings.LastIndexByte(rest, '/')
		return rest[:max(i, 0)], rest[i+1:], i > 0
	}
	rest, ok := strings.CutPrefix(name, host.ParkRoot)
	parts := strings.Split(rest, "/") // PLUGIN/mem/CHILD/RUN/N/000, PLUGIN/own/CHILD/RUN/N/TAG/000
	if !ok || len(parts) < 6 || parts[1] != "mem" && parts[1] != "own" {
		return "", "", false
	}
	return strings.Join(parts[2:5], "/"), "", true
}

// dropParked has the keeper drop what a plugin that is gone had parked for an opening that nobody will open again.
func (a *Agent) dropParked(ctx context.Context, o *opening) {
	prefix := host.ParkPrefix(o.choice.spec.Name)
	a.keeper.Drop(ctx, prefix+"mem/"+o.id+"/", true)
	a.keeper.Drop(ctx, prefix+"own/"+o.id+"/", true)
}
