package stage

import (
	"cmp"
	"fmt"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"github.com/muxd/muxd/internal/fd"
)

// The state memory of a Fan, as that of an Engine, is a memfd that outlives the process:
//
//	0             how many slots have ever been used
//	4096 + 8*i    binding of stage i: (slot + 1)<<16 | branch<<8 | role, or 0
//	slot k at     fanHeader + k*fanSlotSize:
//	  0           word: bit 0 a chunk is on the way into the stages, bit 1 which committed count, bit 2 the stream has
//	              ended, bits 8-15 the branch whose stage gets it first, bits 16-31 the branches that get it
//	  8, 16       bytes of the stream that all stages have got
//	  24          length of the key, then the key; 0: the slot is free
//	  256 + 240*b branch b:
//	    0         word: bit 0 something is being dropped, bit 1 which dropped count, bits 2-3 from which role; bit 4 bytes are on the way
//	              from the stage into the file, bit 5 from the file into the queue, bit 6 which head and tail count
//	    8, 16     bytes that were dropped
//	    24        how many bytes stay where something is being dropped
//	    32        offset of the stream at which the branch began
//	    40        length of the key, then the key; 0: there is no such branch
//	    160, 168  head: bytes that have left the file
//	    176, 184  tail: bytes that were put into it
//	    192       bytes in the stage when they began to be put into the file
//	    200       where in the branch the bytes are missing that are being dropped
//
// A word changes with one atomic store from step to step, as an Engine's does.
const (
	fanHeader     = 64 << 10
	fanSlotSize   = 4096
	fanSlotsMost  = 32 << 10
	fanBindings   = 4096
	fanStagesMost = (fanHeader - fanBindings) / 8

	atFanCommitted = 8
	atFanKeyLen    = 24
	atFanKey       = 32
	fanKeyMost     = atFanBranches - atFanKey

	atFanBranches  = 256
	fanBranchSize  = 240
	BranchesMost   = 16 // of a source
	atDropped      = 8
	atRest         = 24
	atBegin        = 32
	atBranchKeyLen = 40
	atBranchKey    = 48
	atHead         = 160
	atTail         = 176
	atSaved        = 192
	atGap          = 200
	branchKeyMost  = atHead - atBranchKey
)

// Bits of a source's word, and of a branch's.
const (
	fanMoving     = 1 << 0
	fanCommitted  = 1 << 1
	fanEnded      = 1 << 2
	fanFirstShift = 8
	fanMaskShift  = 16

	branchDrops     = 1 << 0
	branchDropped   = 1 << 1
	branchRoleShift = 2
	branchSaves     = 1 << 4
	branchLoads     = 1 << 5
	branchFile      = 1 << 6

	branchKept = branchDropped | branchFile // from step to step
)

// What a branch holds, by its roles. A file is no stage.
const (
	roleStage = 0 // what came last
	roleQueue = 1 // what comes first, of a branch that drops the oldest, or spills
	roleFile  = 2 // what is between them, of one that spills
)

// binding says whose a stage is.
type binding struct{ slot, branch, role int }

type fanMemory struct {
	file *fd.FD
	base []byte
}

const fanMemorySize = fanHeader + fanSlotsMost*fanSlotSize

func newFanMemory() (*fanMemory, error) {
	n, err := unix.MemfdCreate("muxd-fan", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("make state memory: %w", err)
	}
	f := fd.New(n)
	if err := unix.Ftruncate(n, fanMemorySize); err != nil {
		f.Close()
		return nil, fmt.Errorf("size state memory: %w", err)
	}
	return mapFanMemory(f)
}

// mapFanMemory takes ownership of f, the state memory of this process or of its predecessor.
func mapFanMemory(f *fd.FD) (*fanMemory, error) {
	var st unix.Stat_t
	if err := unix.Fstat(f.Int(), &st); err != nil || st.Size != fanMemorySize {
		f.Close()
		return nil, fmt.Errorf("state memory of %d bytes, want %d: %w", st.Size, fanMemorySize, cmp.Or(err, error(unix.EINVAL)))
	}
	base, err := unix.Mmap(f.Int(), 0, fanMemorySize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED|unix.MAP_NORESERVE)
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("map state memory: %w", err)
	}
	return &fanMemory{file: f, base: base}, nil
}

func (m *fanMemory) close() error {
	m.file.Close()
	return unix.Munmap(m.base)
}

// bind records whose stage i is; a negative slot: nobody's.
func (m *fanMemory) bind(i int, b binding) {
	v := uint64(0)
	if b.slot >= 0 {
		v = uint64(b.slot+1)<<16 | uint64(b.branch)<<8 | uint64(b.role)
	}
	atomic.StoreUint64(word(m.base, fanBindings+8*i), v)
}

func (m *fanMemory) bound(i int) binding {
	v := atomic.LoadUint64(word(m.base, fanBindings+8*i))
	return binding{slot: int(v>>16) - 1, branch: int(v >> 8 & 0xff), role: int(v & 0xff)}
}

func (m *fanMemory) used() int { return int(min(atomic.LoadUint64(word(m.base, 0)), fanSlotsMost)) }

func (m *fanMemory) slot(k int) fanSlot {
	at := fanHeader + k*fanSlotSize
	return fanSlot(m.base[at : at+fanSlotSize])
}

// claim gives the free slot k to a source.
func (m *fanMemory) claim(k int, key string) fanSlot {
	s := m.slot(k)
	setKey(s, atFanKeyLen, key)
	if k >= m.used() {
		atomic.StoreUint64(word(m.base, 0), uint64(k+1))
	}
	return s
}

// clear makes a slot new, and gives its page back.
func (m *fanMemory) clear(k int) {
	unix.Fallocate(m.file.Int(), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE,
		int64(fanHeader+k*fanSlotSize), fanSlotSize)
}

// setKey records a key whose length is at and which stands behind it: the length last, so that there is a key or none.
func setKey(b []byte, at int, key string) {
	copy(b[at+8:], key)
	atomic.StoreUint64(word(b, at), uint64(len(key)))
}

func getKey(b []byte, at, most int) string {
	n := min(atomic.LoadUint64(word(b, at)), uint64(most))
	return string(b[at+8 : at+8+int(n)])
}

// fanSlot is one source's part of the state memory.
type fanSlot []byte

func (s fanSlot) key() string    { return getKey(s, atFanKeyLen, fanKeyMost) }
func (s fanSlot) load() uint64   { return atomic.LoadUint64(word(s, 0)) }
func (s fanSlot) store(w uint64) { atomic.StoreUint64(word(s, 0), w) }
func (s fanSlot) committed() uint64 {
	return atomic.LoadUint64(word(s, atFanCommitted+8*bit(s.load(), fanCommitted)))
}

// moving records that a chunk is on the way into the stages of the branches in mask, and that branch first gets it first.
func (s fanSlot) moving(first, mask int) {
	s.store(s.load()&fanCommitted | fanMoving | uint64(first)<<fanFirstShift | uint64(mask)<<fanMaskShift)
}

// still records that none is: that none came to the first branch.
func (s fanSlot) still() { s.store(s.load() & fanCommitted) }

// first is the branch that gets the chunk first which is on the way, and mask those that get it; false where none is.
func (s fanSlot) first() (first, mask int, moving bool) {
	w := s.load()
	return int(w >> fanFirstShift & 0xff), int(w >> fanMaskShift & 0xffff), w&fanMoving != 0
}

// commit records that every stage has got n bytes more.
func (s fanSlot) commit(n int) {
	next := s.load()&fanCommitted ^ fanCommitted
	atomic.StoreUint64(word(s, atFanCommitted+8*bit(next, fanCommitted)), s.committed()+uint64(n))
	s.store(next)
}

// end records that the stream has ended, and that every branch has got all of it.
func (s fanSlot) end() { s.store(s.load() | fanEnded) }

func (s fanSlot) ended() bool { return s.load()&fanEnded != 0 }

// branch is branch b's part of the slot.
func (s fanSlot) branch(b int) branchSlot {
	at := atFanBranches + b*fanBranchSize
	return branchSlot(s[at : at+fanBranchSize])
}

// branchSlot is one branch's part of a slot.
type branchSlot []byte

func (s branchSlot) key() string    { return getKey(s, atBranchKeyLen, branchKeyMost) }
func (s branchSlot) load() uint64   { return atomic.LoadUint64(word(s, 0)) }
func (s branchSlot) store(w uint64) { atomic.StoreUint64(word(s, 0), w) }
func (s branchSlot) begin() uint64  { return atomic.LoadUint64(word(s, atBegin)) }

// claim gives the free branchSlot to a branch that begins at an offset.
func (s branchSlot) claim(key string, begin uint64) {
	clear(s)
	atomic.StoreUint64(word(s, atBegin), begin)
	setKey(s, atBranchKeyLen, key)
}

func (s branchSlot) free() { atomic.StoreUint64(word(s, atBranchKeyLen), 0) }

// dropped is how many bytes were dropped.
func (s branchSlot) dropped() uint64 {
	return atomic.LoadUint64(word(s, atDropped+8*bit(s.load(), branchDropped)))
}

// drops records that n bytes are going to be dropped from what has that role, so that rest stay there, and at which position of the
// branch they will be missing.
func (s branchSlot) drops(n, rest, role int, gap uint64) {
	w := s.load() & branchKept
	atomic.StoreUint64(word(s, atRest), uint64(rest))
	atomic.StoreUint64(word(s, atGap), gap)
	atomic.StoreUint64(word(s, atDropped+8*(1-bit(w, branchDropped))), s.dropped()+uint64(n))
	if role == roleFile {
		head, tail := s.file()
		s.setFile(head+uint64(n), tail)
	}
	s.store(w | branchDrops | uint64(role)<<branchRoleShift)
}

// dropping is what drops recorded, with what will have been dropped then; false where nothing is being dropped.
func (s branchSlot) dropping() (role, rest int, gap, total uint64, drops bool) {
	w := s.load()
	total = atomic.LoadUint64(word(s, atDropped+8*(1-bit(w, branchDropped))))
	return int(w >> branchRoleShift & 3), int(atomic.LoadUint64(word(s, atRest))), atomic.LoadUint64(word(s, atGap)), total, w&branchDrops != 0
}

// told counts what was dropped. Out of the file it goes with that.
func (s branchSlot) told() {
	w := s.load()
	next := w&branchKept ^ branchDropped
	if w>>branchRoleShift&3 == roleFile {
		next ^= branchFile
	}
	s.store(next)
}

// file is what stands in the file: from head to tail, of all bytes that have ever been in it.
func (s branchSlot) file() (head, tail uint64) {
	which := 8 * bit(s.load(), branchFile)
	return atomic.LoadUint64(word(s, atHead+which)), atomic.LoadUint64(word(s, atTail+which))
}

// setFile writes what file will be when the word says so.
func (s branchSlot) setFile(head, tail uint64) {
	which := 8 * (1 - bit(s.load(), branchFile))
	atomic.StoreUint64(word(s, atHead+which), head)
	atomic.StoreUint64(word(s, atTail+which), tail)
}

// moves records that bytes are going to be moved: branchSaves from the stage, which has so many, into the file, or branchLoads from there
// into the empty queue.
func (s branchSlot) moves(how uint64, staged int) {
	atomic.StoreUint64(word(s, atSaved), uint64(staged))
	s.store(s.load()&branchKept | how)
}

// moving is what moves recorded; 0: nothing is being moved.
func (s branchSlot) moving() (how uint64, staged int) {
	return s.load() & (branchSaves | branchLoads), int(atomic.LoadUint64(word(s, atSaved)))
}

// moved ends that, with what stands in the file now.
func (s branchSlot) moved(head, tail uint64) {
	s.setFile(head, tail)
	s.store(s.load()&branchKept ^ branchFile)
}
