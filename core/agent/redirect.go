package agent

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/muxd/muxd/control/controlpb"
	"github.com/muxd/muxd/core/agent/agentpb"
	"github.com/muxd/muxd/internal/fd"
	"github.com/muxd/muxd/sink/sinkpb"
)

// leaveTimeout is how long a sink may take to put out the chunk that it has in hand.
const leaveTimeout = 5 * time.Second

// redirect moves an output stream of a running child, or a branch of it as stdout/2, to the sink of another spec. The old sink puts out what it has taken and leaves;
// what is in the pipe is the new one's. Where the new one cannot be opened the old one gets the stream back.
func (a *Agent) redirect(ctx context.Context, c *child, m *agentpb.Move) (err error) {
	name, text := m.Stream, m.Spec
	a.mu.Lock()
	busy := c.moving
	if r := c.resumed; r != nil && r.same(m) { // whoever asked for it asks again
		a.mu.Unlock()
		return r.wait(ctx)
	}
	c.moving = true
	if !busy { // an agent that takes over goes on with it, with the same openings: nobody else may read the stream meanwhile
		if m.Opening == "" {
			m.Opening = fmt.Sprintf("%s/%d/%s", c.id(), c.rec.Run, newID())
			m.Back = fmt.Sprintf("%s/%d/%s", c.id(), c.rec.Run, newID())
		}
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
		for _, o := range c.openings {
			for _, s := range o.streams {
				end := s.end
				s.moving, s.left, s.end = false, false, nil
				if end != nil && err != nil && !m.Left && !pluginGone(err) { // it was not that it leaves
					a.streamEvent(o, s, end)
				}
			}
		}
		if a.children[c.id()] == c {
			a.save(c)
		}
		a.streamsOver(c)
		a.maybeFinish(c)
	}()
	o, s, err := a.movable(c, name)
	if err != nil {
		return err
	}
	to, err := a.destination(ctx, c, m, o, s)
	if err != nil {
		return err
	}
	to.wiring, to.from, to.branching = o.choice.wiring, s.as.from, s.as.branching
	far, err := a.keeper.Fetch(ctx, o.farName(s))
	if err != nil {
		return spawnError(fmt.Errorf("fetch the far end of %s: %w", name, err))
	}
	defer far.Close()

	ctx = a.ctx // whoever asked may go away: what has left one sink comes to another
	if !m.Left {
		if err := a.leave(ctx, c, m, o, s); err != nil {
			return err
		}
	}
	back := *s.as
	back.streams = []sinkpb.Stream{s.kind}
	openErr := a.moveTo(ctx, c, o, s, &to, far, m.Opening)
	if openErr != nil {
		if err := a.moveTo(ctx, c, o, s, &back, far, m.Back); err != nil {
			return status.Errorf(codes.Internal, "move %s of %s to %s: %v; and back to %s: %v", name, c.rec.Name, text,
				plainError(openErr), back.text, plainError(err))
		}
		return plainStatus(openErr)
	}
	return nil
}

// leave has s leave its sink, if that can be rid of what it has in hand. From then on nobody reads the stream but the sink that m opens, also
// where an agent takes over. Where the plugin dies over it the stream stays, for its successor; what the plugin had told of the
// stream's end, since it was leaving, has been heard by then.
func (a *Agent) leave(ctx context.Context, c *child, m *agentpb.Move, o *opening, s *stream) error {
	a.mu.Lock()
	s.moving = true
	a.mu.Unlock()
	p := o.plugin.Load()
	call := func() (*sinkpb.LeaveResponse, error) {
		ctx, cancel := context.WithTimeout(ctx, leaveTimeout)
		defer cancel()
		return p.Sinks().Leave(ctx, &sinkpb.LeaveRequest{Opening: o.id, Stream: s.kind})
	}
	resp, err := call()
	for status.Code(err) == codes.DeadlineExceeded && ctx.Err() == nil { // it may have left all the same, and says so when it is asked again
		resp, err = call()
	}
	switch {
	case pluginGone(err) && ctx.Err() == nil:
		select {
		case <-p.Gone():
		case <-ctx.Done():
		}
		return plainStatus(err)
	case err != nil:
		return plainStatus(err)
	case !resp.Left:
		return status.Errorf(codes.FailedPrecondition, "%s of %s stays with %s, which is still busy with what it has taken (see muxctl inspect)",
			m.Stream, c.rec.Name, o.choice.text)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	s.rec.Bytes, s.left, m.Left = resp.Bytes, true, true
	a.save(c)
	return nil
}

// destination is what m's spec names, as the journal has it from then on: an agent that takes over may not find it so any more, when the
// new sink has the stream already.
func (a *Agent) destination(ctx context.Context, c *child, m *agentpb.Move, o *opening, s *stream) (choice, error) {
	if m.Choice != nil {
		return *choiceFrom(m.Choice), nil
	}
	to, err := a.resolve(ctx, m.Spec, []sinkpb.Stream{s.kind}, true, &controlpb.ChildSpec{Cwd: m.Cwd}, c.described(o.run))
	switch {
	case err != nil:
		return to, invalid(err)
	case to.wiring != wiringPipe:
		return to, status.Errorf(codes.FailedPrecondition, "%s cannot move to %s: the child has a pipe already, and that sink has it get something else",
			m.Stream, m.Spec)
	case to.policy != sinkpb.Policy_BLOCK && to.policy != s.as.policy:
		return to, status.Errorf(codes.InvalidArgument, "%s keeps its policy as a branch, which is %s=%s", m.Stream, branchOption, policyName(s.as.policy))
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	m.Choice = to.message()
	a.save(c)
	return to, nil
}

// moveAgain goes on with a move that an agent which died had begun. It returns at once, before anybody is served. Where it cannot be done the stream stays with its old sink,
// which may have left it already and is opened again then.
func (a *Agent) moveAgain(c *child, move *agentpb.Move) {
	r := &resumedMove{move: move, over: make(chan struct{})}
	a.mu.Lock()
	c.moving, c.resumed = false, r
	a.mu.Unlock()
	again := func() error { return a.redirect(a.ctx, c, move) }
	if move.How != "" {
		again = func() error { return a.change(a.ctx, c, move, true) }
	}
	a.follow(func() {
		r.err = again()
		a.mu.Lock()
		c.resumed = nil
		a.mu.Unlock()
		close(r.over)
		if r.err != nil {
			a.log.Error("a stream that was being moved is not", "child", c.id(), "stream", move.Stream, "to", move.Spec, "error", plainError(r.err))
		}
	})
}

// resumedMove is a move that an agent which died had begun, and this one goes on with.
type resumedMove struct {
	move *agentpb.Move
	over chan struct{} // closed at its end, after err is set
	err  error
}

// moveOver ends the move m. Agent.mu is held.
func (c *child) moveOver(m *agentpb.Move, err error) {
	c.moving, c.move = false, nil
	if err == nil && m.RequestId != "" {
		c.moved = m.RequestId
	}
}

// moveDone notes that c's move is done, or was taken back. It is saved together with what the move has changed: an agent that takes over
// must not do it once more, with openings that are in use by then. Agent.mu is held.
func (c *child) moveDone(ok bool) {
	if id := c.move.GetRequestId(); ok && id != "" {
		c.moved = id
	}
	c.move = nil
}

// same says whether m is the same call, made again.
func (r *resumedMove) same(m *agentpb.Move) bool {
	return m != r.move && m.RequestId != "" && m.RequestId == r.move.RequestId
}

func (r *resumedMove) wait(ctx context.Context) error {
	select {
	case <-r.over:
		return r.err
	case <-ctx.Done():
		return status.FromContextError(ctx.Err()).Err()
	}
}

// isMoving says whether an opening of that id is one that a move may have made. Agent.mu is held.
func (a *Agent) isMoving(id string) bool {
	child, _, _ := strings.Cut(id, "/")
	c := a.children[child]
	return c != nil && c.move != nil && (c.move.Opening == id || c.move.Back == id)
}

// movable finds the opening and the stream of that name, and says why it cannot be moved.
func (a *Agent) movable(c *child, name string) (*opening, *stream, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if c.rec.State != stRunning && c.rec.State != stExited {
		return nil, nil, status.Errorf(codes.FailedPrecondition, "child %s is %s, not running", c.rec.Name, c.rec.State)
	}
	for _, o := range c.openings {
		for _, s := range o.streams {
			switch {
			case s.done || s.as.removed:
			case s.rec.Stream == name && o.choice.copies:
				return nil, nil, status.Errorf(codes.FailedPrecondition,
					"%s of %s has several sinks, and cannot move to another as a whole; name one of them, as in %s/1, or use --add and --remove", name, c.rec.Name, name)
			case partOf(s.rec) == name && s.kind != sinkpb.Stream_STDIN && o.choice.onPipe() && !o.choice.copies:
				return o, s, nil
			}
		}
	}
	return nil, nil, a.unmovable(c, name)
}

// unmovable says why a stream of that name is not on a pipe. Agent.mu is held.
func (a *Agent) unmovable(c *child, name string) error {
	for _, r := range c.rec.Sinks {
		if r.Stream == name && name == streamName(sinkpb.Stream_CONSOLE) {
			return status.Errorf(codes.FailedPrecondition,
				"the console of %s stays with %s, which has made its terminal; --add sends what it shows to another sink too", c.rec.Name, r.Spec)
		}
		if r.Stream == name || r.Stream == "console" {
			return status.Errorf(codes.FailedPrecondition,
				"%s of %s goes to %s (%s), where there is nothing of muxd's to move; only an output stream on a pipe can be", name, c.rec.Name, r.Spec, r.Wiring)
		}
	}
	return status.Errorf(codes.InvalidArgument, "child %s has no stream %q: want stdout or stderr", c.rec.Name, name)
}

// moveTo opens the sink of to for a stream that has left its opening, and makes it the stream's from then on. It does not take
// ownership of far. id is the new opening's, which an agent that died may have opened already.
func (a *Agent) moveTo(ctx context.Context, c *child, from *opening, s *stream, to *choice, far *fd.FD, id string) error {
	p, err := a.host.Get(ctx, to.spec.Name)
	if err != nil {
		return err
	}
	a.mu.Lock()
	o := &opening{id: id, run: from.run, child: c, choice: to}
	o.plugin.Store(p)
	a.openings[o.id] = o
	a.mu.Unlock()
	rec := &controlpb.Sink{
		Stream: s.rec.Stream, Spec: to.text, Plugin: to.spec.Name, Wiring: to.wiring, State: "open",
		Location: to.location, Branch: s.rec.Branch, Policy: s.rec.Policy, Missed: s.rec.Missed,
	}
	next := &stream{kind: s.kind, rec: rec, as: to, branch: s.branch, holder: s.holder}
	if err := a.keeper.Hold(ctx, o.farName(next), nil, far.Int()); err != nil {
		return err
	}
	if err := a.moveGaps(ctx, from, s.rec.Bytes, o); err != nil {
		return err
	}
	a.mu.Lock()
	o.streams = []*stream{next}
	a.mu.Unlock()
	trouble := "" // that stands in the record, of a process that is dead
	open := func() error {
		a.mu.Lock()
		trouble = rec.Error
		a.mu.Unlock()
		ends := []int{far.Int()}
		memory, err := a.fetchGaps(ctx, o, p)
		if err != nil {
			return err
		}
		defer memory.Close()
		if memory != nil {
			ends = append(ends, memory.Int())
		}
		return p.Give(ctx, ends, func(ctx context.Context, ticket []byte) error {
			_, err := p.Sinks().Open(ctx, &sinkpb.OpenRequest{
				Opening: o.id, Spec: wireSpec(to.spec), Streams: to.streams, Ticket: ticket,
				Child: c.described(o.run), Gaps: memory != nil,
				Size: &sinkpb.Size{Rows: c.spec.Size.Rows, Cols: c.spec.Size.Cols},
			})
			return err
		})
	}
	err = open()
	for n := 1; n < diesMost && err != nil && pluginGone(err) && ctx.Err() == nil; n++ { // it may have taken some of the stream, which its successor has
		select {
		case <-p.Gone():
		case <-time.After(leaveTimeout): // it lives, and does not answer
		case <-ctx.Done():
			continue
		}
		if p, err = a.host.Get(ctx, to.spec.Name); err == nil {
			o.plugin.Store(p)
			err = open()
		}
	}
	a.mu.Lock()
	if err != nil {
		delete(a.openings, o.id)
		a.mu.Unlock()
		a.keeper.Drop(ctx, o.farName(next), false)
		a.keeper.Drop(ctx, o.gapsName(), false)
		return err
	}
	if rec.Error == trouble { // and not what the process that has it now has told already
		rec.Error = ""
	}
	from.choice.streams = slices.DeleteFunc(slices.Clone(from.choice.streams), func(k sinkpb.Stream) bool { return k == s.kind })
	s.done, s.rec.State, s.rec.Error, next.closed = true, "moved", "", s.closed // whatever trouble it had, it has none any more
	if s.as != from.choice {                                                    // it was a branch of its own
		c.sinks = slices.DeleteFunc(c.sinks, func(ch *choice) bool { return ch == s.as })
		s.as = from.choice
	}
	s.branch = ""
	c.sinks = append(c.sinks, to)
	c.openings = append(c.openings, o)
	c.rec.Sinks = append(c.rec.Sinks, rec)
	a.emit(c, "redirected", partOf(rec), fmt.Sprintf("from %s, after %d bytes, to %s", from.choice.text, s.rec.Bytes, to.text))
	left := !slices.ContainsFunc(from.streams, func(s *stream) bool { return s.rec.State != "moved" })
	if left { // nothing of it is there any more
		c.sinks = slices.DeleteFunc(c.sinks, func(ch *choice) bool { return ch == from.choice })
		c.openings = slices.DeleteFunc(c.openings, func(o *opening) bool { return o == from })
		delete(a.openings, from.id)
	}
	c.forgetSinks()
	c.moveDone(id == c.move.GetOpening())
	a.save(c)
	exited := c.rec.State != stRunning
	a.mu.Unlock()
	a.keeper.Drop(ctx, from.farName(s), false)
	if left {
		a.lastNumbers(ctx, from)
		from.sinks().Forget(ctx, &sinkpb.ForgetRequest{Opening: from.id})
	}
	if exited {
		a.settle(o)
	}
	return nil
}

func (s *api) Redirect(ctx context.Context, req *controlpb.RedirectRequest) (*controlpb.Child, error) {
	c, err := s.a.find(req.Child)
	if err != nil {
		return nil, err
	}
	how, known := map[controlpb.RedirectRequest_How]string{
		controlpb.RedirectRequest_INSTEAD: "", controlpb.RedirectRequest_ADD: moveAdds, controlpb.RedirectRequest_REMOVE: moveRemoves,
	}[req.How]
	m := &agentpb.Move{Stream: req.Stream, Spec: req.Spec, Cwd: req.Cwd, How: how, RequestId: req.RequestId}
	s.a.mu.Lock()
	done := req.RequestId != "" && c.moved == req.RequestId
	s.a.mu.Unlock()
	switch {
	case done: // by an agent that died before it could say so
	case !known:
		err = status.Errorf(codes.InvalidArgument, "redirect: this muxd does not know how %d", req.How)
	case how == "":
		err = s.a.redirect(ctx, c, m)
	default:
		err = s.a.change(ctx, c, m, false)
	}
	if err != nil {
		return nil, err
	}
	return s.a.snapshot(c), nil
}
