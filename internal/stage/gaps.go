package stage

import (
	"sync/atomic"

	"github.com/muxd/muxd/internal/fd"
)

// A source that is a branch's pipe may lack bytes of its stream, which the branch has dropped. Where stands in memory that is
// shared with whoever copies the stream (internal/gaps): a chunk ends where some are missing, and the next one says how many. Positions are
// the branch's, and the source's stream may begin later, behind what the sinks before it have taken: where is written down for
// the source before it reads, and for the next one when this one leaves.

// begin is where in its branch the source begins; -1: that is not written down.
func (s Slot) begin() int64 {
	if atomic.LoadUint64(word(s.head(), atTouched)) == 0 {
		return -1
	}
	return int64(atomic.LoadUint64(word(s.areas(), atBegins))) - 1
}

func (s Slot) setBegin(pos uint64) {
	s.touch()
	atomic.StoreUint64(word(s.areas(), atBegins), pos+1)
}

// position is where in its branch the source is.
func (s *Source) position() uint64 { return uint64(s.slot.begin()) + s.slot.Committed() }

// apart says how many of n bytes that come next are one chunk, and how many are missing before them.
func (s *Source) apart(n int) (size int, missed uint64) {
	if s.gaps == nil {
		return n, 0
	}
	return s.gaps.Next(s.position(), n)
}

// missing is how much is missing where the source is.
func (s *Source) missing() uint64 {
	if s.gaps == nil {
		return 0
	}
	return s.gaps.At(s.position())
}

// leaveGaps leaves behind where the next sink of the branch begins. What is missing there may still grow, and is the next one's to tell.
func (s *Source) leaveGaps() {
	if s.gaps != nil {
		s.gaps.SetBegin(s.position())
		atomic.StoreUint64(word(s.slot.areas(), atLeft), s.position()+1)
	}
}

// left says whether the source was left here, by a predecessor.
func (s *Source) left() bool {
	return s.gaps != nil && atomic.LoadUint64(word(s.slot.areas(), atLeft)) == s.position()+1
}

// DupGaps returns a copy of the memory of what is missing, owned by the caller; nil where the source has none.
func (s *Source) DupGaps() (*fd.FD, error) {
	if s.gaps == nil {
		return nil, nil
	}
	return s.gaps.Dup()
}
