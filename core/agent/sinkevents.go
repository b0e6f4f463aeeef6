package agent

import (
	"fmt"
	"time"

	"github.com/muxd/muxd/sink/sinkpb"
)

// sinkEvent is told of what a plugin's Watch tells. The same may be told twice. It does not block.
func (a *Agent) sinkEvent(plugin string, ev *sinkpb.Event) {
	a.mu.Lock()
	defer a.mu.Unlock()
	o := a.openings[ev.Opening]
	if o == nil || o.choice.spec.Name != plugin {
		if ev.Opening != "" && !a.isMoving(ev.Opening) && a.discards < discardsMost {
			a.discards++
			a.follow(func() {
				a.discard(plugin, ev)
				a.mu.Lock()
				defer a.mu.Unlock()
				a.discards--
			})
		}
		return
	}
	for _, s := range o.streams {
		switch {
		case s.kind != ev.Stream:
		case s.moving:
			s.noteEnd(ev)
		default:
			a.streamEvent(o, s, ev)
		}
	}
	a.undoneIfDone(o)
	a.retire(o)
	a.streamsOver(o.child)
	a.maybeFinish(o.child)
}

// noteEnd keeps what is told of the end of a stream that is being moved. Agent.mu is held.
func (s *stream) noteEnd(ev *sinkpb.Event) {
	switch ev.What.(type) {
	case *sinkpb.Event_Flushed, *sinkpb.Event_Failed:
		s.end = ev
	}
}

// discardsMost is how many openings that nobody knows are ended at a time. What is not ended then is when its plugin is watched anew.
const discardsMost = 64

// What comes and goes is told so often of a stream, and not more: a plugin that flaps would push what others have to tell out of the
// events. The child's record has the state all the same.
const (
	eventsBurst = 100
	eventsEvery = time.Second
)

// emitSome tells of s unless there was too much of it lately. Agent.mu is held.
func (a *Agent) emitSome(c *child, s *stream, kind, part, text string) {
	now := time.Now()
	if s.eventsFrom.Before(now.Add(-eventsBurst * eventsEvery)) {
		s.eventsFrom = now.Add(-eventsBurst * eventsEvery)
	}
	if s.eventsFrom = s.eventsFrom.Add(eventsEvery); s.eventsFrom.After(now) {
		s.eventsFrom = s.eventsFrom.Add(-eventsEvery)
		return
	}
	a.emit(c, kind, part, text)
}

// discard ends an opening that nobody knows: an agent died while it was being made, or it has been forgotten already.
func (a *Agent) discard(plugin string, ev *sinkpb.Event) {
	p := a.host.Running(plugin)
	if p == nil {
		return
	}
	switch ev.What.(type) {
	case *sinkpb.Event_Flushed, *sinkpb.Event_Failed:
		p.Sinks().Forget(a.ctx, &sinkpb.ForgetRequest{Opening: ev.Opening})
	case *sinkpb.Event_Trouble: // the first that is told of a stream
		p.Sinks().End(a.ctx, &sinkpb.EndRequest{Opening: ev.Opening})
		p.Sinks().Cut(a.ctx, &sinkpb.CutRequest{Opening: ev.Opening})
	}
}

// streamEvent moves a stream: open, eof, flushed or failed. Agent.mu is held.
func (a *Agent) streamEvent(o *opening, s *stream, ev *sinkpb.Event) {
	c, r := o.child, s.rec
	switch w := ev.What.(type) {
	case *sinkpb.Event_Eof:
		if s.kind == sinkpb.Stream_STDIN && r.State == "open" {
			a.dropInput(o, s)
		}
		if r.State == "open" {
			r.State, r.Bytes = "eof", w.Eof.Bytes
			a.emit(c, "eof", partOf(r), "after "+count(r.Bytes, "byte"))
		}
	case *sinkpb.Event_Flushed:
		if len(w.Flushed.Remains) > 0 {
			a.remains.keep(c.id(), o.run, w.Flushed.Remains)
		}
		if !s.done {
			s.done, r.State, r.Bytes, r.Error = true, "flushed", w.Flushed.Bytes, ""
			a.emit(c, "flushed", partOf(r), count(r.Bytes, "byte"))
			a.copiedAll(o)
		}
	case *sinkpb.Event_Failed:
		if !s.done {
			r.Bytes = w.Failed.Bytes
			a.failStream(o, s, w.Failed.Error)
		}
	case *sinkpb.Event_Trouble:
		if w.Trouble.Held { // what the plugin died of is found, and it begins anew with the rest
			delete(a.deaths, r.Plugin)
		}
		if text := w.Trouble.Error; text != r.Error && !s.done {
			r.Error = text
			if text == "" {
				text = "over"
			}
			a.emitSome(c, s, "trouble", partOf(r), text)
		}
	case *sinkpb.Event_Dropped:
		if w.Dropped.Branch != "" {
			a.branchDropped(o, w.Dropped.Branch, w.Dropped.Bytes)
		} else if n := w.Dropped.Bytes; n > r.Dropped {
			r.Dropped = n
			a.emitSome(c, s, "dropped", partOf(r), fmt.Sprintf("%d bytes were dropped by %s until now", n, r.Spec))
		}
	case *sinkpb.Event_Typed:
		v := w.Typed.Viewer
		a.emit(c, "typed", r.Stream, fmt.Sprintf("%s by process %d of user %d, viewer %s", count(w.Typed.Bytes, "byte"), v.GetPid(), v.GetUid(), v.GetName()))
	case *sinkpb.Event_Viewers:
		switch n := w.Viewers.Count; {
		case n > r.Viewers:
			a.emitSome(c, s, "attached", r.Stream, count(n, "viewer"))
		case n < r.Viewers:
			a.emitSome(c, s, "detached", r.Stream, count(n, "viewer"))
		}
		r.Viewers = w.Viewers.Count
	}
}

// count is "1 viewer", and "2 viewers".
func count[N uint32 | uint64](n N, thing string) string {
	if n != 1 {
		thing += "s"
	}
	return fmt.Sprintf("%d %s", n, thing)
}

// dropInput lets the keeper's copy of a stdin go, which its sink has closed.
func (a *Agent) dropInput(o *opening, s *stream) {
	a.follow(func() { a.endInput(o, s) })
}

// undoneIfDone tells undo that an opening has ended. Agent.mu is held.
func (a *Agent) undoneIfDone(o *opening) {
	if o.undone == nil {
		return
	}
	for _, s := range o.streams {
		if !s.done {
			return
		}
	}
	select {
	case <-o.undone:
	default:
		close(o.undone)
	}
}
