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
func (a *Agent) change(ctx context.Context, c *child, m *agentpb.Move, again bool) (err error) {
	a.mu.Lock()
	busy := c.moving
	if r := c.resumed; r != nil && r.same(m) { // whoever asked for it asks again
		a.mu.Unlock()
		return r.wait(ctx)
	}
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
		c.moveOver(m, err)
		if a.children[c.id()] == c {
			a.save(c)
		}
		a.maybeFinish(c)
	}()
	from, one, err := a.copied(c, m.Stream)
	switch {
	case err != nil:
		return err
	case m.How == moveRemoves && from == nil:
		return status.Errorf(codes.FailedPrecondition, "%s is the only sink of %s of %s: add another one first", one.s.rec.Spec, m.Stream, c.rec.Name)
	case m.How == moveRemoves:
		return a.removeBranch(ctx, from, m.Spec)
	}
	to, err := a.judgeBranch(ctx, c, m)
	switch {
	case err != nil:
		return err
	case one.o != nil && one.s.as.text == m.Spec && !(again && from != nil):
		return status.Errorf(codes.FailedPrecondition, "%s of %s has the sink %q already", m.Stream, c.rec.Name, m.Spec)
	case one.o != nil && one.s.as.text != m.Spec:
		from, err = a.putBetween(ctx, one)
	case one.o == nil && from.isConsole() && to.policy != sinkpb.Policy_BLOCK:
		from, err = a.addCopier(ctx, from, m)
	}
	if err != nil {
		return err
	}
	return a.addBranch(ctx, from, to, m, again)
}

// addCopier puts what copies behind a console that has no branch.
func (a *Agent) addCopier(ctx context.Context, console *opening, m *agentpb.Move) (*opening, error) {
	between, err := a.copierOf(ctx, sinkpb.Stream_STDOUT)
	if err != nil {
		return nil, invalid(err)
	}
	if err := a.addBranch(ctx, console, between, &agentpb.Move{Stream: m.Stream, Spec: copier}, false); err != nil {
		return nil, err
	}
	from, _, err := a.copied(console.child, m.Stream)
	return from, err
}

// copied finds what copies the stream of that name, or the console; and the one sink that reads it, where nothing copies it to several.
func (a *Agent) copied(c *child, name string) (from *opening, one branch, err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if c.rec.State != stRunning && c.rec.State != stExited {
		return nil, one, status.Errorf(codes.FailedPrecondition, "child %s is %s, not running", c.rec.Name, c.rec.State)
	}
	var console *opening
	for _, o := range c.openings {
		for _, s := range o.streams {
			switch {
			case s.rec.Stream != name || s.done || s.as.removed:
			case o.choice.copies: // what it copies to may stand before it, where it was put between
				return o, branch{}, nil
			case s.kind == sinkpb.Stream_CONSOLE:
				console = o
			case s.kind != sinkpb.Stream_STDIN && o.choice.onPipe():
				one = branch{o, s}
			}
		}
	}
	if console == nil && one.o == nil {
		return nil, one, a.unmovable(c, name)
	}
	return console, one, nil
}

// judgeBranch judges the spec of a sink that a stream is to have besides others.
func (a *Agent) judgeBranch(ctx context.Context, c *child, m *agentpb.Move) (*choice, error) {
	kind := sinkpb.Stream_STDOUT // of a console too
	if m.Stream == streamName(sinkpb.Stream_STDERR) {
		kind = sinkpb.Stream_STDERR
	}
	to, err := a.resolve(ctx, m.Spec, []sinkpb.Stream{kind}, true, &controlpb.ChildSpec{Cwd: m.Cwd}, c.described(c.rec.Run))
	if err == nil {
		err = to.standBehind(nil)
	}
	if err != nil {
		return nil, invalid(err)
	}
	return &to, nil
}

// addBranch opens another sink for the stream that from copies. The journal knows the sink before it gets anything, so that no
// branch is ever forgotten, which would hold up the others.
func (a *Agent) addBranch(ctx context.Context, from *opening, to *choice, m *agentpb.Move, again bool) error {
	c := from.child
	a.mu.Lock()
	for _, b := range from.branches() {
		if b.s.as.text == m.Spec && !b.s.as.removed {
			a.mu.Unlock()
			if again { // the journal has it, and what copies the stream may have it
				return a.giveInput(ctx, from, b)
			}
			return status.Errorf(codes.FailedPrecondition, "%s of %s has the sink %q already", m.Stream, c.rec.Name, m.Spec)
		}
	}
	a.mu.Unlock()
	to.from = from.choice
	p, err := a.host.Get(ctx, to.spec.Name)
	if err != nil {
		return invalid(err)
	}
	o := &opening{id: fmt.Sprintf("%s/%d/%s", c.id(), from.run, newID()), run: from.run, child: c, choice: to}
	o.plugin.Store(p)
	a.mu.Lock()
	rec := &controlpb.Sink{
		Stream: m.Stream, Spec: to.text, Plugin: to.spec.Name, Wiring: to.wiring, State: "open", Location: to.location,
	}
	if !to.copies {
		rec.Branch, rec.Policy = c.nextBranch(m.Stream), policyName(to.policy)
	}
	o.streams = []*stream{{kind: to.streams[0], rec: rec, as: to, branch: o.id}}
	a.openings[o.id] = o
	a.mu.Unlock()
	var ends []*fd.FD
	defer func() { fd.CloseAll(ends) }()
	var unheld error
	_, err = a.openBranch(ctx, c, o, c.described(from.run), func(name string, f *fd.FD) {
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
	c.sinks, c.openings, c.rec.Sinks = append(c.sinks, to), append(c.openings, o), append(c.rec.Sinks, rec)
	a.save(c)
	a.mu.Unlock()
	return a.giveInput(ctx, from, branch{o, o.streams[0]})
}

// giveInput has what copies a stream copy it to the branch b too. It may be done again.
func (a *Agent) giveInput(ctx context.Context, from *opening, b branch) error {
	in, err := a.fetchEnds(ctx, b)
	if err != nil {
		return spawnError(fmt.Errorf("fetch the input of %s: %w", b.s.as.text, err))
	}
	defer fd.CloseAll(in)
	err = a.giveBranch(ctx, from, b, fd.Ints(in))
	a.mu.Lock()
	gone := err != nil && pluginGone(err) // its successor gets it with all the others
	switch {
	case err != nil && !gone:
		b.s.as.removed = true
	case !b.s.as.copies:
		a.emit(b.o.child, "redirected", partOf(b.s.rec), "also to "+b.s.as.text)
	}
	exited := b.o.child.rec.State != stRunning
	a.mu.Unlock()
	switch {
	case err != nil && !gone:
		a.closeInputs(b) // it ends with nothing
		return plainStatus(err)
	case exited:
		a.settle(b.o)
	}
	return nil
}

// removeBranch ends the sink that which names, by its spec or its number, of the stream that from copies. A console can do without any;
// what copies it to several goes with the last of them.
func (a *Agent) removeBranch(ctx context.Context, from *opening, which string) error {
	c, name := from.child, from.streams[0].rec.Stream
	a.mu.Lock()
	var there []string
	var b branch
	for _, o := range from.branches() {
		if o.s.as.removed {
			continue
		}
		there = append(there, fmt.Sprintf("%d (%s)", o.s.rec.Branch, o.s.rec.Spec))
		if o.s.rec.Spec == which || strconv.Itoa(int(o.s.rec.Branch)) == which {
			b = o
		}
	}
	switch {
	case b.o == nil && len(there) == 0:
		a.mu.Unlock()
		return status.Errorf(codes.NotFound, "%s of %s has no sink behind it", name, c.rec.Name)
	case b.o == nil:
		a.mu.Unlock()
		return status.Errorf(codes.NotFound, "%s of %s has no sink %q; there are %s", name, c.rec.Name, which, strings.Join(there, ", "))
	case len(there) == 1 && from.isConsole():
	case len(there) == 1 && from.choice.from != nil:
		b.s.as.removed = true
		b = branch{from, from.streams[0]}
		from = b.copiedBy()
	case len(there) == 1:
		a.mu.Unlock()
		return status.Errorf(codes.FailedPrecondition, "%s is the last sink of %s of %s: add another one first", b.s.as.text, name, c.rec.Name)
	}
	b.s.as.removed = true
	c.moveDone(true) // whoever takes over goes on with it: see dropRemoved
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
			"%s gets nothing more of %s, and is still busy with what it has got before (see muxctl inspect); it ends when it has put that out", b.s.as.text, name)
	case <-ctx.Done():
		return status.FromContextError(ctx.Err()).Err()
	}
}

// dropBranch has from pass on what it holds for the branch b, and ends b. Where from's plugin dies over it, it is done again when a
// successor has the stream.
func (a *Agent) dropBranch(from *opening, b branch) {
	_, err := from.sinks().RemoveBranch(a.ctx, &sinkpb.RemoveBranchRequest{Opening: from.id, Branch: b.s.branch})
	if err != nil {
		if !pluginGone(err) {
			a.log.Error("a sink is not removed from its stream", "branch", b.s.branch, "error", plainError(err))
		}
		return
	}
	a.mu.Lock()
	ended := []branch{b}
	if b.s.as.copies { // with all behind it
		ended = b.o.branches()
	}
	for _, e := range ended {
		a.emit(e.o.child, "redirected", partOf(e.s.rec), "no more to "+e.s.as.text)
	}
	a.mu.Unlock()
	a.closeInputs(b)
}

// dropRemoved goes on with the removal of from's branches, in the hands of another process or by another agent. Agent.mu is held.
func (a *Agent) dropRemoved(from *opening) {
	for _, b := range from.branches() {
		if b.s.as.removed {
			a.follow(func() { a.dropBranch(from, b) })
		}
	}
}

// forgetRemoved drops the sinks that were removed before c is started again. Agent.mu is held.
func (c *child) forgetRemoved() {
	c.sinks = slices.DeleteFunc(c.sinks, func(ch *choice) bool { return ch.removed })
}
