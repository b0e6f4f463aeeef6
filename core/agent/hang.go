package agent

import (
	"strings"

	"github.com/muxd/muxd/sink/sinkpb"
)

// A plugin that hangs is found by the host, which asks it whether it is there; but only while it has something to do, so that muxd
// sleeps when nothing happens. The keeper says when something can be read from a far end, without reading it.

// streamStirred is told by the keeper that a far end which calm armed has something to read. It does not block.
func (a *Agent) streamStirred(name string) {
	_, rest, _ := strings.Cut(strings.TrimPrefix(name, farRoot), "/") // CHILD/OPENING/STREAM
	i := max(strings.LastIndexByte(rest, '/'), 0)
	a.mu.Lock()
	defer a.mu.Unlock()
	o := a.openings[rest[:i]]
	if o == nil {
		return
	}
	if o.child.start != nil {
		poke(o.child.start.stir)
		return
	}
	for _, s := range o.streams {
		if s.rec.Stream == strings.TrimPrefix(rest[i:], "/") {
			s.armed = false
		}
	}
	if p := a.host.Running(o.choice.spec.Name); p != nil {
		p.Stir()
	}
}

// calm says whether a plugin need not be asked again until there is something to read from one of its streams, which the keeper will
// tell. What comes the other way nobody but the plugin sees: with a viewer or a stdin it is asked again, and so it is
// while a stream waits.
func (a *Agent) calm(plugin string) bool {
	a.mu.Lock()
	var names []string
	var streams []*stream
	for id, o := range a.openings {
		if o.choice.spec.Name != plugin || o.choice.wiring == "direct" || o.child.starting() {
			continue
		}
		for _, s := range o.streams {
			input := s.kind == sinkpb.Stream_STDIN
			if s.rec.Viewers > 0 || s.rec.Error != "" || input && s.rec.State == "open" {
				a.mu.Unlock()
				return false
			}
			if !input && !s.done && !s.armed {
				names, streams = append(names, farPrefix(o.child.id())+id+"/"+s.rec.Stream), append(streams, s)
			}
		}
	}
	for _, s := range streams {
		s.armed = true
	}
	a.mu.Unlock()
	if len(names) == 0 || a.keeper.Arm(a.ctx, names) == nil {
		return true
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, s := range streams {
		s.armed = false
	}
	return false
}
