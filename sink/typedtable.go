package sink

import (
	"bytes"
	"os"
	"sync/atomic"
	"unsafe"

	"github.com/muxd/muxd/sink/sinkpb"
)

// typedEntry is how much one client has typed, and how much of that muxd has been told. Those of a console with Memory are behind it, and
// outlive the process: a successor tells what was not told.
type typedEntry struct {
	used    atomic.Uint64 // 0: it is nobody's; otherwise the larger, the later it was claimed
	counted atomic.Uint64 // bytes of its input
	next    atomic.Uint64 // the offset in it behind them
	told    atomic.Uint64
	pid     uint32
	uid     uint32
	name    text // of the viewer
	id      text // of the client's input
}

// text is a string of 32 bytes at most; a longer one is cut off.
type text struct {
	n uint8
	b [32]byte
}

func (t *text) set(s []byte) { t.n = uint8(copy(t.b[:], s)) }
func (t *text) get() []byte  { return t.b[:min(int(t.n), len(t.b))] }

// typedTable are the entries of a console.
type typedTable []typedEntry

// typedBytes is what they take of its memory.
func typedBytes() int { return os.Getpagesize() }

// typedIn is the table in b, which has typedBytes, and is zero or a table's already.
func typedIn(b []byte) typedTable {
	return unsafe.Slice((*typedEntry)(unsafe.Pointer(&b[0])), len(b)/int(unsafe.Sizeof(typedEntry{})))
}

// claim is the entry of the client whose input has that name: the one that it has, or another one, of which nothing is left to tell and that was
// claimed before all others. Without a name, and where there is none, it is an entry of nobody else's that does not outlive the process.
// busy are those of viewers that are there.
func (t typedTable) claim(id []byte, who *sinkpb.Viewer, busy func(*typedEntry) bool) *typedEntry {
	var last uint64
	var e *typedEntry
	for i := range t {
		x := &t[i]
		used := x.used.Load()
		last = max(last, used)
		if used != 0 && len(id) > 0 && bytes.Equal(x.id.get(), id) {
			x.pid, x.uid = who.GetPid(), who.GetUid()
			x.name.set([]byte(who.GetName()))
			return x
		}
		if x.untold() == 0 && !busy(x) && (e == nil || used < e.used.Load()) {
			e = x
		}
	}
	if e == nil || len(id) == 0 {
		e = &typedEntry{}
	}
	e.used.Store(0)
	e.counted.Store(0)
	e.next.Store(0)
	e.told.Store(0)
	e.pid, e.uid = who.GetPid(), who.GetUid()
	e.name.set([]byte(who.GetName()))
	e.id.set(id)
	e.used.Store(last + 1)
	return e
}

// untold is how much there is to tell.
func (e *typedEntry) untold() uint64 {
	if e.used.Load() == 0 {
		return 0
	}
	return e.counted.Load() - min(e.told.Load(), e.counted.Load())
}

// is says whether it is who's.
func (e *typedEntry) is(who *sinkpb.Viewer) bool {
	return e.pid == who.Pid && string(e.name.get()) == who.Name
}

// viewer is who has typed it.
func (e *typedEntry) viewer() *sinkpb.Viewer {
	return &sinkpb.Viewer{Pid: e.pid, Uid: e.uid, Name: string(e.name.get())}
}
