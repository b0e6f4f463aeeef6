package stage

import (
	"bytes"
	"math/rand/v2"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/muxd/muxd/internal/fd"
)

// Pieces of any length go through a file that is larger than all queues and no multiple of a page, around its end and from wherever the
// reader stops and goes on. None is lost, since it never has more than the file holds.
func TestFanSpillsPiecesOfAnyLength(t *testing.T) {
	f, err := NewFan(Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	src, in, err := fd.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	out, to, err := fd.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	const size = SpillLeast + 12345
	n, err := unix.Open(t.TempDir(), unix.O_TMPFILE|unix.O_RDWR|unix.O_CLOEXEC, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.Ftruncate(n, size); err != nil {
		t.Fatal(err)
	}
	end := &fanEnd{done: make(chan error, 1)}
	s, err := f.Add(src, "source", []Branch{{Key: "spills", Policy: Spill, To: to, File: fd.New(n), Size: size}}, end)
	if err != nil {
		t.Fatal(err)
	}
	random := rand.New(rand.NewPCG(7, 7))
	var want, got []byte
	read := func(most int) {
		b := make([]byte, most)
		k, err := unix.Read(out.Int(), b)
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, b[:k]...)
	}
	for range 300 {
		piece := make([]byte, 1+random.IntN(9000))
		for i := range piece {
			piece[i] = byte(random.Uint32())
		}
		if _, err := unix.Write(in.Int(), piece); err != nil {
			t.Fatal(err)
		}
		want = append(want, piece...)
		for random.IntN(3) == 0 && len(got) < len(want) {
			read(1 + random.IntN(15000))
		}
		for len(want)-len(got) > size/2 {
			read(1 + random.IntN(15000))
		}
	}
	in.Close()
	for len(got) < len(want) {
		read(10000)
	}
	if err := <-end.done; err != nil {
		t.Error(err)
	}
	if !bytes.Equal(got, want) || end.dropped > 0 {
		t.Errorf("%d bytes came through of %d, or not the same, and %d were dropped", len(got), len(want), end.dropped)
	}
	s.Forget()
}

// fanEnd is told of a source's end.
type fanEnd struct {
	done    chan error
	dropped uint64
}

func (e *fanEnd) Eof(uint64)                 {}
func (e *fanEnd) Dropped(_ string, n uint64) { e.dropped = n }
func (e *fanEnd) Done(_ uint64, err error)   { e.done <- err }
