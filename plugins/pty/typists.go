package pty

import (
	"bytes"
	"sync/atomic"
	"unsafe"
)

// inputMemory is what a successor must know of what is typed, in the console's memory:
//
//	0       word: the phase in its lowest two bits, then whether the piece ends an input, then the number of its typist, from 8 on;
//	        from 32 on its length
//	8       the offset of the piece in its typist's input
//	16      how much of a piece that is dropped was typed
//	24      the last byte that was typed, plus 1; 0: there was none
//	32      counts up with every typist's piece
//	64*k    typist k, from 1: the count at its latest piece (0: free), how far its input has been typed, whether that has ended, the
//	        length of its name, and at 32 its name
//
// What a typist has typed before is known by its name: the client of a viewer whose connection broke types again, on the next one, what was
// not acknowledged.
type inputMemory struct{ b []byte }

const (
	inputSize = 8 << 10
	nameMost  = 32 // bytes of a typist's name
	typists   = inputSize/64 - 1
)

// Phases of a piece.
const (
	phaseNone = iota
	phaseFilling
	phaseTyping
	phaseDropping

	phaseBits = 3
	bitEnds   = 1 << 2
)

func (m inputMemory) at(i int) *atomic.Uint64 { return (*atomic.Uint64)(unsafe.Pointer(&m.b[i])) }

func (m inputMemory) phase() uint64  { return m.at(0).Load() & phaseBits }
func (m inputMemory) length() int    { return int(m.at(0).Load() >> 32) }
func (m inputMemory) moved() int     { return int(m.at(16).Load()) }
func (m inputMemory) setMoved(n int) { m.at(16).Store(uint64(n)) }
func (m inputMemory) clear()         { m.at(0).Store(phaseNone) }

func (m inputMemory) setPhase(p uint64) { m.at(0).Store(m.at(0).Load()&^phaseBits | p) }

// last is the byte that was typed last, where there is one.
func (m inputMemory) last() (b byte, any bool) {
	v := m.at(24).Load()
	return byte(v - 1), v > 0
}

// record says that a piece of typist k, 0 for none, is about to be put into the stage.
func (m inputMemory) record(piece []byte, k int, offset uint64, ends bool) {
	m.at(8).Store(offset)
	m.at(24).Store(uint64(piece[len(piece)-1]) + 1)
	word := uint64(len(piece))<<32 | uint64(k)<<8 | phaseFilling
	if ends {
		word |= bitEnds
	}
	m.at(0).Store(word)
}

// commit counts n bytes of the piece in hand as its typist's, and ends it. It may be done again.
func (m inputMemory) commit(n int, step func(string)) {
	word := m.at(0).Load()
	if k := int(word>>8) & 0xffff; k > 0 && k <= typists {
		ended := uint64(0)
		if word&bitEnds != 0 {
			ended = 1
		} else {
			m.at(64*k + 8).Store(m.at(8).Load() + uint64(n))
		}
		m.at(64*k + 16).Store(ended)
	}
	step("counted as typed")
	m.clear()
	step("end")
}

// find returns the typist of that name, 0 where there is none.
func (m inputMemory) find(name []byte) int {
	for k := 1; k <= typists && len(name) > 0; k++ {
		if m.at(64*k).Load() != 0 && bytes.Equal(m.name(k), name) {
			return k
		}
	}
	return 0
}

func (m inputMemory) name(k int) []byte {
	return m.b[64*k+32:][:min(m.at(64*k+24).Load(), nameMost)]
}

// claim finds the typist of that name, or gives it the place of the one that has not typed for longest. 0: it has no name.
func (m inputMemory) claim(name []byte, offset uint64) int {
	if len(name) == 0 || len(name) > nameMost {
		return 0
	}
	count := m.at(32).Add(1)
	k := m.find(name)
	if k == 0 {
		k = 1
		for other := 2; other <= typists; other++ {
			if m.at(64*other).Load() < m.at(64*k).Load() {
				k = other
			}
		}
		m.at(64 * k).Store(0) // it is nobody's until it is whole
		m.at(64*k + 8).Store(offset)
		m.at(64*k + 16).Store(0)
		m.at(64*k + 24).Store(uint64(len(name)))
		copy(m.b[64*k+32:], name)
	}
	m.at(64 * k).Store(count)
	return k
}

// typed tells how far the input of typist k has been typed, and whether it has ended.
func (m inputMemory) typed(k int) (offset uint64, ended bool) {
	return m.at(64*k + 8).Load(), m.at(64*k+16).Load() != 0
}
