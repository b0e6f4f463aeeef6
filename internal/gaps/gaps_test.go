package gaps

import (
	"bytes"
	"encoding/binary"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/muxd/muxd/internal/fd"
	"github.com/muxd/muxd/internal/golden"
)

func newMemory(t *testing.T) (*fd.FD, *Memory) {
	t.Helper()
	f, err := New()
	if err != nil {
		t.Fatal(err)
	}
	d, err := f.Dup()
	if err != nil {
		t.Fatal(err)
	}
	m, err := Map(d)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { m.Close(); f.Close() })
	return f, m
}

// What is put in at one side, again and again as a process that was killed over it would, comes out at the other where it belongs.
func TestGapsComeWhereTheyAre(t *testing.T) {
	f, w := newMemory(t)
	d, _ := f.Dup()
	r, err := Map(d)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	type piece struct {
		size   int
		missed uint64
	}
	read := func(pos uint64, n int) (out []piece) {
		for n > 0 {
			size, missed := r.Next(pos, n)
			out = append(out, piece{size, missed})
			pos, n = pos+uint64(size), n-size
		}
		return out
	}
	same := func(got, want []piece) {
		t.Helper()
		if len(got) != len(want) {
			t.Fatalf("pieces %v, want %v", got, want)
		}
		for i := range got {
			if got[i] != want[i] {
				t.Fatalf("pieces %v, want %v", got, want)
			}
		}
	}
	same(read(0, 100), []piece{{100, 0}})
	w.Note(100, 7)
	w.Note(100, 7)
	w.Note(100, 10)
	same(read(100, 20), []piece{{20, 10}})
	w.Note(125, 11)
	w.Note(130, 31)
	same(read(120, 20), []piece{{5, 0}, {5, 1}, {10, 20}})
	w.Note(140, 32)
	if n := r.At(140); n != 1 {
		t.Errorf("%d bytes are missing at the end, want 1", n)
	}
	// A successor of either side finds the same.
	d, _ = f.Dup()
	again, err := Map(d)
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	r = again
	same(read(120, 20), []piece{{5, 0}, {5, 1}, {10, 20}})
	pos, total := uint64(140), uint64(32)
	for range 3 * gapsMost {
		pos, total = pos+1, total+2
		again.Note(pos, total)
		if size, missed := w.Next(pos, 1); size != 1 || missed != 2 {
			t.Fatalf("at %d a piece of %d and %d missing, want 1 and 2", pos, size, missed)
		}
	}
}

// Neither side can take from the other what it has mapped, and nobody maps what could be taken.
func TestGapsKeepTheirSize(t *testing.T) {
	f, m := newMemory(t)
	if err := unix.Ftruncate(f.Int(), 0); err != unix.EPERM {
		t.Errorf("the memory is shrunk: %v, want EPERM", err)
	}
	m.SetBegin(5)
	if n := m.Begin(); n != 5 {
		t.Errorf("the sink's stream begins at %d, want 5", n)
	}
	n, err := unix.MemfdCreate("bare", unix.MFD_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.Ftruncate(n, Size); err != nil {
		t.Fatal(err)
	}
	if _, err := Map(fd.New(n)); err == nil {
		t.Error("memory that can shrink is mapped")
	}
}

// The memory looks as PROTOCOL.md shows it.
func TestGolden(t *testing.T) {
	if binary.NativeEndian.Uint16([]byte{1, 0}) != 1 {
		t.Skip("the golden bytes are those of a little-endian machine")
	}
	_, m := newMemory(t)
	m.Note(100, 7)
	m.Note(110, 8)
	m.SetBegin(10)
	got := append(bytes.Clone(m.base[:16]), m.base[atGaps:atGaps+2*gapSize]...)
	if want := golden.Files(t)["two"]; !bytes.Equal(got, want) {
		t.Errorf("the memory has %x, want %x", got, want)
	}
}
