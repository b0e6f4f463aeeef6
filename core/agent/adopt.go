package agent

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/muxd/muxd/control/controlpb"
	"github.com/muxd/muxd/core/host"
	"github.com/muxd/muxd/core/keeper/keeperpb"
	"github.com/muxd/muxd/internal/fd"
	"github.com/muxd/muxd/internal/fdchan"
	"github.com/muxd/muxd/sink/sinkpb"
)

// An adopted child is streams whose near ends somebody else has: a client gives their far ends, and may say which process it
// is. Where it does not the child runs as long as its streams. What muxd did not start it does not kill: to stop an adopted
// child is to end its streams.
//
// The client keeps its copies until it is answered, and asks again where the agent dies before. So an adoption is in the
// journal first, then with the keeper, and then the sinks get it: an agent that takes over finishes one whose far ends the
// keeper has, and forgets any other.

// Adopt makes a child of the far ends that the client gives.
func (s *api) Adopt(ctx context.Context, req *controlpb.AdoptRequest) (*controlpb.AdoptResponse, error) {
	a := s.a
	d, err := a.sessions.take(ctx, req.FdSession, req.Ticket)
	if err != nil {
		return nil, status.Error(codes.InvalidArgument, err.Error())
	}
	c, err := a.answered(ctx, req.RequestId, d)
	if c == nil && err == nil {
		c, err = a.adoptStreams(ctx, req, d)
	}
	if err != nil {
		return nil, err
	}
	return &controlpb.AdoptResponse{Id: c.rec.Id, Name: c.rec.Name}, nil
}

// adoptStreams takes ownership of d.
func (a *Agent) adoptStreams(ctx context.Context, req *controlpb.AdoptRequest, d *fdchan.Delivery) (c *child, err error) {
	defer func() {
		if err != nil {
			a.log.Warn("nothing is adopted", "name", req.Name, "error", plainError(err)) // a logger of containerd has no stderr
			d.Refuse(err)
		}
	}()
	streams, err := adopted(req, d)
	if err != nil {
		return nil, status.Error(codes.InvalidArgument, err.Error())
	}
	c = newChild(&controlpb.ChildSpec{Name: req.Name, Cwd: req.Cwd, Sinks: req.Sinks, Remove: req.Remove})
	if c.user, err = a.check(c.spec); err != nil {
		return nil, status.Error(codes.InvalidArgument, err.Error())
	}
	c.request, c.adopted = req.RequestId, true
	if err := a.register(c); err != nil {
		return nil, err
	}
	err = a.takeIn(ctx, c, req.Pid, streams, d)
	c.failed = err
	c.ready.Close()
	if err != nil {
		a.mu.Lock()
		delete(a.byKey, c.key)
		a.forget(c)
		c.finished.Close()
		a.mu.Unlock()
		return nil, err
	}
	fd.CloseAll(d.FDs)
	d.Ack() // where that fails the client has gone, and does not need to know
	return c, nil
}

var adoptable = append(slices.Clone(stdStreams), sinkpb.Stream_CONSOLE)

// adopted says which stream each far end is of, and judges them. Its errors are the user's.
func adopted(req *controlpb.AdoptRequest, d *fdchan.Delivery) (map[sinkpb.Stream]*fd.FD, error) {
	var streams []sinkpb.Stream
	for _, g := range req.Sinks {
		i := slices.IndexFunc(adoptable, func(s sinkpb.Stream) bool { return streamName(s) == g.Stream })
		if i < 0 {
			return nil, fmt.Errorf("unknown stream %q: want stdin, stdout, stderr or console", g.Stream)
		}
		streams = append(streams, adoptable[i])
	}
	slices.Sort(streams)
	streams = slices.Compact(streams)
	if len(streams) > 1 && slices.Contains(streams, sinkpb.Stream_CONSOLE) {
		return nil, errors.New("a console is stdin, stdout and stderr at once: no other stream can be adopted with it")
	}
	want := len(streams)
	if req.Pid != 0 {
		want++
	}
	if len(streams) == 0 || len(d.FDs) != want {
		return nil, fmt.Errorf("%d descriptors came for %d streams and process %d", len(d.FDs), len(streams), req.Pid)
	}
	far := map[sinkpb.Stream]*fd.FD{}
	seen := map[holderID]sinkpb.Stream{}
	for k, s := range streams {
		if err := checkFar(d.FDs[k], s); err != nil {
			return nil, fmt.Errorf("%s cannot be adopted: %w", streamName(s), err)
		}
		id, err := holderOf(d.FDs[k].Int())
		if err != nil {
			return nil, fmt.Errorf("look at the descriptor of %s: %w", streamName(s), err)
		}
		if other, twice := seen[id]; twice {
			return nil, fmt.Errorf("%s and %s are the same descriptor: what is in it would go to either", streamName(other), streamName(s))
		}
		seen[id], far[s] = s, d.FDs[k]
	}
	return far, nil
}

// takeIn has the keeper hold the far ends of c, and gives them to the sinks. On an error everything is as it was.
func (a *Agent) takeIn(ctx context.Context, c *child, pid int32, far map[sinkpb.Stream]*fd.FD, d *fdchan.Delivery) (err error) {
	sinksCtx, abort := context.WithCancelCause(ctx) // as in start
	defer abort(nil)
	a.mu.Lock()
	c.rec.Run, c.rec.Pid, c.rec.Adopted = 1, pid, true
	c.key = fmt.Sprintf("child/%s/1", c.id())
	if c.abort = abort; c.stopping {
		abort(errStopped)
	}
	a.mu.Unlock()
	if master := far[sinkpb.Stream_CONSOLE]; master != nil {
		c.sinks, err = a.chooseConsole(sinksCtx, c, master)
	} else {
		c.sinks, err = a.chooseFar(sinksCtx, c, far)
	}
	if err != nil {
		return invalid(err)
	}
	defer func() {
		if err != nil {
			a.undo(c)
			a.keeper.Forget(context.WithoutCancel(ctx), c.key)
		}
	}()
	for i, ch := range c.sinks {
		o := &opening{id: openingID(c.id(), 1, i), run: 1, child: c, choice: ch}
		o.plugin.Store(host.Dead(ch.spec.Name)) // until it has it
		a.note(c, ch, o)
		for _, s := range o.streams {
			switch {
			case s.as.from != nil: // ours
			case s.kind == sinkpb.Stream_CONSOLE:
				s.holder = terminalOf(far[s.kind])
			default:
				s.holder = farHolder(far[s.kind])
			}
		}
	}
	a.mu.Lock()
	openings := slices.Clone(c.openings)
	a.byKey[c.key] = c
	a.save(c)
	a.mu.Unlock()
	left := openings // that are not opened
	defer func() {
		for _, o := range left {
			a.notOpened(o)
		}
	}()
	ends := map[*stream]*fd.FD{} // far ends, of branches too
	var made []*fd.FD
	defer func() { fd.CloseAll(made) }()
	for _, o := range openings {
		for _, s := range o.streams {
			ends[s] = far[s.kind]
			if s.as.from != nil {
				r, w, err := fd.Pipe()
				if err != nil {
					return spawnError(err)
				}
				ends[s] = r
				made = append(made, r)
				var unheld error
				if _, err := (branch{o, s}).makeEnds(w, func(name string, f *fd.FD) {
					made = append(made, f)
					unheld = cmp.Or(unheld, a.keeper.Hold(ctx, name, nil, f.Int()))
				}); err != nil || unheld != nil {
					return spawnError(cmp.Or(err, unheld))
				}
			}
			if err := a.keeper.Hold(ctx, o.farName(s), nil, ends[s].Int()); err != nil {
				return spawnError(err)
			}
		}
	}
	p := &keeperpb.Process{Key: c.key, Started: time.Now().UnixNano()}
	if pid != 0 {
		if p, err = a.keeper.Watch(ctx, c.key, int(pid), nil, d.FDs[len(d.FDs)-1].Int()); err != nil {
			return spawnError(err)
		}
	}
	for n := len(openings); n > 0; n-- { // what is copied to first
		o := openings[n-1]
		// A plugin that dies over it may have read some of the stream, which its successor has then.
		err := a.giveFar(sinksCtx, o, ends)
		switch {
		case context.Cause(sinksCtx) == errStopped:
			return errStopped
		case err != nil && !pluginGone(err):
			return plainStatus(err)
		}
		left = openings[:n-1]
	}
	a.running(c, p, nil)
	return nil
}

// chooseFar finds the sinks of pipes that are adopted as c. Its errors are the user's.
func (a *Agent) chooseFar(ctx context.Context, c *child, far map[sinkpb.Stream]*fd.FD) ([]*choice, error) {
	sinks, err := a.choose(ctx, c.spec, c.described(1))
	if err != nil {
		return nil, err
	}
	sinks = slices.DeleteFunc(sinks, func(ch *choice) bool { return ch.text == wiringNull && far[ch.streams[0]] == nil }) // what no sink was named for
	for _, ch := range sinks {
		if ch.wiring != wiringPipe {
			return nil, fmt.Errorf("sink %s cannot adopt %s, which is there already: want a sink that is given a pipe, as file or socket", ch.text, streamName(ch.streams[0]))
		}
		if ch.from == nil {
			ch.wiring = wiringAdopt
		}
	}
	return sinks, nil
}

// giveFar opens o, whose far ends were made elsewhere, at its plugin, when what stands behind it is open, with the inputs of that.
func (a *Agent) giveFar(ctx context.Context, o *opening, ends map[*stream]*fd.FD) error {
	p, err := a.host.Get(ctx, o.choice.spec.Name)
	if err != nil {
		return invalid(err)
	}
	o.plugin.Store(p)
	var give []int
	for _, s := range o.streams {
		give = append(give, ends[s].Int())
	}
	c := o.child
	memory, err := a.fetchGaps(ctx, o, p)
	if err != nil {
		return err
	}
	defer memory.Close()
	if memory != nil {
		give = append(give, memory.Int())
	}
	branches, in, err := a.fetchInputs(ctx, o)
	if err != nil {
		return err
	}
	defer fd.CloseAll(in)
	return p.Give(ctx, append(give, fd.Ints(in)...), func(ctx context.Context, ticket []byte) error {
		_, err := p.Sinks().Open(ctx, &sinkpb.OpenRequest{
			Opening: o.id, Spec: wireSpec(o.choice.spec), Child: c.described(o.run), Streams: o.choice.streams, Ticket: ticket,
			Branches: branches, Given: o.isConsole(), Gaps: memory != nil, Size: &sinkpb.Size{Rows: c.spec.Size.Rows, Cols: c.spec.Size.Cols},
		})
		return err
	})
}

// resumeAdopted goes on with an adoption that the agent before had begun. It returns before any client is served, so that one that
// asks again finds either the child or nothing.
func (a *Agent) resumeAdopted(ctx context.Context, c *child, p *keeperpb.Process) {
	whole := c.rec.Pid == 0 || p != nil
	for _, o := range c.openings {
		for _, s := range o.streams {
			for _, name := range heldOf(branch{o, s}) {
				f, err := a.keeper.Fetch(ctx, name)
				whole = whole && err == nil
				f.Close()
			}
		}
	}
	if whole {
		a.running(c, cmp.Or(p, &keeperpb.Process{Key: c.key, Started: c.rec.Created}), nil)
		if p.GetExited() {
			a.processExited(p)
		}
		return
	}
	for _, o := range c.openings { // the keeper comes before the sinks, so no sink has it
		a.notOpened(o)
	}
	a.undo(c)
	a.keeper.Forget(ctx, c.key)
	a.mu.Lock()
	defer a.mu.Unlock()
	delete(a.byKey, c.key)
	a.forget(c)
}

// heldOf names what the keeper holds of a stream.
func heldOf(b branch) []string {
	if b.s.as.from == nil {
		return []string{b.o.farName(b.s)}
	}
	names := []string{b.o.farName(b.s)}
	for _, end := range b.ends() {
		names = append(names, b.name(end))
	}
	return names
}

// notOpened says that nothing will be told of o, so that undo need not wait for it.
func (a *Agent) notOpened(o *opening) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, s := range o.streams {
		s.done = true
	}
}

// streamsOver moves an adopted child whose process is not known from running to exited, when nobody writes to its streams any more: what their
// sinks have not put out has until the drain deadline then, as of any child. Agent.mu is held.
func (a *Agent) streamsOver(c *child) {
	if !c.adopted || c.rec.Pid != 0 || c.rec.State != stRunning || c.moving {
		return
	}
	outputs, inputs := 0, 0
	for _, o := range c.openings {
		for _, s := range o.streams {
			switch {
			case s.kind == sinkpb.Stream_STDIN && s.rec.State == "open":
				inputs++
			case s.kind == sinkpb.Stream_STDIN || s.as.from != nil: // a branch ends with what is copied to it
			case !s.done && s.rec.State == "open":
				return
			default:
				outputs++
			}
		}
	}
	if outputs > 0 || inputs == 0 { // a stdin alone ends when its sink closes it
		a.exited(c, &keeperpb.Process{Key: c.key, Ended: time.Now().UnixNano()})
	}
}

// stopAdopted ends the streams of c: what they hold is put out. Agent.mu is held.
func (a *Agent) stopAdopted(c *child) {
	a.emit(c, "stopping", "", "")
	c.cut = true
	if c.rec.State == stRunning {
		a.exited(c, &keeperpb.Process{Key: c.key, Ended: time.Now().UnixNano()})
		return
	}
	a.save(c)
	for _, o := range c.openings {
		a.follow(func() { a.settle(o) })
	}
}

// errNoProcess says that a child is streams only.
var errNoProcess = errors.New("it was adopted, and its process is not known; muxctl adopt --pid tells it")
