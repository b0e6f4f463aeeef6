package agent

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc/status"

	"github.com/muxd/muxd/control/controlpb"
	"github.com/muxd/muxd/internal/fd"
	"github.com/muxd/muxd/internal/spec"
	"github.com/muxd/muxd/sink/sinkpb"
)

// A stream that has several sinks is read by the plugin fanout, which copies it into a pipe for each of them, a branch. The sinks
// behind it have the read ends as they would have the far end of the stream itself; they have openings of their own, and
// know of nothing but, where a branch may lose something, what that is (lossy.go). The keeper holds both ends of a branch's pipe: the read end under the name of the sink's far end, and the
// write end, its input, as OPENING/in, until the stream has ended or the branch is removed.

// copier is the plugin that copies streams, and what its choices have as their text.
const copier = "fanout"

// fans says whether a stream with these sinks is copied to them: it has several, or one that has a policy as a branch.
func (a *Agent) fans(texts []string) (bool, error) {
	for _, text := range texts {
		s, err := a.cfg.Load().Preset(text)
		if err != nil {
			return false, err
		}
		if _, given := s.Options[branchOption]; given {
			return true, nil
		}
	}
	return len(texts) > 1, nil
}

// fanOut makes the choices for a stream that is copied to several sinks: what copies it, and each of them.
func (a *Agent) fanOut(ctx context.Context, s sinkpb.Stream, texts []string, resolve func(text string) (choice, error)) ([]*choice, error) {
	if s == sinkpb.Stream_STDIN {
		return nil, fmt.Errorf("stdin has several sinks (%s), or one with %s=: only stdout and stderr can be copied", strings.Join(texts, " and "), branchOption)
	}
	from, err := a.copierOf(ctx, s)
	if err != nil {
		return nil, err
	}
	out := []*choice{from}
	for i, text := range texts {
		if slices.Contains(texts[:i], text) {
			return nil, fmt.Errorf("%s has the sink %q twice", streamName(s), text)
		}
		b, err := resolve(text)
		if err != nil {
			return nil, err
		}
		if err := b.standBehind(from); err != nil {
			return nil, err
		}
		out = append(out, &b)
	}
	return out, nil
}

// copierOf is the choice of what copies s.
func (a *Agent) copierOf(ctx context.Context, s sinkpb.Stream) (*choice, error) {
	p, err := a.host.Get(ctx, copier)
	if err != nil {
		return nil, err
	}
	if !p.Description().Copies {
		return nil, fmt.Errorf("plugin %s does not copy streams; see [plugins.%s] in the config", copier, copier)
	}
	return &choice{text: copier, spec: spec.Spec{Name: copier}, wiring: "pipe", streams: []sinkpb.Stream{s}, copies: true}, nil
}

// standBehind makes ch a branch of what from copies.
func (ch *choice) standBehind(from *choice) error {
	if ch.wiring != wiringPipe {
		return fmt.Errorf("sink %s cannot be one of several: it has the child get something else than a pipe (%s)", ch.text, ch.wiring)
	}
	ch.from = from
	return nil
}

// logOption is the option of a console's spec that is the core's: another sink that gets what it shows.
const logOption = "log"

// takeLog takes logOption out of the spec of a console.
func takeLog(s spec.Spec, d *sinkpb.Description) (log string, err error) {
	log, given := s.Options[logOption]
	if !given || !d.TakesBranch {
		return "", nil // the plugin's own, or unknown to it
	}
	delete(s.Options, logOption)
	if log == "" {
		return "", fmt.Errorf("sink %s: %s= names no sink; as in %s=file:PATH", s.Name, logOption, logOption)
	}
	return log, nil
}

// logged makes the choices for the sink that also gets what a console shows: it stands behind the console, or, with a policy as a
// branch, behind what copies.
func (a *Agent) logged(ctx context.Context, console *choice, cs *controlpb.ChildSpec, child *sinkpb.Child) (out []*choice, err error) {
	behind, err := a.behindConsole(ctx, console, console.log)
	if err != nil {
		return nil, err
	}
	if behind != console {
		out = append(out, behind)
	}
	b, err := a.resolve(ctx, console.log, []sinkpb.Stream{sinkpb.Stream_STDOUT}, true, cs, child)
	if err == nil {
		err = b.standBehind(behind)
	}
	if _, rpc := status.FromError(err); err != nil && !rpc {
		err = fmt.Errorf("log of the console: %w", err)
	}
	return append(out, &b), err
}

// behindConsole is what a sink of that spec shall stand behind that gets what a console shows: the console itself, whose branch
// blocks, or what copies.
func (a *Agent) behindConsole(ctx context.Context, console *choice, text string) (*choice, error) {
	copied, err := a.fans([]string{text})
	if err != nil || !copied {
		return console, err
	}
	from, err := a.copierOf(ctx, sinkpb.Stream_STDOUT)
	if err == nil {
		from.from = console
	}
	return from, err
}

// openCopied wires a stream that is copied: first the sinks behind it, then what copies it.
func (a *Agent) openCopied(ctx context.Context, c *child, ch *choice, n int, pbChild *sinkpb.Child, near *nearEnds) error {
	o, err := a.newOpening(ctx, c, ch, n)
	if err != nil {
		return err
	}
	r, w, err := fd.Pipe()
	if err != nil {
		return a.unopened(o, err)
	}
	near.std[int(ch.streams[0])-1] = w
	near.keep(farPrefix(c.id())+o.id+"/"+streamName(ch.streams[0]), r)
	branches, in, err := a.openBehind(ctx, c, ch, pbChild, near.keep)
	if err != nil {
		return a.unopened(o, err)
	}
	if err := a.give(ctx, c, o, pbChild, append([]int{r.Int()}, slices.Concat(in...)...), branches); err != nil {
		return a.unopened(o, err)
	}
	if o.streams[0].holder, err = holderOf(w.Int()); err != nil {
		return fmt.Errorf("look at a near end: %w", err)
	}
	return nil
}

// openBehind opens the sinks that stand behind ch, and returns them with their ends (branch.ends), which keep gets.
func (a *Agent) openBehind(ctx context.Context, c *child, ch *choice, pbChild *sinkpb.Child, keep func(name string, f *fd.FD)) (branches []branch, in [][]int, err error) {
	for i, b := range c.sinks {
		if b.from != ch {
			continue
		}
		o, err := a.newOpening(ctx, c, b, i)
		if err != nil {
			return nil, nil, err
		}
		ends, err := a.openBranch(ctx, c, o, pbChild, keep)
		if err != nil {
			return nil, nil, a.unopened(o, err)
		}
		branches, in = append(branches, branch{o, o.streams[0]}), append(in, fd.Ints(ends))
	}
	return branches, in, nil
}

// openBranch gives a sink the read end of a new pipe when the sinks behind it are open. It returns what whoever copies to it is given
// (branch.ends), which keep gets, as the read end.
func (a *Agent) openBranch(ctx context.Context, c *child, o *opening, pbChild *sinkpb.Child, keep func(name string, f *fd.FD)) (ends []*fd.FD, err error) {
	r, w, err := fd.Pipe()
	if err != nil {
		return nil, err
	}
	b := branch{o, o.streams[0]}
	keep(o.farName(b.s), r)
	if ends, err = b.makeEnds(w, keep); err != nil {
		return nil, spawnError(err)
	}
	branches, ins, err := a.openBehind(ctx, c, o.choice, pbChild, keep)
	if err != nil {
		return nil, err
	}
	far := []int{r.Int()}
	if o.takesGaps(o.plugin.Load()) {
		far = append(far, ends[slices.Index(b.ends(), gapsEnd)].Int())
	}
	return ends, a.give(ctx, c, o, pbChild, append(far, slices.Concat(ins...)...), branches)
}

// openLog opens the sinks behind the console o, which is open, and has it go on into them.
func (a *Agent) openLog(ctx context.Context, c *child, o *opening, pbChild *sinkpb.Child, keep func(name string, f *fd.FD)) error {
	branches, in, err := a.openBehind(ctx, c, o.choice, pbChild, keep)
	for i, b := range branches {
		if err == nil {
			err = a.giveBranch(ctx, o, b, in[i])
		}
	}
	return err
}

// giveBranch has o copy what it carries to the branch b too, whose ends (branch.ends) are in. It does not take ownership of them, and may be
// called again.
func (a *Agent) giveBranch(ctx context.Context, o *opening, b branch, in []int) error {
	p := o.plugin.Load()
	return p.Give(ctx, in, func(ctx context.Context, ticket []byte) error {
		_, err := p.Sinks().AddBranch(ctx, &sinkpb.AddBranchRequest{Opening: o.id, Branch: wireBranch(b), Ticket: ticket})
		return err
	})
}

// partOf names a stream in events, and a branch of it as STREAM/NUMBER.
func partOf(r *controlpb.Sink) string {
	if r.Branch == 0 {
		return r.Stream
	}
	return fmt.Sprintf("%s/%d", r.Stream, r.Branch)
}

// branch is a stream of an opening that gets what another opening copies.
type branch struct {
	o *opening
	s *stream
}

// input is the keeper's name of the write end of its pipe.
func (b branch) input() string { return b.name(inEnd) }

// give opens o at its plugin with far ends: of a stream that is copied they are followed by the inputs of its branches. It
// does not take ownership of far.
func (a *Agent) give(ctx context.Context, c *child, o *opening, pbChild *sinkpb.Child, far []int, branches []branch) error {
	req := &sinkpb.OpenRequest{
		Opening: o.id, Spec: wireSpec(o.choice.spec), Child: pbChild, Streams: o.choice.streams, Branches: wireBranches(branches),
		Size: &sinkpb.Size{Rows: c.spec.Size.Rows, Cols: c.spec.Size.Cols}, Gaps: o.takesGaps(o.plugin.Load()),
	}
	return o.plugin.Load().Give(ctx, far, func(ctx context.Context, ticket []byte) error {
		req.Ticket = ticket
		_, err := o.sinks().Open(ctx, req)
		return err
	})
}

func wireBranches(branches []branch) (out []*sinkpb.Branch) {
	for _, b := range branches {
		out = append(out, wireBranch(b))
	}
	return out
}

func wireBranch(b branch) *sinkpb.Branch {
	return &sinkpb.Branch{Id: b.s.branch, Policy: b.s.as.policy, Spec: b.s.as.text, Gaps: b.s.as.loses(), Spill: b.s.as.spill}
}

// branches lists the streams that o's stream is copied to, and that have not ended. Agent.mu is held.
func (o *opening) branches() (out []branch) {
	for _, to := range o.child.openings {
		for _, s := range to.streams {
			if s.as.from == o.choice && to.run == o.run && !s.done {
				out = append(out, branch{to, s})
			}
		}
	}
	return out
}

// copiedBy is the opening that copies a stream to b, nil where b is no branch. Agent.mu is held.
func (b branch) copiedBy() *opening {
	for _, from := range b.o.child.openings {
		if b.s.as.from != nil && from.choice == b.s.as.from && from.run == b.o.run {
			return from
		}
	}
	return nil
}

// fetchInputs returns what a successor of what copies o's stream gets of its branches: their ends, owned by the caller.
func (a *Agent) fetchInputs(ctx context.Context, o *opening) (branches []*sinkpb.Branch, in []*fd.FD, err error) {
	a.mu.Lock()
	all := o.branches()
	a.mu.Unlock()
	for _, b := range all {
		ends, err := a.fetchEnds(ctx, b)
		if errors.Is(err, unix.ENOENT) {
			continue // it has just been removed
		}
		if err != nil {
			fd.CloseAll(in)
			return nil, nil, fmt.Errorf("fetch the input of %s: %w", b.s.as.text, err)
		}
		branches, in = append(branches, wireBranch(b)), append(in, ends...)
	}
	return branches, in, nil
}

// copiedAll ends the branches of o, whose stream has ended: with the keeper's copies of their inputs the last ones go, and their
// sinks come to the end of the stream. Agent.mu is held.
func (a *Agent) copiedAll(o *opening) {
	branches := o.branches()
	if len(branches) > 0 {
		a.follow(func() { a.closeInputs(branches...) })
	}
}

func (a *Agent) closeInputs(branches ...branch) {
	for _, b := range branches {
		a.dropInputOf(b)
		a.settle(b.o) // it may have to be cut, which was put off
	}
}

// branchFailed has the stream go on without the branch b, which nobody reads any more. Agent.mu is held.
func (a *Agent) branchFailed(b branch) {
	from := b.copiedBy()
	if from == nil || from.streams[0].done {
		return
	}
	a.follow(func() {
		from.sinks().RemoveBranch(a.ctx, &sinkpb.RemoveBranchRequest{Opening: from.id, Branch: b.s.branch, Discard: true})
		a.dropInputOf(b)
	})
}

// dropInputOf has the keeper drop the input of the branch b.
func (a *Agent) dropInputOf(b branch) {
	a.mu.Lock()
	b.s.closed = true
	a.mu.Unlock()
	a.keeper.Drop(a.ctx, b.input(), false)
	if b.s.as.spill > 0 {
		a.keeper.Drop(a.ctx, b.name(spillEnd), false)
	}
}

// resumeCopies does what an agent that died may have left undone between a stream and its branches.
func (a *Agent) resumeCopies(c *child) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, o := range slices.Clone(c.openings) {
		a.retire(o)
		a.dropRemoved(o)
		for _, s := range o.streams {
			if s.done && s.rec.State != "moved" {
				a.copiedAll(o)
			}
			if s.done && s.rec.State == "failed" {
				a.branchFailed(branch{o, s})
			}
		}
	}
}

// branchDropped notes what a branch has lost. Agent.mu is held.
func (a *Agent) branchDropped(from *opening, id string, n uint64) {
	if b, ok := a.branchNamed(id); ok && b.copiedBy() == from && n > b.s.rec.Missed {
		b.s.rec.Missed = n
		a.emit(b.o.child, "dropped", partOf(b.s.rec), fmt.Sprintf("%d bytes did not come to %s until now (%s)", n, b.s.as.text, policyName(b.s.as.policy)))
	}
}
