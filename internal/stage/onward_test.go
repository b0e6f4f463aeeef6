package stage

import (
	"errors"
	"io"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/muxd/muxd/internal/fd"
)

// counter is a handler that puts out everything at once, and says when.
type counter struct {
	put  chan uint64 // the end of each chunk
	done chan error
}

func (c *counter) Chunk(k *Chunk) error {
	if !k.Last {
		c.put <- k.Offset + uint64(len(k.Data))
	}
	return nil
}
func (c *counter) Eof(uint64)               {}
func (c *counter) Held(error)               {}
func (c *counter) Done(_ uint64, err error) { c.done <- err }

// branched is an engine's source with a branch, and all their ends.
type branched struct {
	s      *Source
	h      *counter
	in     *fd.FD // the source's write end
	out    *fd.FD // the branch's read end
	engine *Engine
}

func newBranched(t *testing.T) *branched {
	t.Helper()
	e, err := New(Options{})
	if err != nil {
		t.Fatal(err)
	}
	b := &branched{h: &counter{make(chan uint64, 1000), make(chan error, 1)}, engine: e}
	r, w, err := fd.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	out, to, err := fd.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	b.in, b.out = w, out
	if b.s, err = e.AddInto(r, "source", b.h, []Branch{{Key: "log", To: to}}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		b.in.Close()
		b.out.Close()
		e.Close()
	})
	return b
}

// readAll reads a pipe to its end, and closes it.
func readAll(r *fd.FD) ([]byte, error) {
	f := r.File("branch")
	defer f.Close()
	return io.ReadAll(f)
}

// write writes all of text, as much as it takes the stream to take it.
func (b *branched) write(t *testing.T, text string) {
	t.Helper()
	for len(text) > 0 {
		n, err := unix.Write(b.in.Int(), []byte(text))
		if err != nil {
			t.Fatal(err)
		}
		text = text[n:]
	}
}

// A stream waits while its branch is full, and goes on when that has room, without losing or doubling anything.
func TestAFullBranchHoldsUpItsStream(t *testing.T) {
	b := newBranched(t)
	input := strings.Repeat("0123456789abcde\n", 400<<10) // more than all pipes together
	go func() {
		b.write(t, input)
		b.in.Close()
	}()
	got, err := readAll(b.out)
	if err != nil || string(got) != input {
		t.Errorf("%d bytes came through of %d, %v", len(got), len(input), err)
	}
	if err := <-b.h.done; err != nil {
		t.Error(err)
	}
}

// fill writes until the branch is full: a chunk is in hand that it has not taken.
func (b *branched) fill(t *testing.T) {
	t.Helper()
	if err := unix.SetNonblock(b.in.Int(), true); err != nil {
		t.Fatal(err)
	}
	piece := []byte(strings.Repeat("x", 4096))
	for !b.full(t) {
		if _, err := unix.Write(b.in.Int(), piece); err != nil && !errors.Is(err, unix.EAGAIN) {
			t.Fatal(err)
		}
	}
}

// full says whether the branch is as large as it gets, and full, while there is more for it in the stage.
func (b *branched) full(t *testing.T) bool {
	t.Helper()
	o := b.s.onward()
	o.mu.Lock()
	grown := o.grown
	o.mu.Unlock()
	held, err := pending(b.out.Int())
	if err != nil {
		t.Fatal(err)
	}
	staged, err := b.engine.all[0].staged()
	if err != nil {
		t.Fatal(err)
	}
	return grown && held == capacity(b.out.Int()) && staged > 0
}

func TestRemovingAFullBranchLetsTheStreamGoOn(t *testing.T) {
	b := newBranched(t)
	b.fill(t)
	gone, err := b.s.RemoveBranch("log", false)
	if err != nil {
		t.Fatal(err)
	}
	select {
	case <-gone:
		t.Error("the branch was closed before it had what was in hand")
	default:
	}
	if gone, err = b.s.RemoveBranch("log", true); err != nil {
		t.Fatal(err)
	}
	<-gone
	b.in.Close()
	if err := <-b.h.done; err != nil {
		t.Error(err)
	}
}

func TestABranchThatNobodyReadsIsLeftOut(t *testing.T) {
	b := newBranched(t)
	b.fill(t)
	b.out.Close()
	b.out = nil
	b.in.Close()
	if err := <-b.h.done; err != nil {
		t.Error(err)
	}
	if left := b.s.DupBranches(); len(left) != 0 {
		t.Errorf("the branches %v are left", left)
	}
}

func TestAFullBranchIsGivenUpWithItsStream(t *testing.T) {
	b := newBranched(t)
	b.fill(t)
	b.s.GiveUp()
	err := <-b.h.done
	if err == nil || !strings.Contains(err.Error(), "its branch did not get") {
		t.Errorf("the stream ended with %v", err)
	}
}

// A branch that is added later gets the stream from one byte on to the end, and one at a time can be there.
func TestABranchGetsTheStreamFromThenOn(t *testing.T) {
	b := newBranched(t)
	b.write(t, "first")
	<-b.h.put
	gone, err := b.s.RemoveBranch("log", false)
	if err != nil {
		t.Fatal(err)
	}
	<-gone
	b.write(t, "second")
	for at := uint64(0); at < uint64(len("firstsecond")); at = <-b.h.put {
	}
	// The chunk in hand may still be on its way out when it is put: let the branch come behind it.
	for b.s.Committed() < uint64(len("firstsecond")) {
		time.Sleep(time.Millisecond) // polling for a condition that is sure to come
	}
	out, to, err := fd.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := b.s.AddBranch(Branch{Key: "next", To: to}); err != nil {
		t.Fatal(err)
	}
	_, other, err := fd.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := b.s.AddBranch(Branch{Key: "third", To: other}); err == nil {
		t.Error("a second branch was taken")
	}
	b.write(t, "third")
	b.in.Close()
	if err := <-b.h.done; err != nil {
		t.Error(err)
	}
	for want, f := range map[string]*fd.FD{"first": b.out, "third": out} {
		got, err := readAll(f)
		if err != nil || string(got) != want {
			t.Errorf("got %q, %v, want %q", got, err, want)
		}
	}
}
