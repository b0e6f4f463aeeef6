package sink

import (
	"context"
	"maps"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/muxd/muxd/sink/sinkpb"
)

// watcher is the Watch call of the agent. What has changed is a set, not a queue: however slow the agent is, it costs
// no more than the streams that there are.
type watcher struct {
	wake    chan struct{} // capacity 1
	flows   []*flow       // changed since they were last told; server.mu
	pending map[*flow]bool
	ended   chan struct{} // closed when another watcher takes over
}

// changed marks f for the watcher. server.mu is held.
func (s *server) changed(f *flow) {
	w := s.watcher
	if w == nil {
		return
	}
	if !w.pending[f] {
		w.pending[f] = true
		w.flows = append(w.flows, f)
	}
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

func (s *server) Watch(_ *sinkpb.WatchRequest, out grpc.ServerStreamingServer[sinkpb.Event]) error {
	s.parks.retry() // whoever was to acknowledge them may be gone
	w := &watcher{wake: make(chan struct{}, 1), pending: map[*flow]bool{}, ended: make(chan struct{})}
	s.mu.Lock()
	if s.watcher != nil {
		close(s.watcher.ended)
	}
	s.watcher = w
	for _, o := range s.openings {
		for _, f := range o.flows {
			s.changed(f)
		}
		if o.input != nil {
			s.changed(o.input)
		}
	}
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		if s.watcher == w {
			s.watcher = nil
		}
		s.mu.Unlock()
	}()
	if err := s.tell(w, out, true); err != nil {
		return err
	}
	if err := out.Send(&sinkpb.Event{What: &sinkpb.Event_Snapshot{Snapshot: &sinkpb.Snapshot{}}}); err != nil {
		return err
	}
	for {
		select {
		case <-w.wake:
		case <-w.ended:
			return status.Error(codes.Aborted, "another watcher has taken over")
		case <-out.Context().Done():
			s.ep().CancelCalls() // the agent is gone, as with calls of gRPC
			return nil
		}
		if err := s.tell(w, out, false); err != nil {
			return err
		}
	}
}

// tell sends the state of every flow that has changed; with all, that it has no trouble, too.
func (s *server) tell(w *watcher, out grpc.ServerStreamingServer[sinkpb.Event], all bool) error {
	s.mu.Lock()
	flows := w.flows
	w.flows = nil
	clear(w.pending)
	s.mu.Unlock()
	for _, f := range flows {
		events, typed := f.events(all)
		var err error
		for _, ev := range events {
			if err = out.Send(ev); err != nil {
				break
			}
		}
		f.op.sentTyped(typed, err)
		if err != nil {
			return err
		}
	}
	return nil
}

// events is the state of f as events, the same whether they are told once or again, and what viewers have typed, which is told once:
// sentTyped takes it. That there is no trouble is told with all, or when there was some before.
func (f *flow) events(all bool) (events []*sinkpb.Event, typed []typedNews) {
	f.op.srv.mu.Lock()
	now, viewers := f.told, f.op.count
	now.missed = maps.Clone(f.missed)
	f.passed, f.untold = "", false
	if f.remainsTold && !all {
		now.remains = nil
	}
	f.remainsTold = f.remainsTold || f.flushed
	typed = f.op.typed
	f.op.typed = nil
	all = all || f.warned || now.trouble != "" || now.passed != ""
	f.warned = now.trouble != ""
	f.op.srv.mu.Unlock()
	ev := func() *sinkpb.Event {
		return &sinkpb.Event{Opening: f.op.pub.ID, Stream: sinkpb.Stream(f.stream)}
	}
	var out []*sinkpb.Event
	if now.passed != "" && now.passed != now.trouble {
		e := ev()
		e.What = &sinkpb.Event_Trouble{Trouble: &sinkpb.Trouble{Error: now.passed}}
		out = append(out, e)
	}
	if all {
		t := ev()
		t.What = &sinkpb.Event_Trouble{Trouble: &sinkpb.Trouble{Error: now.trouble, Held: now.held}}
		out = append(out, t)
	}
	if f.op.console != nil {
		v := ev()
		v.What = &sinkpb.Event_Viewers{Viewers: &sinkpb.Viewers{Count: uint32(viewers)}}
		out = append(out, v)
	}
	for _, n := range typed {
		e := ev()
		e.What = &sinkpb.Event_Typed{Typed: &sinkpb.Typed{Viewer: n.who, Bytes: n.bytes}}
		out = append(out, e)
	}
	if now.dropped > 0 {
		e := ev()
		e.What = &sinkpb.Event_Dropped{Dropped: &sinkpb.Dropped{Bytes: now.dropped}}
		out = append(out, e)
	}
	for branch, n := range now.missed {
		e := ev()
		e.What = &sinkpb.Event_Dropped{Dropped: &sinkpb.Dropped{Branch: branch, Bytes: n}}
		out = append(out, e)
	}
	if now.eof {
		e := ev()
		e.What = &sinkpb.Event_Eof{Eof: &sinkpb.Eof{Bytes: now.bytes}}
		out = append(out, e)
	}
	switch {
	case now.failed != "":
		e := ev()
		e.What = &sinkpb.Event_Failed{Failed: &sinkpb.Failed{Error: now.failed, Bytes: now.bytes}}
		out = append(out, e)
	case now.flushed:
		e := ev()
		e.What = &sinkpb.Event_Flushed{Flushed: &sinkpb.Flushed{Bytes: now.bytes, Remains: now.remains}}
		out = append(out, e)
	}
	return out, typed
}

func (s *server) Openings(context.Context, *sinkpb.OpeningsRequest) (*sinkpb.OpeningsResponse, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	resp := &sinkpb.OpeningsResponse{}
	for id, o := range s.openings {
		select {
		case <-o.opened:
			resp.Openings = append(resp.Openings, id)
		default: // it is being opened, and may fail
		}
	}
	return resp, nil
}

func (s *server) Stat(_ context.Context, req *sinkpb.StatRequest) (*sinkpb.StatResponse, error) {
	o, err := s.find(req.Opening)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	flows := o.flows
	s.mu.Unlock()
	resp := &sinkpb.StatResponse{}
	for _, f := range flows {
		s.mu.Lock()
		now, viewers := f.told, o.count
		s.mu.Unlock()
		st := &sinkpb.StreamStat{
			Stream: sinkpb.Stream(f.stream), Bytes: f.src.Committed(), Eof: now.eof, Flushed: now.flushed,
			Error: now.trouble, Location: o.pub.Location, Dropped: now.dropped,
			Branches: f.branchStats(), Metrics: f.metrics(),
		}
		if now.failed != "" {
			st.Error = now.failed
		}
		if o.console != nil {
			st.Viewers = uint32(viewers)
			rows, cols := o.console.Size()
			st.Size = &sinkpb.Size{Rows: uint32(rows), Cols: uint32(cols)}
		}
		resp.Streams = append(resp.Streams, st)
	}
	return resp, nil
}

// troubled tells that every output stream of o waits for something, or no longer does.
func (o *opening) troubled(err error) {
	text := ""
	if err != nil {
		text = err.Error()
	}
	o.srv.mu.Lock()
	defer o.srv.mu.Unlock()
	for _, f := range o.flows {
		if f.trouble != text && !f.held && f.failed == "" && !f.flushed {
			if text == "" && f.untold {
				f.passed = f.trouble
			}
			f.trouble, f.untold = text, true
			o.srv.changed(f)
		}
	}
}

// dropped tells how much of a stream was dropped.
func (o *opening) dropped(st Stream, total uint64) {
	o.srv.mu.Lock()
	defer o.srv.mu.Unlock()
	for _, f := range o.flows {
		if f.stream != st || f.dropped == total {
			continue
		}
		first := f.dropped == 0
		f.told.dropped = total
		if now := time.Now(); first || now.Sub(f.missedTold) >= droppedTell {
			f.missedTold = now
			o.srv.changed(f)
		}
	}
}
