package pty

import (
	"sync/atomic"
	"unsafe"
)

// ringHeader is what a ring needs of its memory beside what it keeps: the offsets of its first byte and behind its last, and
// how many viewers are attached, or were and are on their way back.
const ringHeader = 24

// ring keeps the latest bytes of a stream, and knows their offsets in it. It lives in memory that outlives the process: what
// its two offsets span is whole whenever the process is killed. What is written again by a successor, whose chunk
// comes again, is the same bytes at the same places.
type ring struct {
	head *[3]atomic.Uint64
	buf  []byte
}

// newRing makes a ring of mem, which is zero, or a ring's already: then it goes on.
func newRing(mem []byte) ring {
	return ring{head: (*[3]atomic.Uint64)(unsafe.Pointer(&mem[0])), buf: mem[ringHeader:]}
}

// viewers counts those that are attached, in two kinds: see oneHolding.
func (r *ring) viewers() *atomic.Uint64 { return &r.head[2] }

// start is the offset of the oldest byte that is kept, and end the offset behind the last.
func (r *ring) start() uint64 { return r.head[0].Load() }
func (r *ring) end() uint64   { return r.head[1].Load() }

// write appends p, whose first byte has that offset. What is there already is passed over. Where p does not follow
// what is there, that is forgotten.
func (r *ring) write(offset uint64, p []byte) {
	end := r.end()
	switch to := offset + uint64(len(p)); {
	case to <= end:
		return
	case offset > end:
		r.head[1].Store(offset)
		r.head[0].Store(offset)
	default:
		p = p[end-offset:]
		offset = end
	}
	end = offset + uint64(len(p))
	most := uint64(len(r.buf))
	if end-r.start() > most {
		r.head[0].Store(end - most) // before its bytes are overwritten
	}
	if uint64(len(p)) > most {
		p = p[uint64(len(p))-most:]
	}
	if len(p) > 0 {
		k := copy(r.buf[(end-uint64(len(p)))%most:], p)
		copy(r.buf, p[k:])
	}
	r.head[1].Store(end)
}

// forget drops what lies before offset.
func (r *ring) forget(offset uint64) {
	if offset > r.start() {
		r.head[0].Store(min(offset, r.end()))
	}
}

// at is what is kept from offset on, as far as it lies in one piece. It is the ring's memory, and empty at the end.
// offset must not be below start.
func (r *ring) at(offset uint64) []byte {
	end := r.end()
	if offset >= end {
		return nil
	}
	from := offset % uint64(len(r.buf))
	return r.buf[from:min(from+end-offset, uint64(len(r.buf)))]
}
