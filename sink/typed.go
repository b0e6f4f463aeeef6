package sink

import (
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/muxd/muxd/sink/sinkpb"
)

// What viewers type is told to muxd for its events: who, when and how much, never what. One that goes on typing is told of
// once in a while, and a paste once.
const (
	typedSilence = 2 * time.Second  // without anything typed, and it is told
	typedMost    = 30 * time.Second // of typing, and it is told
	untoldMost   = 256              // viewers that have left and have not been told of; beyond it the oldest are not
)

// typist counts what one viewer types.
type typist struct {
	op  *opening
	who *sinkpb.Viewer

	mu    sync.Mutex // for what follows; taken before server.mu
	bytes uint64
	first time.Time // when the first of what is not told was typed
	due   *time.Timer
}

// count adds n bytes. A viewer that may not type, or that muxd does not know, is not counted.
func (t *typist) count(n int) {
	if t == nil || n == 0 {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	now := time.Now()
	if t.due == nil {
		t.first, t.due = now, time.AfterFunc(typedSilence, t.tell)
	} else if wait := min(typedSilence, t.first.Add(typedMost).Sub(now)); wait > 0 {
		t.due.Reset(wait)
	}
	t.bytes += uint64(n)
}

// types makes a typist of a viewer that may type.
func (o *opening) types(who *sinkpb.Viewer) *typist {
	t := &typist{op: o, who: who}
	o.srv.mu.Lock()
	defer o.srv.mu.Unlock()
	if o.typists == nil {
		o.typists = map[*typist]bool{}
	}
	o.typists[t] = true
	return t
}

// leave tells what is left. Of a viewer that may not type there is none.
func (t *typist) leave() {
	if t == nil {
		return
	}
	t.tell()
	t.op.srv.mu.Lock()
	defer t.op.srv.mu.Unlock()
	delete(t.op.typists, t)
}

// tellTyped tells all that is left before the console's end is told.
func (o *opening) tellTyped() {
	o.srv.mu.Lock()
	typists := slices.Collect(maps.Keys(o.typists))
	o.srv.mu.Unlock()
	for _, t := range typists {
		t.tell()
	}
}

// tell has muxd told of all until now, if there is anything new.
func (t *typist) tell() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.due == nil {
		return
	}
	t.due.Stop()
	t.due = nil
	o := t.op
	o.srv.mu.Lock()
	defer o.srv.mu.Unlock()
	if o.typed = append(o.typed, &sinkpb.Typed{Viewer: t.who, Bytes: t.bytes}); len(o.typed) > untoldMost {
		o.typed = o.typed[1:]
	}
	for _, f := range o.flows {
		o.srv.changed(f)
	}
}
