package stage

import (
	"cmp"
	"fmt"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/muxd/muxd/internal/fd"
)

// The state memory is a memfd that outlives the process which writes it: a header, then a head for each source, and then areas for
// each. It is sparse: what is not touched costs nothing, and a source that is idle, or that was never in need of more, only has
// its head.
//
//	0             how many slots have ever been used: those behind are untouched
//	8             slot number + 1 of the source whose chunk is on trial (trial.go), or 0
//	4096 + 8*i    binding of pair i: slot number + 1 of the source whose bytes are in its stage, or 0
//	head of slot k at memHeader + k*headSize:
//	  0           word (below)
//	  8, 16       bytes of the stream that are committed; the word says which of the two counts
//	  24          the chunk's time, Unix nanoseconds
//	  32          intent: length<<1 | which of the two places
//	  40, 48      length of each state area; the word says which counts
//	  56          bytes in the stage when the chunk was taken
//	  64          strikes against the chunk (trial.go)
//	  72          1: something stands in the areas, or has
//	  80          length of the key, then the key; 0: the slot is free
//	  160, 208    intents of at most 48 bytes
//	areas of slot k at memAreas + k*areasSize:
//	  0, 1024     longer intents
//	  2048, 2056  where in a branch the source begins (gaps.go), and where it has left, plus 1
//	  2064        numbers of the sink's own, 8 bytes each
//	  4096, …     states
//
// The word changes with one atomic store from step to step, so a process killed between any two of them leaves
// a record of the last one. Its bits: 0-1 phase, 2 which committed count, 3 which state area, 4 the chunk is the
// last one, 5 the state area was written anew for this chunk, 32-63 the chunk's length.
const (
	memHeader  = 8192
	headSize   = 256
	memAreas   = memHeader + slotsMost*headSize
	areasSize  = 64 << 10
	memSize    = memAreas + slotsMost*areasSize
	slotsMost  = 32 << 10
	intentMost = 1 << 10
	stateMost  = 24 << 10

	atCommitted = 8
	atTime      = 24
	atIntent    = 32
	atStateLen  = 40
	atStaged    = 56
	atStrikes   = 64
	atTouched   = 72
	atKeyLen    = 80
	atKey       = 88
	atIntents   = 160
	intentSmall = (headSize - atIntents) / 2
	atBegins    = 2048 // in the areas
	atLeft      = 2056
	atNumbers   = 2064
	atStates    = 4096

	atBindings = 4096
	pairsMost  = (memHeader - atBindings) / 8
	keyMost    = atIntents - atKey
)

// Phases of a chunk, in their order.
const (
	phaseIdle    = 0 // no chunk; what is in the stage has not been looked at
	phaseTaken   = 1 // the sink has the chunk, or is about to
	phaseWritten = 2 // the sink has put it out; the stage is being consumed
	phaseEnded   = 3 // the last chunk is put out
)

const (
	phaseMask    = 3
	bitCommitted = 1 << 2
	bitState     = 1 << 3
	bitLast      = 1 << 4
	bitNewState  = 1 << 5
)

// memory is the mapped state memory.
type memory struct {
	file *fd.FD
	base []byte
}

// newMemory makes a state memory. The mapping is address space only, until it is touched.
func newMemory() (*memory, error) {
	n, err := unix.MemfdCreate("muxd-state", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("make state memory: %w", err)
	}
	f := fd.New(n)
	if err := unix.Ftruncate(n, memSize); err != nil {
		f.Close()
		return nil, fmt.Errorf("size state memory: %w", err)
	}
	return mapMemory(f)
}

// mapMemory takes ownership of f, the state memory of this process or of its predecessor.
func mapMemory(f *fd.FD) (*memory, error) {
	var st unix.Stat_t
	if err := unix.Fstat(f.Int(), &st); err != nil || st.Size != memSize {
		f.Close()
		return nil, fmt.Errorf("state memory of %d bytes, want %d: %w", st.Size, memSize, cmp.Or(err, error(unix.EINVAL)))
	}
	base, err := unix.Mmap(f.Int(), 0, memSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED|unix.MAP_NORESERVE)
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("map state memory: %w", err)
	}
	return &memory{file: f, base: base}, nil
}

func (m *memory) close() error {
	m.file.Close()
	return unix.Munmap(m.base)
}

// bind records that the stage of pair i belongs to the source in slot k; k < 0: to none.
func (m *memory) bind(i, k int) { atomic.StoreUint64(word(m.base, atBindings+8*i), uint64(k+1)) }

// bound is the slot that the stage of pair i belongs to; -1: none.
func (m *memory) bound(i int) int { return int(atomic.LoadUint64(word(m.base, atBindings+8*i))) - 1 }

// used is how many slots have ever been used.
func (m *memory) used() int { return int(min(atomic.LoadUint64(word(m.base, 0)), slotsMost)) }

// claim gives the free slot k to a source.
func (m *memory) claim(k int, key string) Slot {
	s := m.slot(k)
	s.letGo() // of a process that was killed over clear
	clear(s.head())
	copy(s.head()[atKey:], key)
	atomic.StoreUint64(word(s.head(), atKeyLen), uint64(len(key)))
	if k >= m.used() {
		atomic.StoreUint64(word(m.base, 0), uint64(k+1))
	}
	return s
}

// key is what the slot was claimed with; empty: it is free.
func (s Slot) key() string {
	n := min(atomic.LoadUint64(word(s.head(), atKeyLen)), keyMost)
	return string(s.head()[atKey : atKey+n])
}

func word(b []byte, at int) *uint64 { return (*uint64)(unsafe.Pointer(&b[at])) }

// Slot is one source's part of the state memory.
type Slot struct {
	m *memory
	k int
}

func (m *memory) slot(k int) Slot { return Slot{m, k} }

func (s Slot) head() []byte {
	at := memHeader + s.k*headSize
	return s.m.base[at : at+headSize]
}

// areas are touched only where something is to stand there.
func (s Slot) areas() []byte {
	at := memAreas + s.k*areasSize
	return s.m.base[at : at+areasSize]
}

// clear frees the slot, and gives its areas' pages back.
func (m *memory) clear(k int) {
	s := m.slot(k)
	atomic.StoreUint64(word(s.head(), atKeyLen), 0)
	s.letGo()
}

func (s Slot) touch() { atomic.StoreUint64(word(s.head(), atTouched), 1) }

func (s Slot) letGo() {
	if w := word(s.head(), atTouched); atomic.LoadUint64(w) != 0 {
		at := int64(memAreas + s.k*areasSize)
		unix.Fallocate(s.m.file.Int(), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, at, areasSize)
		atomic.StoreUint64(w, 0)
	}
}

func (s Slot) load() uint64   { return atomic.LoadUint64(word(s.head(), 0)) }
func (s Slot) store(w uint64) { atomic.StoreUint64(word(s.head(), 0), w) }

// bit is 0 or 1, as b is set in w.
func bit(w, b uint64) int {
	if w&b != 0 {
		return 1
	}
	return 0
}

// Committed is how many bytes of the stream have been put out for good.
func (s Slot) Committed() uint64 {
	return atomic.LoadUint64(word(s.head(), atCommitted+8*bit(s.load(), bitCommitted)))
}

// take records a chunk of n bytes, of staged in the stage, before the sink sees it.
func (s Slot) take(n, staged int, last bool, nanos int64) {
	atomic.StoreUint64(word(s.head(), atTime), uint64(nanos))
	atomic.StoreUint64(word(s.head(), atStaged), uint64(staged))
	atomic.StoreUint64(word(s.head(), atIntent), 0)
	s.setStrikes(0)
	w := s.load()&(bitCommitted|bitState) | phaseTaken | uint64(n)<<32
	if last {
		w |= bitLast
	}
	s.store(w)
}

// written records that the sink has put the chunk out.
func (s Slot) written() {
	s.store(s.load()&^phaseMask | phaseWritten)
}

// commit ends the chunk: its bytes count, and the state that came with it does.
func (s Slot) commit() {
	w := s.load()
	next := w & (bitCommitted | bitState)
	now := atomic.LoadUint64(word(s.head(), atCommitted+8*bit(w, bitCommitted)))
	next ^= bitCommitted
	atomic.StoreUint64(word(s.head(), atCommitted+8*bit(next, bitCommitted)), now+w>>32)
	if w&bitNewState != 0 {
		next ^= bitState
	}
	if w&bitLast != 0 {
		next |= phaseEnded
	}
	s.store(next)
}

// Intent is what SetIntent recorded last for the chunk; nil where it did not.
func (s Slot) Intent() []byte {
	v := atomic.LoadUint64(word(s.head(), atIntent))
	if v == 0 {
		return nil
	}
	return s.intentAt(int(v&1), int(v>>1))
}

// intentAt is where an intent of n bytes stands, in one of its two places.
func (s Slot) intentAt(which, n int) []byte {
	if n <= intentSmall {
		at := atIntents + intentSmall*which
		return s.head()[at : at+n]
	}
	at := intentMost * which
	return s.areas()[at : at+n]
}

// SetIntent records b for the chunk that is taken, in one step.
func (s Slot) SetIntent(b []byte) {
	b = b[:min(len(b), intentMost)]
	which := 1 - atomic.LoadUint64(word(s.head(), atIntent))&1
	if len(b) > intentSmall {
		s.touch()
	}
	copy(s.intentAt(int(which), len(b)), b)
	atomic.StoreUint64(word(s.head(), atIntent), uint64(len(b))<<1|which)
}

// State is the state as of the last commit.
func (s Slot) State() []byte {
	which := bit(s.load(), bitState)
	n := atomic.LoadUint64(word(s.head(), atStateLen+8*which))
	if n == 0 {
		return nil
	}
	at := atStates + stateMost*which
	return s.areas()[at : at+int(n)]
}

// SetState records b, to count from the commit of the chunk that is taken.
func (s Slot) SetState(b []byte) {
	w := s.load()
	which := 1 - bit(w, bitState)
	n := 0
	if len(b) > 0 {
		s.touch()
		n = copy(s.areas()[atStates+stateMost*which:atStates+stateMost*(which+1)], b)
	}
	atomic.StoreUint64(word(s.head(), atStateLen+8*which), uint64(n))
	s.store(w | bitNewState)
}

// NumbersMost is how many numbers of its own a sink can have of a source.
const NumbersMost = 64

// number is where the number stands.
func (s Slot) number(i int) *int64 {
	return (*int64)(unsafe.Pointer(&s.areas()[atNumbers+8*i : atNumbers+8*i+8][0]))
}

// forgetNewState takes back a SetState of the process that was killed: its successor makes it again.
func (s Slot) forgetNewState() { s.store(s.load() &^ bitNewState) }

// time is when the chunk that is taken was read, Unix nanoseconds.
func (s Slot) time() int64 { return int64(atomic.LoadUint64(word(s.head(), atTime))) }

// staged is how much was in the stage when the chunk was taken.
func (s Slot) staged() int { return int(atomic.LoadUint64(word(s.head(), atStaged))) }
