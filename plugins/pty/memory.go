package pty

import (
	"encoding/binary"
	"os"
	"sync/atomic"
	"unsafe"

	"github.com/muxd/muxd/plugins/pty/screen"
)

// A console's memory outlives the process. It is sparse, and what was never touched costs nothing:
//
//	past   a ring of the latest output
//	lines  a ring of the lines that were scrolled off, drawn
//	saves  the two latest checkpoints of the terminal model
//	shown  how far the viewers' terminals have been written to (shown.go)
//	input  what is being typed, and who has typed how much (typists.go)
//
// The model itself is in the process. A successor makes it again from the latest checkpoint and the output since, which is
// in past: nothing leaves past before a checkpoint has seen it. So the model is exact whenever the process is killed,
// without a second copy of it that would have to be kept whole at each step. What the model has scrolled off since the
// checkpoint is scrolled off again, the same bytes to the same places.
type memory struct {
	past, lines ring
	saves       checkpoints
	shown       shownMemory
	input       inputMemory
}

const (
	pastLeast      = 64 << 10 // as much as a piece of output, and as what is shown between two checkpoints
	checkpointMost = 64 << 20 // more than one of the largest screen can have
)

// pages is n, rounded up to whole pages, so that nothing shares one with its neighbour.
func pages(n int) int {
	p := os.Getpagesize()
	return (n + p - 1) / p * p
}

// pastSize and linesSize are the sizes of the two rings.
func pastSize(scrollback int) int  { return pages(ringHeader + max(scrollback, pastLeast)) }
func linesSize(scrollback int) int { return pages(ringHeader + scrollback) }

// memorySize is how much memory a console with so much scrollback needs.
func memorySize(scrollback int) int {
	return pastSize(scrollback) + linesSize(scrollback) + 2*checkpointMost
}

// newMemory divides b, which has memorySize bytes, and is zero or a console's already.
func newMemory(b []byte, scrollback int) memory {
	at := pastSize(scrollback)
	m := memory{past: newRing(b[:ringHeader+max(scrollback, pastLeast)]), lines: newRing(b[at : at+ringHeader+scrollback])}
	at += linesSize(scrollback)
	m.saves = newCheckpoints(b[at:])
	m.shown = shownMemory{b[len(b)-inputSize-shownSize : len(b)-inputSize]}
	m.input = inputMemory{b[len(b)-inputSize:]}
	return m
}

// checkpoints are two places for a checkpoint, of which one counts while the other is written.
type checkpoints struct {
	head  *[2]atomic.Uint64 // which of the areas counts: 1 or 2, 0: none; and the offset behind the last question that was dealt with
	areas [2][]byte
}

// The head of an area: how much output the checkpoint has seen, the end of the lines then, and its length.
const (
	headSize   = 16
	areaHeader = 24
)

func newCheckpoints(b []byte) checkpoints {
	half := len(b) / 2
	return checkpoints{(*[2]atomic.Uint64)(unsafe.Pointer(&b[0])), [2][]byte{b[headSize:half], b[half : len(b)-inputSize-shownSize]}}
}

// dealt is the offset behind the last question of the program that was answered, or passed on to a viewer.
func (s *checkpoints) dealt() *atomic.Uint64 { return &s.head[1] }

// save makes the model's state the latest checkpoint, in one step at its end.
func (s *checkpoints) save(m *screen.Model, offset, lines uint64) {
	next := uint64(1)
	if s.head[0].Load() == 1 {
		next = 2
	}
	area := s.areas[next-1]
	b := m.AppendCheckpoint(area[areaHeader:areaHeader])
	if len(b) > len(area)-areaHeader {
		panic("pty: a checkpoint is longer than checkpointMost")
	}
	binary.NativeEndian.PutUint64(area, offset)
	binary.NativeEndian.PutUint64(area[8:], lines)
	binary.NativeEndian.PutUint64(area[16:], uint64(len(b)))
	s.head[0].Store(next)
}

// load returns the latest checkpoint. ok is false where there is none.
func (s *checkpoints) load() (b []byte, offset, lines uint64, ok bool) {
	which := s.head[0].Load()
	if which != 1 && which != 2 {
		return nil, 0, 0, false
	}
	area := s.areas[which-1]
	n := binary.NativeEndian.Uint64(area[16:])
	if n > uint64(len(area)-areaHeader) {
		return nil, 0, 0, false
	}
	return area[areaHeader : areaHeader+n], binary.NativeEndian.Uint64(area), binary.NativeEndian.Uint64(area[8:]), true
}
