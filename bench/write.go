package main

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"unsafe"

	"golang.org/x/sys/unix"
)

// shape is a way in which children write: blocks of lines of one length, some of them or all in a write(2).
type shape struct {
	name  string
	line  int // bytes of a line, with its newline
	lines int // of a block; the first of them has the block's number
	write int // bytes of a write
}

var shapes = []shape{
	{name: "bulk", line: 64 << 10, lines: 1, write: 64 << 10},
	{name: "lines", line: 100, lines: 655, write: 100},
	{name: "blines", line: 100, lines: 655, write: 65500},
}

// stampedBulk is bulk for formats whose records cannot say that their line goes on: its lines are short enough to be a record each.
var stampedBulk = shape{name: "bulk of 4 KiB lines", line: 4 << 10, lines: 16, write: 64 << 10}

func shapeNamed(name string) (shape, error) {
	for _, s := range append(slices.Clone(shapes), stampedBulk) {
		if s.name == name {
			return s, nil
		}
	}
	return shape{}, fmt.Errorf("unknown shape %q", name)
}

func (s shape) size() int { return s.line * s.lines }

// numberWidth is what a block begins with: its number.
const numberWidth = 20

// block makes the template of a block: number sets what differs from block to block.
func (s shape) block() []byte {
	b := make([]byte, 0, s.size())
	for i := range s.lines {
		from := len(b)
		b = fmt.Appendf(b, "%0*d line %d ", numberWidth, 0, i)
		for len(b)-from < s.line-1 {
			b = append(b, 'a'+byte((len(b)-from)%26))
		}
		b = append(b, '\n')
	}
	return b
}

func number(block []byte, n uint64) {
	for i := numberWidth - 1; i >= 0; i-- {
		block[i] = '0' + byte(n%10)
		n /= 10
	}
}

// blocks is how many blocks have about so many bytes.
func (s shape) blocks(about int64) int64 { return max(1, about/int64(s.size())) }

// span is when a child wrote: CLOCK_MONOTONIC, in nanoseconds, before the first write and after the last.
type span struct{ Begin, End int64 }

func monotonic() int64 {
	var ts unix.Timespec
	unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts)
	return ts.Nano()
}

// writeMain is the child: bench write SHAPE BLOCKS SPANFILE. A terminal is made raw first.
func writeMain(args []string) error {
	s, err := shapeNamed(args[0])
	if err != nil {
		return err
	}
	n, err := strconv.ParseInt(args[1], 10, 64)
	if err != nil {
		return err
	}
	if t, err := unix.IoctlGetTermios(1, unix.TCGETS); err == nil {
		t.Oflag &^= unix.OPOST
		t.Lflag &^= unix.ECHO | unix.ICANON
		if err := unix.IoctlSetTermios(1, unix.TCSETS, t); err != nil {
			return err
		}
	}
	b := s.block()
	var at span
	at.Begin = monotonic()
	for i := range n {
		number(b, uint64(i))
		for rest := b; len(rest) > 0; {
			// Go's scheduler need not know of it: the child has nothing else to do, and is to be as quick as one in C.
			w, _, errno := unix.RawSyscall(unix.SYS_WRITE, 1, uintptr(unsafe.Pointer(&rest[0])), uintptr(min(s.write, len(rest))))
			if errno == unix.EINTR {
				continue
			}
			if errno != 0 {
				return fmt.Errorf("write: %w", errno)
			}
			rest = rest[w:]
		}
	}
	at.End = monotonic()
	var buf bytes.Buffer
	if err := binary.Write(&buf, binary.NativeEndian, at); err != nil {
		return err
	}
	return os.WriteFile(args[2], buf.Bytes(), 0o600)
}

// readSpan is what writeMain left.
func readSpan(path string) (span, error) {
	var at span
	b, err := os.ReadFile(path)
	if err != nil {
		return at, err
	}
	return at, binary.Read(bytes.NewReader(b), binary.NativeEndian, &at)
}

// expect compares what r gives with what a child of that shape wrote.
func (s shape) expect(r io.Reader, blocks int64) error {
	want := s.block()
	got := make([]byte, len(want))
	for i := range blocks {
		if _, err := io.ReadFull(r, got); err != nil {
			return fmt.Errorf("block %d of %d: %w", i, blocks, err)
		}
		if number(want, uint64(i)); !bytes.Equal(got, want) {
			return fmt.Errorf("block %d of %d differs", i, blocks)
		}
	}
	if n, err := r.Read(got); n > 0 || err != io.EOF {
		return fmt.Errorf("more than %d blocks", blocks)
	}
	return nil
}
