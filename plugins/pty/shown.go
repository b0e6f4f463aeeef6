package pty

import (
	"bytes"
	"sync/atomic"
	"unsafe"
)

// shownMemory is, in the console's memory, how far terminals that were handed over have been written to, by the names of their clients'
// inputs: so a client that comes again goes on where its terminal is.
//
//	0       counts up with every terminal that comes
//	64*k    place k, from 1: the count when it was given (0: free), the offset behind what its terminal shows, whether that is being written,
//	        the length of its name, and at 32 its name
//
// consoleSink.mu is for all of it.
type shownMemory struct{ b []byte }

const (
	shownSize   = 4 << 10
	shownPlaces = shownSize/64 - 1
)

func (m shownMemory) at(i int) *atomic.Uint64 { return (*atomic.Uint64)(unsafe.Pointer(&m.b[i])) }

func (m shownMemory) find(name []byte) int {
	for k := 1; k <= shownPlaces && len(name) > 0; k++ {
		if m.at(64*k).Load() != 0 && bytes.Equal(m.b[64*k+32:][:min(m.at(64*k+24).Load(), nameMost)], name) {
			return k
		}
	}
	return 0
}

// place is the place of that name: its own, or that of the terminal that came first. 0: it has no name.
func (m shownMemory) place(name []byte) shownPlace {
	if len(name) == 0 || len(name) > nameMost {
		return shownPlace{}
	}
	k := m.find(name)
	if k == 0 {
		k = 1
		for other := 2; other <= shownPlaces; other++ {
			if m.at(64*other).Load() < m.at(64*k).Load() {
				k = other
			}
		}
		m.at(64 * k).Store(0) // it is nobody's until it is whole
		m.at(64*k + 16).Store(1)
		m.at(64*k + 24).Store(uint64(len(name)))
		copy(m.b[64*k+32:], name)
	}
	m.at(64 * k).Store(m.at(0).Add(1))
	return shownPlace{m, k}
}

// shown is what the terminal of that name shows, where that is known: up to an offset, all of it.
func (m shownMemory) shown(name []byte) (offset uint64, known bool) {
	k := m.find(name)
	if k == 0 || m.at(64*k+16).Load() != 0 {
		return 0, false
	}
	return m.at(64*k + 8).Load(), true
}

// shownPlace is a terminal's place. The zero value notes nothing.
type shownPlace struct {
	m shownMemory
	k int
}

// writing notes that something is about to be written: whoever is killed before done does not know how much of it was.
func (p shownPlace) writing() {
	if p.k > 0 {
		p.m.at(64*p.k + 16).Store(1)
	}
}

// done notes that the terminal shows all up to offset.
func (p shownPlace) done(offset uint64) {
	if p.k > 0 {
		p.m.at(64*p.k + 8).Store(offset)
		p.m.at(64*p.k + 16).Store(0)
	}
}
