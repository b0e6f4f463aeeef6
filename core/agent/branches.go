package agent

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/muxd/muxd/control/controlpb"
	"github.com/muxd/muxd/core/agent/agentpb"
	"github.com/muxd/muxd/internal/fd"
	"github.com/muxd/muxd/sink/sinkpb"
)

// The journal's words for what is being done to a stream; a move to another sink has none.
const (
	moveAdds    = "add"
	moveRemoves = "remove"
)

// change adds a sink to a stream of a running child that is copied, or removes one. Between two bytes of the stream the others
// notice nothing. again says that an agent which died had begun with it.
func (a *Agent) change(ctx context.Context, c *child, m *agentpb.Move, again bool) error {
	a.mu.Lock()
	busy := c.moving
	c.moving = true
	if !busy { // an agent that takes over goes on with it
		c.move = m
		a.save(c)
	}
	a.mu.Unlock()
	if busy {
		return status.Errorf(codes.FailedPrecondition, "another stream of child %s is being moved", c.rec.Name)
	}
	defer func() {
		a.mu.Lock()
		defer a.mu.Unlock()
		c.moving, c.move = false, nil
		if a.children[c.id()] == c {
			a.save(c)
		}
		a.maybeFinish(c)
	}()
	from, err := a.copied(c, m.Stream)
	if err != nil {
		return err
	}
	if m.How == moveRemoves {
		return a.removeBranch(ctx, from, m.Spec)
	}
	return a.addBranch(ctx, from, m, again)
}

// copied finds the opening that copies the stream of that name.
func (a *Agent) copied(c *child, name string) (*opening, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if c.rec.State != stRunning && c.rec.State != stExited {
		return nil, status.Errorf(codes.FailedPrecondition, "child %s is %s, not running", c.rec.Name, c.rec.State)
	}
	for _, o := range c.openings {
		if o.choice.copies && o.streams[0].rec.Stream == name && !o.streams[0].done {
			return o, nil
		}
	}
	return nil, status.Errorf(codes.FailedPrecondition,
		"%s of %s is not copied: only a stream that was started with several sinks, or with %s=block for its one, can get more", name, c.rec.Name, branchOption)
}

// addBranch opens another sink for the stream that from copies. The journal knows the sink before it gets anything, so that no
// branch is ever forgotten, which would hold up the others.
func (a *Agent) addBranch(ctx context.Context, from *opening, m *agentpb.Move, again bool) error {
	c, kind := from.child, from.streams[0].kind
	a.mu.Lock()
	for _, b := range from.branches() {
		if b.choice.text == m.Spec && !b.choice.removed {
			a.mu.Unlock()
			if again { // the journal has it, and what copies the stream may have it
				return a.giveInput(ctx, from, b)
			}
			return status.Errorf(codes.FailedPrecondition, "%s of %s has the sink %q already", m.Stream, c.rec.Name, m.Spec)
		}
	}
	a.mu.Unlock()
	pbChild := &sinkpb.Child{Id: c.rec.Id, Name: c.rec.Name, Run: from.run, Command: c.spec.Argv[0]}
	to, err := a.resolve(ctx, m.Spec, []sinkpb.Stream{kind}, true, &controlpb.ChildSpec{Cwd: m.Cwd}, pbChild)
	if err == nil {
		err = to.standBehind(from.choice)
	}
	if err != nil {
		return invalid(err)
	}
	p, err := a.host.Get(ctx, to.spec.Name)
	if err != nil {
		return invalid(err)
	}
	o := &opening{id: fmt.Sprintf("%s/%d/%s", c.id(), from.run, newID()), run: from.run, child: c, choice: &to}
	o.plugin.Store(p)
	a.mu.Lock()
	rec := &controlpb.Sink{
		Stream: m.Stream, Spec: to.text, Plugin: to.spec.Name, Wiring: to.wiring, State: "open", Location: to.location,
		Branch: c.nextBranch(m.Stream), Policy: policyName(to.policy),
	}
	o.streams = []*stream{{kind: kind, rec: rec}}
	a.openings[o.id] = o
	a.mu.Unlock()
	var ends []*fd.FD
	defer func() { fd.CloseAll(ends) }()
	var unheld error
	_, err = a.openBranch(ctx, c, o, pbChild, func(name string, f *fd.FD) {
		ends = append(ends, f)
		unheld = cmp.Or(unheld, a.keeper.Hold(ctx, name, nil, f.Int()))
	})
	err = cmp.Or(err, unheld)
	a.mu.Lock()
	if err != nil {
		delete(a.openings, o.id)
		a.mu.Unlock()
		a.keeper.Drop(ctx, farPrefix(c.id())+o.id+"/", true)
		return plainStatus(err)
	}
	c.sinks, c.openings, c.rec.Sinks = append(c.sinks, &to), append(c.openings, o), append(c.rec.Sinks, rec)
	a.save(c)
	a.mu.Unlock()
	return a.giveInput(ctx, from, o)
}

// giveInput has what copies a stream copy it to the branch b too. It may be done again.
func (a *Agent) giveInput(ctx context.Context, from, b *opening) error {
	in, err := a.keeper.Fetch(ctx, inputName(b))
	if err != nil {
		return spawnError(fmt.Errorf("fetch the input of %s: %w", b.choice.text, err))
	}
	defer in.Close()
	err = a.giveBranch(ctx, from, b, in.Int())
	a.mu.Lock()
	gone := err != nil && pluginGone(err) // its successor gets it with all the others
	if err == nil || gone {
		a.emit(b.child, "redirected", partOf(b.streams[0].rec), "also to "+b.choice.text)
	} else {
		b.choice.removed = true
	}
	exited := b.child.rec.State != stRunning
	a.mu.Unlock()
	switch {
	case err != nil && !gone:
		a.closeInputs([]*opening{b}) // it ends with nothing
		return plainStatus(err)
	case exited:
		a.settle(b)
	}
	return nil
}

// removeBranch ends the sink that which names, by its spec or its number, of the stream that from copies.
func (a *Agent) removeBranch(ctx context.Context, from *opening, which string) error {
	c, name := from.child, from.streams[0].rec.Stream
	a.mu.Lock()
	var there []string
	var b *opening
	for _, o := range from.branches() {
		if o.choice.removed {
			continue
		}
		rec := o.streams[0].rec
		there = append(there, fmt.Sprintf("%d (%s)", rec.Branch, rec.Spec))
		if rec.Spec == which || strconv.Itoa(int(rec.Branch)) == which {
			b = o
		}
	}
	switch {
	case b == nil:
		a.mu.Unlock()
		return status.Errorf(codes.NotFound, "%s of %s has no sink %q; there are %s", name, c.rec.Name, which, strings.Join(there, ", "))
	case len(there) == 1:
		a.mu.Unlock()
		return status.Errorf(codes.FailedPrecondition, "%s is the last sink of %s of %s: add another one first", b.choice.text, name, c.rec.Name)
	}
	b.choice.removed = true
	a.save(c)
	a.mu.Unlock()
	removed := make(chan struct{})
	a.follow(func() {
		defer close(removed)
		a.dropBranch(from, b)
	})
	select {
	case <-removed:
		return nil
	case <-time.After(leaveTimeout):
		return status.Errorf(codes.FailedPrecondition,
			"%s gets nothing more of %s, and is still busy with what it has got before (see muxctl inspect); it ends when it has put that out", b.choice.text, name)
	case <-ctx.Done():
		return status.FromContextError(ctx.Err()).Err()
	}
}

// dropBranch has from pass on what it holds for the branch b, and ends b. Where from's plugin dies over it, it is done again when a
// successor has the stream.
func (a *Agent) dropBranch(from, b *opening) {
	_, err := from.sinks().RemoveBranch(a.ctx, &sinkpb.RemoveBranchRequest{Opening: from.id, Branch: b.id})
	if err != nil {
		if !pluginGone(err) {
			a.log.Error("a sink is not removed from its stream", "opening", b.id, "error", plainError(err))
		}
		return
	}
	a.mu.Lock()
	a.emit(b.child, "redirected", partOf(b.streams[0].rec), "no more to "+b.choice.text)
	a.mu.Unlock()
	a.closeInputs([]*opening{b})
}

// dropRemoved goes on with the removal of from's branches, in the hands of another process or by another agent. Agent.mu is held.
func (a *Agent) dropRemoved(from *opening) {
	for _, b := range from.branches() {
		if b.choice.removed {
			a.follow(func() { a.dropBranch(from, b) })
		}
	}
}

// forgetRemoved drops the sinks that were removed before c is started again. Agent.mu is held.
func (c *child) forgetRemoved() {
	c.sinks = slices.DeleteFunc(c.sinks, func(ch *choice) bool { return ch.removed })
}
