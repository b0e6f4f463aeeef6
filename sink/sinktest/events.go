package sinktest

import (
	"context"
	"fmt"
	"sync"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/muxd/muxd/sink/sinkpb"
)

// key names a stream of an opening.
type key struct {
	opening string
	stream  sinkpb.Stream
}

// told is what Watch has told of a stream.
type told struct {
	eof, flushed, failed bool
	eofBytes, outBytes   uint64 // of eof, and of flushed or failed
	failure, trouble     string
	viewers              uint32
	viewersTold          bool
}

func (t told) over() bool { return t.flushed || t.failed }

// events is what a process tells on Watch.
type events struct {
	mu       sync.Mutex
	changed  chan struct{} // closed and replaced with every event
	streams  map[key]*told
	snapshot bool
	ended    error // why the Watch ended
	wrong    error // the first thing that may not be told
}

func newEvents() *events {
	return &events{changed: make(chan struct{}), streams: map[key]*told{}}
}

// watch begins the Watch of p, and returns when it is established.
func (p *process) watch(ctx context.Context) error {
	stream, err := p.sinks.Watch(context.Background(), &sinkpb.WatchRequest{})
	if err != nil {
		return fmt.Errorf("the call Watch: %w", err)
	}
	ev := newEvents()
	p.events = ev
	go func() {
		for {
			e, err := stream.Recv()
			ev.take(e, err)
			if err != nil {
				return
			}
		}
	}()
	if err := ev.wait(ctx, func() bool { return ev.snapshot }); err != nil {
		return fmt.Errorf("the call Watch told no Snapshot: %w", err)
	}
	return nil
}

// take takes one event into account, or the end of them.
func (ev *events) take(e *sinkpb.Event, err error) {
	ev.mu.Lock()
	defer ev.mu.Unlock()
	defer func() {
		close(ev.changed)
		ev.changed = make(chan struct{})
	}()
	if err != nil {
		ev.ended = err
		return
	}
	if _, ok := e.What.(*sinkpb.Event_Snapshot); ok {
		ev.snapshot = true
		return
	}
	k := key{e.Opening, e.Stream}
	t := ev.streams[k]
	if t == nil {
		t = &told{}
		ev.streams[k] = t
	}
	bad := func(format string, args ...any) {
		if ev.wrong == nil {
			ev.wrong = fmt.Errorf("%s of %s: %s", e.Stream, e.Opening, fmt.Sprintf(format, args...))
		}
	}
	switch w := e.What.(type) {
	case *sinkpb.Event_Eof:
		if t.eof && t.eofBytes != w.Eof.Bytes {
			bad("eof was told with %d bytes and again with %d", t.eofBytes, w.Eof.Bytes)
		}
		t.eof, t.eofBytes = true, w.Eof.Bytes
	case *sinkpb.Event_Flushed:
		switch {
		case t.failed:
			bad("flushed was told of a stream that had failed")
		case !t.eof:
			bad("flushed was told before eof")
		case t.eofBytes != w.Flushed.Bytes:
			bad("eof was told with %d bytes and flushed with %d", t.eofBytes, w.Flushed.Bytes)
		}
		t.flushed, t.outBytes = true, w.Flushed.Bytes
	case *sinkpb.Event_Failed:
		if t.flushed {
			bad("failed was told of a stream that is flushed")
		}
		t.failed, t.failure, t.outBytes = true, w.Failed.Error, w.Failed.Bytes
	case *sinkpb.Event_Trouble:
		t.trouble = w.Trouble.Error
	case *sinkpb.Event_Viewers:
		t.viewers, t.viewersTold = w.Viewers.Count, true
	case nil:
		bad("an event without content was told")
	}
}

// wait returns when cond, which is called with ev.mu held, is true; or with an error when the Watch has ended or ctx is done.
func (ev *events) wait(ctx context.Context, cond func() bool) error {
	for {
		ev.mu.Lock()
		if cond() {
			ev.mu.Unlock()
			return nil
		}
		changed, ended := ev.changed, ev.ended
		ev.mu.Unlock()
		if ended != nil {
			return fmt.Errorf("the Watch ended: %w", ended)
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// of returns what was told of a stream.
func (ev *events) of(k key) told {
	ev.mu.Lock()
	defer ev.mu.Unlock()
	if t := ev.streams[k]; t != nil {
		return *t
	}
	return told{}
}

// fault is the first thing that was told and may not be.
func (ev *events) fault() error {
	ev.mu.Lock()
	defer ev.mu.Unlock()
	return ev.wrong
}

// aborted waits for the end of the Watch, which must be ABORTED.
func (ev *events) aborted(ctx context.Context) error {
	var end error
	err := ev.wait(ctx, func() bool { end = ev.ended; return end != nil })
	switch {
	case err != nil:
		return fmt.Errorf("the Watch before did not end: %w", err)
	case status.Code(end) != codes.Aborted:
		return fmt.Errorf("the Watch before ended with %v, want ABORTED", end)
	}
	return nil
}
