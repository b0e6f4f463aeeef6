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
	op *opening

	mu    sync.Mutex // for what follows; taken before server.mu
	entry *typedEntry
	first time.Time // when the first of what is not told was typed
	due   *time.Timer
}

// count counts n bytes of the viewer's input from offset on, once. A viewer that may not type, or that muxd does not know, is not counted.
func (t *typist) count(offset uint64, n int) {
	if t == nil || n == 0 {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	end := offset + uint64(n)
	next := t.entry.next.Load()
	if end <= next {
		return
	}
	now := time.Now()
	if t.due == nil {
		t.first, t.due = now, time.AfterFunc(typedSilence, t.tell)
	} else if wait := min(typedSilence, t.first.Add(typedMost).Sub(now)); wait > 0 {
		t.due.Reset(wait)
	}
	t.entry.counted.Add(end - max(offset, next))
	t.entry.next.Store(end)
}

// countAgain counts what the viewer has typed up to offset, as far as that is not counted. Without a table nobody knows how far it is.
func (t *typist) countAgain(offset uint64) {
	if t == nil {
		return
	}
	t.op.srv.mu.Lock()
	known := t.op.typedTable != nil
	t.op.srv.mu.Unlock()
	if known {
		t.count(0, int(min(offset, typedAtOnce)))
	}
}

// types makes a typist of a viewer that may type, whose input has that name.
func (o *opening) types(id []byte, who *sinkpb.Viewer) *typist {
	o.srv.mu.Lock()
	defer o.srv.mu.Unlock()
	t := &typist{op: o}
	t.entry = o.typedTable.claim(id, who, func(e *typedEntry) bool { return o.typists[e] != nil })
	if o.typists == nil {
		o.typists = map[*typedEntry]*typist{}
	}
	o.typists[t.entry] = t
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
	if t.op.typists[t.entry] == t { // and not the client's next connection
		delete(t.op.typists, t.entry)
	}
}

// tellTyped tells all that is left before the console's end is told.
func (o *opening) tellTyped() {
	o.srv.mu.Lock()
	typists := slices.Collect(maps.Values(o.typists))
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
	t.op.srv.mu.Lock()
	defer t.op.srv.mu.Unlock()
	t.op.tellEntry(t.entry)
}

// tellEntry has muxd told of what e has. server.mu is held.
func (o *opening) tellEntry(e *typedEntry) {
	if o.typed = append(o.typed, typedNews{e, e.viewer(), e.counted.Load()}); len(o.typed) > untoldMost {
		o.typed = o.typed[1:]
	}
	for _, f := range o.flows {
		o.srv.changed(f)
	}
}

// typedNews is what is to be told of an entry, which may be somebody else's by then.
type typedNews struct {
	entry *typedEntry
	who   *sinkpb.Viewer
	bytes uint64
}

// sentTyped is called when muxd has been told of news, or has not.
func (o *opening) sentTyped(news []typedNews, err error) {
	o.srv.mu.Lock()
	defer o.srv.mu.Unlock()
	if err != nil {
		o.typed = append(news, o.typed...)
		return
	}
	if o.typedTable == nil { // it has none, or it is gone with the opening
		return
	}
	for _, n := range news {
		if n.entry.is(n.who) {
			n.entry.told.Store(max(n.entry.told.Load(), n.bytes))
		}
	}
}

// leftTyped takes the table behind a console's memory, and has muxd told of what a predecessor has counted there and not told.
func (o *opening) leftTyped(b []byte) {
	o.srv.mu.Lock()
	defer o.srv.mu.Unlock()
	o.typedTable = typedIn(b)
	for i := range o.typedTable {
		if e := &o.typedTable[i]; e.untold() > 0 {
			o.tellEntry(e)
		}
	}
}
