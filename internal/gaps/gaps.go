// Package gaps is memory that whoever copies a stream to a branch shares with the branch's sink: it says where in what has come
// through the branch's pipe bytes of the stream are missing, and how many. It is a memfd, which outlives both.
package gaps

import (
	"cmp"
	"fmt"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/muxd/muxd/internal/fd"
)

// The memory, in numbers of 8 bytes in the order of the machine's bytes (PROTOCOL.md, section 2, Gaps):
//
//	0             how many gaps there have been
//	8             position at which the sink's own stream begins, behind what sinks before it have taken
//	4096 + 32*(i mod 1024)   gap i: its position; bytes that are missing before it; and with it
//
// A position counts bytes that came through the pipe, from the branch's beginning. The copier writes a gap before any byte behind it is
// in the pipe, and lets the last gap grow as long as none is. A gap that nobody has read is not written over: each has a buffer of the
// pipe before it, or of what the sink holds, and these have 256 each.
const (
	Size    = atGaps + gapsMost*gapSize
	atCount = 0
	atBegin = 8

	atGaps   = 4096
	gapsMost = 1024
	gapSize  = 32
	atPos    = 0
	atBefore = 8
	atTotal  = 16
)

// seals keep either side from shrinking what the other has mapped.
const seals = unix.F_SEAL_SHRINK | unix.F_SEAL_GROW | unix.F_SEAL_SEAL

// New makes such a memory, and returns it owned by the caller.
func New() (*fd.FD, error) {
	n, err := unix.MemfdCreate("muxd-gaps", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	if err != nil {
		return nil, fmt.Errorf("make memory for a branch's gaps: %w", err)
	}
	f := fd.New(n)
	if err := unix.Ftruncate(n, Size); err != nil {
		f.Close()
		return nil, fmt.Errorf("size memory for a branch's gaps: %w", err)
	}
	if _, err := unix.FcntlInt(uintptr(n), unix.F_ADD_SEALS, seals); err != nil {
		f.Close()
		return nil, fmt.Errorf("seal memory for a branch's gaps: %w", err)
	}
	return f, nil
}

// Memory is such a memory, mapped.
type Memory struct {
	file *fd.FD
	base []byte
	next uint64 // the first gap that Next has not passed
}

// Map takes ownership of f.
func Map(f *fd.FD) (*Memory, error) {
	var st unix.Stat_t
	err := unix.Fstat(f.Int(), &st)
	if got, sealErr := unix.FcntlInt(uintptr(f.Int()), unix.F_GET_SEALS, 0); err != nil || st.Size != Size || sealErr != nil || got&unix.F_SEAL_SHRINK == 0 {
		f.Close()
		return nil, fmt.Errorf("memory for a branch's gaps has %d bytes, want %d that cannot shrink: %w", st.Size, Size, cmp.Or(err, sealErr, error(unix.EINVAL)))
	}
	base, err := unix.Mmap(f.Int(), 0, Size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("map memory for a branch's gaps: %w", err)
	}
	return &Memory{file: f, base: base}, nil
}

// Close lets the memory go. A second Close, and one of no memory, does nothing.
func (m *Memory) Close() error {
	if m == nil || m.base == nil {
		return nil
	}
	m.file.Close()
	base := m.base
	m.base = nil
	return unix.Munmap(base)
}

// Dup returns a copy of the memory's descriptor, owned by the caller.
func (m *Memory) Dup() (*fd.FD, error) { return m.file.Dup() }

func (m *Memory) word(at uint64) *uint64 { return (*uint64)(unsafe.Pointer(&m.base[at])) }
func (m *Memory) load(at uint64) uint64  { return atomic.LoadUint64(m.word(at)) }
func (m *Memory) store(at, v uint64)     { atomic.StoreUint64(m.word(at), v) }

func at(i uint64) uint64 { return atGaps + i%gapsMost*gapSize }

// Note records that at pos bytes are missing, total of them from the branch's beginning until then. It may be called again with the
// same numbers, and with a larger total as long as nothing behind pos is in the pipe.
func (m *Memory) Note(pos, total uint64) {
	n := m.load(atCount)
	before := uint64(0)
	if n > 0 {
		last := at(n - 1)
		if m.load(last+atPos) == pos {
			m.store(last+atTotal, total)
			return
		}
		before = m.load(last + atTotal)
	}
	m.store(at(n)+atPos, pos)
	m.store(at(n)+atBefore, before)
	m.store(at(n)+atTotal, total)
	m.store(atCount, n+1)
}

// Next says how many of n bytes at pos come before the next gap, and how many bytes are missing right before the first of them. All n
// have come through the pipe. Of no memory, all and none.
func (m *Memory) Next(pos uint64, n int) (size int, missed uint64) {
	if m == nil {
		return n, 0
	}
	missed = m.At(pos)
	for count := m.load(atCount); m.next < count; m.next++ {
		switch gap := m.load(at(m.next) + atPos); {
		case gap <= pos:
		case gap < pos+uint64(n):
			return int(gap - pos), missed
		default:
			return n, missed
		}
	}
	return n, missed
}

// At is how many bytes are missing at pos. Positions that it is asked for, as those of Next, do not go back.
func (m *Memory) At(pos uint64) uint64 {
	if m == nil {
		return 0
	}
	count := m.load(atCount)
	if m.next+gapsMost < count { // of another process, which has passed them
		m.next = count - gapsMost
	}
	for ; m.next < count; m.next++ {
		if gap := m.load(at(m.next) + atPos); gap >= pos {
			if gap == pos {
				return m.load(at(m.next)+atTotal) - m.load(at(m.next)+atBefore)
			}
			break
		}
	}
	return 0
}

// Begin is where the stream of the branch's sink begins.
func (m *Memory) Begin() uint64 { return m.load(atBegin) }

// SetBegin records that sinks have taken what comes before pos.
func (m *Memory) SetBegin(pos uint64) { m.store(atBegin, pos) }
