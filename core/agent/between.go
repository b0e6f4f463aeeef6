package agent

import (
	"context"
	"fmt"
	"slices"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/muxd/muxd/control/controlpb"
	"github.com/muxd/muxd/core/host"
	"github.com/muxd/muxd/internal/fd"
	"github.com/muxd/muxd/sink/sinkpb"
)

// A stream that has one sink gets another by putting what copies between: the sink is given the read end of a new pipe in place of its
// far end (Rewire), and goes on at its offset; what copies reads the far end from then on, and writes into the new pipe. Nobody writes
// there before the sink has let go of the far end, so that the order of the bytes is what it was.
//
//  1. The keeper holds the far end under the name that it has for what copies, and both ends of the new pipe, the read end as nextName.
//  2. The journal has the stream as a branch, with next.
//  3. The sink is rewired. Where its process is dead, the next one gets the read end.
//  4. The keeper has the read end as the sink's far end, and the journal no next.
//  5. What copies is opened.
//
// An agent that takes over behind 2 goes on there.

// nextEnd is the last part of nextName.
const nextEnd = "next"

// nextName is the keeper's name of what is to become the far end of a stream of o.
func (o *opening) nextName() string { return farPrefix(o.child.id()) + o.id + "/" + nextEnd }

// putBetween puts what copies between a stream and its one sink, b, and returns it.
func (a *Agent) putBetween(ctx context.Context, b branch) (*opening, error) {
	c, o, s := b.o.child, b.o, b.s
	between, err := a.copierOf(ctx, s.kind)
	if err != nil {
		return nil, invalid(err)
	}
	if p, err := a.host.Get(ctx, o.choice.spec.Name); err != nil || !p.Description().Rewires {
		return nil, status.Errorf(codes.FailedPrecondition, "%s of %s was started with one sink, whose plugin %s takes no other far end; start it with %s=block to add others", s.rec.Stream, c.rec.Name, o.choice.spec.Name, branchOption)
	}
	between.from, between.wiring = s.as.from, s.as.wiring
	of := &opening{id: fmt.Sprintf("%s/%d/%s", c.id(), o.run, newID()), run: o.run, child: c, choice: between}
	of.plugin.Store(host.Dead(copier))
	rec := &controlpb.Sink{Stream: s.rec.Stream, Spec: copier, Plugin: copier, Wiring: s.rec.Wiring, State: "open"}
	to := &stream{kind: s.kind, rec: rec, as: between, branch: s.branch, holder: s.holder}
	of.streams = []*stream{to}

	far, err := a.keeper.Fetch(ctx, o.farName(s))
	if err != nil {
		return nil, spawnError(fmt.Errorf("fetch the far end of %s: %w", s.rec.Stream, err))
	}
	defer far.Close()
	r, w, err := fd.Pipe()
	if err != nil {
		return nil, spawnError(err)
	}
	defer r.Close()
	defer w.Close()
	was, number, policy, wiring := *s, s.rec.Branch, s.rec.Policy, s.rec.Wiring
	branched := *s // as it will be
	branched.branch, branched.next = fmt.Sprintf("%s/%d/%s", c.id(), o.run, newID()), true
	names := map[string]*fd.FD{of.farName(to): far, o.nextName(): r, branch{o, &branched}.input(): w}
	drop := func() {
		for name := range names {
			a.keeper.Drop(context.WithoutCancel(ctx), name, false)
		}
	}
	for name, f := range names {
		if err := a.keeper.Hold(ctx, name, nil, f.Int()); err != nil {
			drop()
			return nil, spawnError(err)
		}
	}

	a.mu.Lock()
	a.holdBetween(of, names)
	as := s.as
	if len(o.choice.streams) > 1 { // it shares the opening with another stream
		own := *s.as
		own.streams = []sinkpb.Stream{s.kind}
		as = &own
		o.choice.streams = slices.DeleteFunc(slices.Clone(o.choice.streams), func(k sinkpb.Stream) bool { return k == s.kind })
		c.sinks = append(c.sinks, as)
	}
	as.from, as.wiring = between, wiringPipe
	s.as, s.branch, s.next, s.holder = as, branched.branch, true, holderID{}
	if s.rec.Branch == 0 {
		s.rec.Branch, s.rec.Policy = c.nextBranch(s.rec.Stream), policyName(as.policy)
	}
	s.rec.Wiring = wiringPipe
	c.sinks, c.openings, c.rec.Sinks = append(c.sinks, between), append(c.openings, of), append(c.rec.Sinks, rec)
	a.openings[of.id] = of
	a.save(c)
	a.mu.Unlock()
	defer a.releaseBetween(of)

	err = a.rewire(ctx, o, s)
	if err == nil {
		a.openBetween(ctx, of)
		return of, nil
	}
	if pluginGone(err) { // the keeper has died, and this process becomes it
		return nil, err
	}
	a.mu.Lock()
	if own := s.as; own != was.as {
		o.choice.streams = append(o.choice.streams, s.kind)
		slices.Sort(o.choice.streams)
		c.sinks = slices.DeleteFunc(c.sinks, func(ch *choice) bool { return ch == own })
	}
	s.as, s.branch, s.next, s.holder = was.as, was.branch, false, was.holder
	s.as.from, s.as.wiring = between.from, between.wiring
	s.rec.Branch, s.rec.Policy, s.rec.Wiring = number, policy, wiring
	c.sinks = slices.DeleteFunc(c.sinks, func(ch *choice) bool { return ch == between })
	c.openings = slices.DeleteFunc(c.openings, func(other *opening) bool { return other == of })
	c.rec.Sinks = slices.DeleteFunc(c.rec.Sinks, func(r *controlpb.Sink) bool { return r == rec })
	delete(a.openings, of.id)
	a.save(c)
	a.mu.Unlock()
	drop()
	return nil, plainStatus(err)
}

// rewire has the sink of o read the far end that the keeper has as nextName, in place of the one that s has until now; steps 3 and 4.
func (a *Agent) rewire(ctx context.Context, o *opening, s *stream) error {
	o.rewired.Lock()
	defer o.rewired.Unlock()
	r, err := a.keeper.Fetch(ctx, o.nextName())
	if err != nil {
		return spawnError(fmt.Errorf("fetch the next far end of %s: %w", s.rec.Stream, err))
	}
	defer r.Close()
	p := o.plugin.Load()
	err = p.Give(ctx, []int{r.Int()}, func(ctx context.Context, ticket []byte) error {
		_, err := p.Sinks().Rewire(ctx, &sinkpb.RewireRequest{Opening: o.id, Stream: s.kind, Ticket: ticket})
		return err
	})
	if err != nil && !pluginGone(err) {
		return plainStatus(err)
	}
	if err := a.keeper.Hold(ctx, o.farName(s), nil, r.Int()); err != nil {
		return spawnError(err)
	}
	a.mu.Lock()
	s.next = false
	a.save(o.child)
	a.mu.Unlock()
	a.keeper.Drop(ctx, o.nextName(), false)
	return nil
}

// openBetween opens what copies, step 5, and goes on trying where that fails.
func (a *Agent) openBetween(ctx context.Context, of *opening) {
	err := a.tryBetween(ctx, of)
	if err == nil {
		return
	}
	of.plugin.Store(host.Dead(copier))
	a.mu.Lock()
	a.troubled(of, plainError(err).Error())
	a.mu.Unlock()
	a.follow(func() { a.revive(copier) })
}

func (a *Agent) tryBetween(ctx context.Context, of *opening) error {
	of.rewired.Lock()
	defer of.rewired.Unlock()
	p, err := a.host.Get(ctx, copier)
	if err != nil {
		return err
	}
	far, err := a.keeper.Fetch(ctx, of.farName(of.streams[0]))
	if err != nil {
		return err
	}
	defer far.Close()
	branches, in, err := a.fetchInputs(ctx, of)
	defer fd.CloseAll(in)
	if err != nil {
		return err
	}
	err = p.Give(ctx, append([]int{far.Int()}, fd.Ints(in)...), func(ctx context.Context, ticket []byte) error {
		_, err := p.Sinks().Open(ctx, &sinkpb.OpenRequest{
			Opening: of.id, Spec: wireSpec(of.choice.spec), Child: of.child.described(of.run), Streams: of.choice.streams,
			Branches: branches, Ticket: ticket,
		})
		return err
	})
	if err == nil {
		of.plugin.Store(p)
	}
	return err
}

// resumeBetween goes on with what an agent that died had begun to put between, before any sink is opened again.
func (a *Agent) resumeBetween(ctx context.Context, c *child) {
	for _, o := range c.openings {
		for _, s := range o.streams {
			if !s.next {
				continue
			}
			if err := a.rewire(ctx, o, s); err != nil { // its stream has ended, or keeper and agent died over it
				a.log.Error("a sink is not given its next far end", "opening", o.id, "stream", s.rec.Stream, "error", plainError(err))
			}
		}
	}
}

// holdBetween has this process hold copies of what nobody else but the keeper has for a while. Agent.mu is held.
func (a *Agent) holdBetween(of *opening, names map[string]*fd.FD) {
	copies := map[string]*fd.FD{}
	for name, f := range names {
		if d, err := f.Dup(); err == nil {
			copies[name] = d
		}
	}
	a.copies["between "+of.id] = copies
}

func (a *Agent) releaseBetween(of *opening) { a.dropCopies("between " + of.id) }
