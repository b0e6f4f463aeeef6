package sinktest

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"time"
)

var (
	past  = time.Unix(1, 0)
	never time.Time
)

// traffic is what children write: the same bytes every time, so that what comes out can be compared without keeping it.
type traffic interface{ io.Reader }

// lines is numbered lines of 14 to 113 bytes without an end: what is missing or doubled shows in the numbers.
type lines struct {
	n    int
	rest []byte
}

var filler = bytes.Repeat([]byte("the quick brown fox jumps over the lazy dog "), 3)

// line is line number n, from 1.
func line(n int) []byte { return fmt.Appendf(nil, "%012d %s\n", n, filler[:n*37%100]) }

// someLines is the lines from one number to another.
func someLines(from, to int) io.Reader {
	var b []byte
	for n := from; n <= to; n++ {
		b = append(b, line(n)...)
	}
	return bytes.NewReader(b)
}

func (l *lines) Read(b []byte) (int, error) {
	if len(l.rest) == 0 {
		l.n++
		l.rest = line(l.n)
	}
	n := copy(b, l.rest)
	l.rest = l.rest[n:]
	return n, nil
}

// noise is binary without an end: every byte value, zeros, newlines and no text, by a linear congruential generator.
type noise struct{ state uint64 }

func (r *noise) Read(b []byte) (int, error) {
	for i := range b {
		r.state = r.state*6364136223846793005 + 1442695040888963407
		b[i] = byte(r.state >> 56)
	}
	return len(b), nil
}

// first is the first n bytes of t.
func first(t traffic, n int64) io.Reader { return io.LimitReader(t, n) }

// pieces cuts a reader into writes.
type pieces struct {
	r    *bufio.Reader
	size int
	buf  []byte
}

func newPieces(r io.Reader, size int) *pieces {
	return &pieces{bufio.NewReaderSize(r, 256<<10), size, make([]byte, size)}
}

// next returns the next piece, valid until the next call, and io.EOF with or behind the last one.
func (p *pieces) next() ([]byte, error) {
	if p.size == 0 {
		return p.r.ReadBytes('\n')
	}
	n, err := io.ReadFull(p.r, p.buf)
	if errors.Is(err, io.ErrUnexpectedEOF) {
		err = io.EOF
	}
	return p.buf[:n], err
}

// compare says how what came differs from what was written.
func compare(came, want io.Reader) error {
	a, b := bufio.NewReaderSize(came, 256<<10), bufio.NewReaderSize(want, 256<<10)
	bufA, bufB := make([]byte, 64<<10), make([]byte, 64<<10)
	at := int64(0)
	for {
		n, errA := io.ReadFull(a, bufA)
		m, errB := io.ReadFull(b, bufB)
		for _, err := range []error{errA, errB} {
			if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
				return err
			}
		}
		common := min(n, m)
		if !bytes.Equal(bufA[:common], bufB[:common]) {
			i := 0
			for bufA[i] == bufB[i] {
				i++
			}
			return fmt.Errorf("what came out differs from what was written at byte %d: %q came, %q was written",
				at+int64(i), bufA[i:min(n, i+24)], bufB[i:min(m, i+24)])
		}
		at += int64(common)
		switch {
		case n < m:
			left, _ := io.Copy(io.Discard, b)
			return fmt.Errorf("only the first %d of %d bytes came out", at, at+int64(m-n)+left)
		case n > m:
			more, _ := io.Copy(io.Discard, a)
			return fmt.Errorf("%d bytes came out behind the %d that were written: %q", int64(n-m)+more, at, bufA[m:min(n, m+24)])
		case n < len(bufA):
			return nil
		}
	}
}

// discard takes the first n bytes of t.
func discard(t traffic, n int64) { io.CopyN(io.Discard, t, n) }
