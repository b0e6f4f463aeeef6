package agent

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/muxd/muxd/control/controlpb"
	"github.com/muxd/muxd/core/config"
	"github.com/muxd/muxd/core/host"
	"github.com/muxd/muxd/internal/fd"
	"github.com/muxd/muxd/internal/fdchan"
	"github.com/muxd/muxd/sink/sinkpb"
)

// api is the control API.
type api struct {
	controlpb.UnimplementedControlServer
	a *Agent
}

// find resolves an id, a name (of a living child, or the latest finished one), or a unique beginning of an id.
func (a *Agent) find(ref string) (*child, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if c := a.children[ref]; c != nil {
		return c, nil
	}
	if c := a.named[ref]; c != nil {
		return c, nil
	}
	var begins []string
	for id := range a.children {
		if ref != "" && strings.HasPrefix(id, ref) {
			begins = append(begins, id)
		}
	}
	switch {
	case len(begins) == 1:
		return a.children[begins[0]], nil
	case len(begins) > 1:
		slices.Sort(begins)
		return nil, status.Errorf(codes.InvalidArgument, "child %q: %s begin so; write more of the id", ref, strings.Join(begins, ", "))
	}
	return nil, status.Errorf(codes.NotFound, "child %q: there is none of that name or id; see muxctl list --all", ref)
}

// name has c found by its name: one that lives before one that is over, and then the latest. Agent.mu is held, here and below.
func (a *Agent) name(c *child) {
	name := c.rec.Name
	if had := a.named[name]; name != c.id() && (had == nil || !c.over() || had.over() && c.rec.Created > had.rec.Created) {
		a.named[name] = c
	}
}

// unname is called when c is forgotten: its name may be that of an earlier child.
func (a *Agent) unname(c *child) {
	name := c.rec.Name
	if a.named[name] != c {
		return
	}
	delete(a.named, name)
	for _, other := range a.done {
		if other != c && other.rec.Name == name && a.children[other.id()] == other {
			a.name(other)
		}
	}
}

// snapshot is a copy of what is known of c.
func (a *Agent) snapshot(c *child) *controlpb.Child {
	a.mu.Lock()
	defer a.mu.Unlock()
	return proto.CloneOf(c.rec)
}

func (s *api) Spawn(ctx context.Context, req *controlpb.SpawnRequest) (*controlpb.SpawnResponse, error) {
	a := s.a
	if req.Child == nil {
		return nil, status.Error(codes.InvalidArgument, "no child was described")
	}
	by := caller{session: req.FdSession, nearTicket: req.NearTicket, forks: req.ClientForks, attach: req.Attach}
	if len(req.Ticket) > 0 {
		var err error
		if by.fds, err = a.sessions.take(ctx, req.FdSession, req.Ticket); err != nil {
			return nil, status.Error(codes.InvalidArgument, err.Error())
		}
	}
	if !by.forks {
		c, err := a.answered(ctx, req.RequestId, by.fds)
		if err != nil {
			return nil, err
		}
		if c == nil {
			return s.spawn(ctx, req, by)
		}
		resp := s.spawned(c)
		if by.attach != nil {
			o, err := a.console(c)
			if resp.Attached = err == nil; resp.Attached {
				if err := a.attach(ctx, o, nil, by.session, by.attach); err != nil {
					return nil, err
				}
			}
		}
		return resp, nil
	}
	return s.spawn(ctx, req, by)
}

func (s *api) spawn(ctx context.Context, req *controlpb.SpawnRequest, by caller) (*controlpb.SpawnResponse, error) {
	c, err := s.a.spawn(ctx, req.Child, by, func(c *child) { c.request = req.RequestId })
	if err != nil {
		return nil, err
	}
	return s.spawned(c), nil
}

// answered returns the child that an earlier call with the same request id made, once that call is done; nil where there was
// none. It takes ownership of d where it returns a child or an error.
func (a *Agent) answered(ctx context.Context, id string, d *fdchan.Delivery) (*child, error) {
	a.mu.Lock()
	c := a.requests[id]
	a.mu.Unlock()
	if c == nil {
		return nil, nil
	}
	if d != nil {
		defer fd.CloseAll(d.FDs)
	}
	select {
	case <-c.ready.C():
	case <-ctx.Done():
		return nil, status.FromContextError(ctx.Err()).Err()
	}
	if c.failed != nil {
		return nil, c.failed
	}
	if d != nil {
		d.Ack()
	}
	return c, nil
}

func (s *api) spawned(c *child) *controlpb.SpawnResponse {
	r := s.a.snapshot(c)
	resp := &controlpb.SpawnResponse{Id: r.Id, Name: r.Name, Pid: r.Pid, Attached: c.attached}
	if c.forks {
		resp.NearEnds = c.nearEndNames()
	}
	return resp
}

func (s *api) Forked(ctx context.Context, req *controlpb.ForkedRequest) (*controlpb.ForkedResponse, error) {
	c, err := s.a.find(req.Id)
	if err != nil {
		return nil, err
	}
	if req.Error != "" {
		s.a.notForked(c, req.Error)
		return &controlpb.ForkedResponse{}, nil
	}
	d, err := s.a.takeForked(ctx, req)
	if err != nil {
		return nil, status.Error(codes.InvalidArgument, err.Error())
	}
	return &controlpb.ForkedResponse{}, s.a.forked(ctx, c, req.Pid, d)
}

func (s *api) List(_ context.Context, req *controlpb.ListRequest) (*controlpb.ListResponse, error) {
	a := s.a
	a.mu.Lock()
	defer a.mu.Unlock()
	resp := &controlpb.ListResponse{}
	for _, c := range a.children {
		if req.All || !c.over() {
			resp.Children = append(resp.Children, proto.CloneOf(c.rec))
		}
	}
	slices.SortFunc(resp.Children, func(x, y *controlpb.Child) int {
		return cmp.Or(cmp.Compare(x.Created, y.Created), cmp.Compare(x.Id, y.Id))
	})
	return resp, nil
}

func (s *api) Inspect(ctx context.Context, req *controlpb.InspectRequest) (*controlpb.Child, error) {
	c, err := s.a.find(req.Child)
	if err != nil {
		return nil, err
	}
	s.a.mu.Lock()
	openings := slices.Clone(c.openings)
	s.a.mu.Unlock()
	for _, o := range openings {
		s.a.stat(ctx, o)
	}
	r := s.a.snapshot(c)
	s.a.describe(c, r)
	return r, nil
}

// stat brings what is known of an opening up to date.
func (a *Agent) stat(ctx context.Context, o *opening) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	resp, err := o.sinks().Stat(ctx, &sinkpb.StatRequest{Opening: o.id})
	if err != nil {
		return // forgotten, or its plugin is gone: what was known last stands
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, st := range resp.Streams {
		for _, s := range o.streams {
			if s.kind != st.Stream {
				continue
			}
			s.rec.Bytes, s.rec.Dropped, s.rec.Location = st.Bytes, st.Dropped, st.Location
			if p := o.plugin.Load(); p != nil {
				s.rec.Metrics = metricsOf(p.Description(), st)
			}
			for _, b := range st.Branches {
				a.branchDropped(o, b.Id, b.Dropped)
			}
			if st.Size != nil {
				o.child.rec.Size = &controlpb.Size{Rows: st.Size.Rows, Cols: st.Size.Cols}
			}
		}
	}
}

// metricsMost bounds what a plugin may have in the record of each stream.
const metricsMost = 64

// metricsOf are the numbers of a sink's own that its plugin declares, with what the stream has of them.
func metricsOf(d *sinkpb.Description, st *sinkpb.StreamStat) (out []*controlpb.Metric) {
	values := map[string]int64{}
	for _, m := range st.GetMetrics() {
		values[m.Name] = m.Value
	}
	for _, m := range d.GetMetrics()[:min(len(d.GetMetrics()), metricsMost)] {
		value, ok := values[m.Name]
		if ok || st == nil {
			out = append(out, &controlpb.Metric{Name: m.Name, Help: m.Help, Gauge: m.Gauge, Value: value})
		}
	}
	return out
}

// lastNumbers brings the sink's own numbers of an opening up to date, which no event tells, before it is forgotten.
func (a *Agent) lastNumbers(ctx context.Context, o *opening) {
	if p := o.plugin.Load(); p != nil && len(p.Description().GetMetrics()) > 0 {
		a.stat(ctx, o)
	}
}

func (s *api) Wait(ctx context.Context, req *controlpb.WaitRequest) (*controlpb.Child, error) {
	c, err := s.a.find(req.Child)
	if err != nil {
		return nil, err
	}
	s.a.mu.Lock()
	c.waited = true
	s.a.mu.Unlock()
	return s.wait(ctx, c)
}

func (s *api) wait(ctx context.Context, c *child) (*controlpb.Child, error) {
	select {
	case <-c.finished.C():
	case <-ctx.Done():
		return nil, status.FromContextError(ctx.Err()).Err()
	}
	r := s.a.snapshot(c)
	if c.spec.Remove {
		s.a.mu.Lock()
		s.a.forget(c)
		s.a.mu.Unlock()
	}
	return r, nil
}

func (s *api) Signal(ctx context.Context, req *controlpb.SignalRequest) (*controlpb.SignalResponse, error) {
	c, err := s.a.find(req.Child)
	if err != nil {
		return nil, err
	}
	if req.Signal == 0 || req.Signal > 64 {
		return nil, status.Errorf(codes.InvalidArgument, "signal %d: want 1 to 64", req.Signal)
	}
	s.a.mu.Lock()
	key, state, name, pid := c.key, c.rec.State, c.rec.Name, c.rec.Pid
	s.a.mu.Unlock()
	if pid == 0 && state == stRunning {
		return nil, status.Errorf(codes.FailedPrecondition, "signal %s: %v", name, errNoProcess)
	}
	if state != stRunning {
		return nil, status.Errorf(codes.FailedPrecondition, "child %s is %s, not running", name, state)
	}
	if err := s.a.keeper.Signal(ctx, key, unix.Signal(req.Signal), !req.LeaderOnly && !c.adopted); err != nil {
		return nil, status.Error(codes.FailedPrecondition, fmt.Sprintf("signal %s: %v", name, err))
	}
	return &controlpb.SignalResponse{}, nil
}

func (s *api) Stop(ctx context.Context, req *controlpb.StopRequest) (*controlpb.Child, error) {
	c, err := s.a.find(req.Child)
	if err != nil {
		return nil, err
	}
	grace := time.Duration(cmp.Or(req.Grace, c.spec.Grace))
	if req.Now {
		grace = 0
	}
	s.a.stop(c, grace)
	return s.wait(ctx, c)
}

func (s *api) Resize(ctx context.Context, req *controlpb.ResizeRequest) (*controlpb.ResizeResponse, error) {
	c, err := s.a.find(req.Child)
	if err != nil {
		return nil, err
	}
	if req.Size.GetRows() == 0 || req.Size.GetCols() == 0 || req.Size.Rows > 0xffff || req.Size.Cols > 0xffff {
		return nil, status.Error(codes.InvalidArgument, "resize: want rows and columns from 1 to 65535")
	}
	o, err := s.a.console(c)
	if err != nil {
		return nil, err
	}
	_, err = o.sinks().Resize(ctx, &sinkpb.ResizeRequest{
		Opening: o.id, Size: &sinkpb.Size{Rows: req.Size.Rows, Cols: req.Size.Cols},
	})
	if err != nil {
		return nil, plainStatus(err)
	}
	s.a.stat(ctx, o)
	return &controlpb.ResizeResponse{}, nil
}

func (s *api) Mark(ctx context.Context, req *controlpb.MarkRequest) (*controlpb.MarkResponse, error) {
	c, err := s.a.find(req.Child)
	if err != nil {
		return nil, err
	}
	o, err := s.a.console(c)
	if err != nil {
		return nil, err
	}
	if _, err := o.sinks().Mark(ctx, &sinkpb.MarkRequest{Opening: o.id, Label: req.Label}); err != nil {
		return nil, plainStatus(err)
	}
	return &controlpb.MarkResponse{}, nil
}

func (s *api) Screen(ctx context.Context, req *controlpb.ScreenRequest) (*controlpb.ScreenResponse, error) {
	c, err := s.a.find(req.Child)
	if err != nil {
		return nil, err
	}
	var screen *sinkpb.ScreenResponse
	err = s.a.view(ctx, c, func(o *opening, remains []byte) (err error) {
		if screen, err = o.sinks().Screen(ctx, &sinkpb.ScreenRequest{Opening: o.id, Remains: remains}, host.LargeAnswer()); err != nil {
			return plainStatus(err)
		}
		if err := screenFits(screen); err != nil {
			return status.Errorf(codes.FailedPrecondition, "screen of %s: sink %s: %v", req.Child, o.choice.spec.Name, err)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	b, err := proto.Marshal(screen)
	if err != nil {
		return nil, err
	}
	out := &controlpb.ScreenResponse{} // the same message, field by field
	return out, proto.Unmarshal(b, out)
}

// screenMost is the most places that a screen has: whoever draws it makes room for each, whatever a plugin says.
const screenMost = 1 << 20

// screenFits says what is wrong with a screen that a plugin tells.
func screenFits(s *sinkpb.ScreenResponse) error {
	rows, cols := uint64(s.Size.GetRows()), uint64(s.Size.GetCols())
	if rows > 0xffff || cols > 0xffff || rows*cols > screenMost {
		return fmt.Errorf("it tells %d rows and %d columns, and %d places at most can be shown", rows, cols, screenMost)
	}
	if uint64(len(s.Lines)) > rows {
		return fmt.Errorf("it tells %d lines on %d rows", len(s.Lines), rows)
	}
	for i, l := range s.Lines {
		width := uint64(0)
		for _, c := range l.Cells {
			width += uint64(min(c.Width, 2))
			if c.Width > 2 {
				width = cols + 1
			}
		}
		if width > cols || uint64(len(l.Cells)) > 2*cols {
			return fmt.Errorf("it tells more than %d places in line %d", cols, i+1)
		}
	}
	return nil
}

// console returns the opening of c's console.
func (a *Agent) console(c *child) (*opening, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if c.over() {
		for _, r := range c.rec.Sinks {
			if r.Stream == "console" {
				return nil, status.Errorf(codes.FailedPrecondition, "child %s has finished, and its console has ended", c.rec.Name)
			}
		}
	}
	for _, o := range c.openings {
		for _, st := range o.streams {
			if st.kind == sinkpb.Stream_CONSOLE {
				return o, nil
			}
		}
	}
	var specs []string
	for _, r := range c.rec.Sinks {
		specs = append(specs, r.Stream+" "+r.Spec)
	}
	return nil, status.Errorf(codes.FailedPrecondition,
		"child %s has no console (%s); spawn it with --sink pty to attach", c.rec.Name, strings.Join(specs, ", "))
}

func (s *api) Remove(_ context.Context, req *controlpb.RemoveRequest) (*controlpb.RemoveResponse, error) {
	c, err := s.a.find(req.Child)
	if err != nil {
		return nil, err
	}
	s.a.mu.Lock()
	defer s.a.mu.Unlock()
	if !c.over() {
		return nil, status.Errorf(codes.FailedPrecondition, "child %s is %s; stop it first", c.rec.Name, c.rec.State)
	}
	if left := s.a.left(c); left != "" {
		return nil, status.Errorf(codes.FailedPrecondition, "child %s has ended, and %s; stop it first (muxctl stop %s)", c.rec.Name, left, c.rec.Name)
	}
	s.a.emit(c, "removed", "", "")
	s.a.forget(c)
	return &controlpb.RemoveResponse{}, nil
}

func (s *api) Attach(ctx context.Context, req *controlpb.AttachRequest) (*controlpb.AttachResponse, error) {
	c, err := s.a.find(req.Child)
	if err != nil {
		return nil, err
	}
	resp := &controlpb.AttachResponse{Id: c.rec.Id, Name: c.rec.Name}
	err = s.a.view(ctx, c, func(o *opening, remains []byte) error {
		resp.Run = o.run
		return s.a.attach(ctx, o, remains, req.FdSession, req)
	})
	if err != nil {
		return nil, err
	}
	return resp, nil
}

// attach makes a viewer of o's console, or of what it has left, for the client of a session.
func (a *Agent) attach(ctx context.Context, o *opening, remains, session []byte, req *controlpb.AttachRequest) error {
	return a.connect(ctx, o, session, req.Ticket, func(ctx context.Context, ticket []byte) error {
		_, err := o.sinks().Attach(ctx, &sinkpb.AttachRequest{
			Opening: o.id, Ticket: ticket, ReadOnly: req.ReadOnly, Replay: req.Replay, Hold: req.Hold, Viewer: a.sessions.viewer(session),
			InputId: req.InputId, Remains: remains,
			Terminal: req.Terminal && o.plugin.Load().Builtin(), // nobody else's program gets a user's terminal
			Size:     &sinkpb.Size{Rows: req.Size.GetRows(), Cols: req.Size.GetCols()},
		})
		return err
	})
}

// connect passes a socket of o's plugin on to a client.
func (a *Agent) connect(ctx context.Context, o *opening, session, ticket []byte, call func(context.Context, []byte) error) error {
	d, wait, err := o.plugin.Load().Take(ctx, call)
	if err != nil {
		return plainStatus(err)
	}
	if len(d.FDs) != 1 {
		err := fmt.Errorf("plugin %s gave %d descriptors for a connection", o.choice.spec.Name, len(d.FDs))
		d.Refuse(err)
		wait()
		return plainStatus(err)
	}
	if err := a.sessions.forward(ctx, d, session, ticket); err != nil {
		wait()
		if fdchan.Broken(err) { // the plugin, or the client, has died over it
			return status.Error(codes.Unavailable, err.Error())
		}
		return status.Error(codes.InvalidArgument, err.Error())
	}
	err = wait()
	switch {
	case status.Code(err) == codes.NotFound: // it ended in this moment; the ticket is used, so the client asks again with another
		return status.Error(codes.Unavailable, err.Error())
	case err != nil:
		return plainStatus(err)
	}
	return nil
}

func (s *api) Events(req *controlpb.EventsRequest, out grpc.ServerStreamingServer[controlpb.Event]) error {
	id := ""
	if req.Child != "" {
		c, err := s.a.find(req.Child)
		if err == nil {
			id = c.rec.Id
		} else if id = s.a.events.about(req.Child); id == "" { // it may have been removed
			return err
		}
	}
	if err := out.SendHeader(nil); err != nil { // a client that follows knows from now on that it does
		return err
	}
	seq := req.After
	for over := false; ; {
		select {
		case <-s.a.ended:
			over = true // what has been told by now is the last
		default:
		}
		events, more := s.a.events.after(seq)
		for _, ev := range events {
			seq = ev.Seq
			if id != "" && ev.Child != id {
				continue
			}
			if err := out.Send(ev); err != nil {
				return err
			}
		}
		if over || !req.Follow {
			return nil
		}
		select {
		case <-more:
		case <-out.Context().Done():
			return nil
		case <-s.a.ended:
		}
	}
}

func (s *api) Plugins(ctx context.Context, req *controlpb.PluginsRequest) (*controlpb.PluginsResponse, error) {
	var common []*controlpb.PluginOption
	for _, o := range append([]*sinkpb.Option{wiringDescription}, branchOptions...) {
		common = append(common, optionForClients(o))
	}
	return &controlpb.PluginsResponse{
		Plugins: s.a.listPlugins(ctx, req.Describe, req.Sink), Presets: s.a.presets(), Wirings: config.Wirings(),
		Common: common,
	}, nil
}

func (s *api) RestartPlugin(ctx context.Context, req *controlpb.RestartPluginRequest) (*controlpb.RestartPluginResponse, error) {
	return &controlpb.RestartPluginResponse{}, s.a.restartPlugin(ctx, req.Name)
}

func (s *api) Status(context.Context, *controlpb.StatusRequest) (*controlpb.StatusResponse, error) {
	a := s.a
	resp := &controlpb.StatusResponse{
		Version: a.o.Version, AgentPid: int32(os.Getpid()), KeeperPid: int32(os.Getppid()), RuntimeDir: a.o.RuntimeDir,
		Config: a.o.ConfigPath, Started: a.started.UnixNano(), Goroutines: uint32(runtime.NumGoroutine()),
	}
	if n, err := fd.Count(); err == nil {
		resp.Fds = uint32(n)
	}
	var lim unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &lim); err == nil {
		resp.FdLimit = uint32(min(lim.Cur, 1<<31))
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, c := range a.children {
		resp.ChildrenTotal++
		if !c.over() {
			resp.ChildrenRunning++
		}
	}
	return resp, nil
}

func (s *api) Reload(context.Context, *controlpb.ReloadRequest) (*controlpb.ReloadResponse, error) {
	text, err := s.a.reload()
	if err != nil {
		return nil, status.Error(codes.InvalidArgument, err.Error())
	}
	return &controlpb.ReloadResponse{Text: text}, nil
}

func (s *api) Shutdown(ctx context.Context, req *controlpb.ShutdownRequest) (*controlpb.ShutdownResponse, error) {
	go s.a.shutdown(req.Now)
	select {
	case <-s.a.ended:
		return &controlpb.ShutdownResponse{}, nil
	case <-ctx.Done():
		return nil, errors.New("muxd goes on stopping")
	}
}
