package pty

// ringFirst is what a ring allocates when its first byte comes.
const ringFirst = 4 << 10

// ring keeps the latest bytes of a stream, and knows their offsets in it. It allocates nothing before the first byte,
// doubles up to most, and from then on allocates nothing.
type ring struct {
	most int
	buf  []byte
	n    int    // how much of buf is filled
	w    int    // where in buf the next byte goes
	end  uint64 // the offset behind the last byte
}

// start is the offset of the oldest byte that is kept.
func (r *ring) start() uint64 { return r.end - uint64(r.n) }

// write appends p, whose first byte has that offset. Where it does not follow what is there, that is forgotten.
func (r *ring) write(offset uint64, p []byte) {
	if offset != r.end {
		r.n, r.w, r.end = 0, 0, offset
	}
	r.end += uint64(len(p))
	if len(p) >= r.most {
		p = p[len(p)-r.most:]
		r.n, r.w = 0, 0
	}
	if len(p) == 0 {
		return
	}
	r.grow(r.n + len(p))
	r.n = min(r.n+len(p), len(r.buf))
	k := copy(r.buf[r.w:], p)
	copy(r.buf, p[k:])
	r.w = (r.w + len(p)) % len(r.buf)
}

// grow makes buf long enough for n bytes, as far as most allows.
func (r *ring) grow(n int) {
	size := max(len(r.buf), min(ringFirst, r.most))
	for size < n && size < r.most {
		size = min(2*size, r.most)
	}
	if size == len(r.buf) {
		return
	}
	buf := make([]byte, size)
	for k := 0; k < r.n; {
		k += copy(buf[k:], r.segment(k))
	}
	r.buf, r.w = buf, r.n%size
}

// segment is what lies in one piece behind the first k bytes that are kept.
func (r *ring) segment(k int) []byte {
	if k >= r.n {
		return nil
	}
	from := (r.w - r.n + k + len(r.buf)) % len(r.buf)
	return r.buf[from:min(from+r.n-k, len(r.buf))]
}

// at is what is kept from offset on, as far as it lies in one piece. It is the ring's memory, and empty at the end.
// offset must not be below start.
func (r *ring) at(offset uint64) []byte {
	return r.segment(int(min(offset-r.start(), uint64(r.n))))
}
