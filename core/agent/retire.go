package agent

import (
	"slices"

	"github.com/muxd/muxd/control/controlpb"
	"github.com/muxd/muxd/sink/sinkpb"
)

// A child that runs for long may have sinks that come and go. Of those that are gone only the record stays, and of these the latest.

// goneSinksMost is how many sinks are remembered that a child had before.
const goneSinksMost = 32

// retire lets go of an opening whose streams were all removed from their child, and are put out. Agent.mu is held.
func (a *Agent) retire(o *opening) {
	c := o.child
	removed := len(o.streams) > 0 && !slices.ContainsFunc(o.streams, func(s *stream) bool { return !s.as.removed || s.rec.State != "flushed" })
	if !removed || c.ending || !slices.Contains(c.openings, o) {
		return
	}
	c.openings = slices.DeleteFunc(c.openings, func(other *opening) bool { return other == o })
	delete(a.openings, o.id)
	if !slices.ContainsFunc(c.sinks, func(ch *choice) bool { return ch.from == o.choice }) {
		c.sinks = slices.DeleteFunc(c.sinks, func(ch *choice) bool { return ch == o.choice })
	}
	c.forgetSinks()
	a.save(c)
	a.follow(func() {
		a.keeper.Drop(a.ctx, farPrefix(c.id())+o.id+"/", true)
		if _, err := o.sinks().Forget(a.ctx, &sinkpb.ForgetRequest{Opening: o.id}); err != nil && pluginGone(err) {
			a.dropParked(a.ctx, o)
		}
	})
}

// forgetSinks drops the oldest records of sinks that c has no more. Agent.mu is held.
func (c *child) forgetSinks() {
	var gone []*controlpb.Sink
	for _, r := range c.rec.Sinks {
		has := func(o *opening) bool {
			return slices.ContainsFunc(o.streams, func(s *stream) bool { return s.rec == r })
		}
		if r.Plugin != "" && !slices.ContainsFunc(c.openings, has) {
			gone = append(gone, r)
		}
	}
	if n := len(gone) - goneSinksMost; n > 0 {
		c.rec.Sinks = slices.DeleteFunc(c.rec.Sinks, func(r *controlpb.Sink) bool { return slices.Contains(gone[:n], r) })
	}
}
