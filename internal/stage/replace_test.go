package stage

import (
	"fmt"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/muxd/muxd/internal/fd"
)

// keeper is a handler that keeps everything.
type keeper struct {
	got  strings.Builder
	done chan error
}

func (k *keeper) Chunk(c *Chunk) error {
	if c.Offset != uint64(k.got.Len()) {
		return fmt.Errorf("a chunk at %d, behind %d bytes", c.Offset, k.got.Len())
	}
	k.got.Write(c.Data)
	return nil
}
func (k *keeper) Eof(uint64)               {}
func (k *keeper) Held(error)               {}
func (k *keeper) Done(_ uint64, err error) { k.done <- err }

// A stream whose far end is replaced goes on with the next one, at its offset; what it has not taken of the one before is left there.
func TestReplace(t *testing.T) {
	e, err := New(Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer e.Close()
	k := &keeper{done: make(chan error, 1)}
	first, in, err := fd.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	rest, err := first.Dup()
	if err != nil {
		t.Fatal(err)
	}
	s, err := e.Add(first, "source", k)
	if err != nil {
		t.Fatal(err)
	}
	var want, left strings.Builder
	for i := range 200 {
		// While the one before is written to: some of this comes through, from its beginning, and the rest is left.
		wrote := make(chan string)
		go func() {
			text := strings.Repeat(fmt.Sprintf("%d\n", i), 3000)
			if _, err := unix.Write(in.Int(), []byte(text)); err != nil {
				t.Error(err)
			}
			wrote <- text
		}()
		next, nextIn, err := fd.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		nextRest, err := next.Dup()
		if err != nil {
			t.Fatal(err)
		}
		if i%2 == 0 {
			text := <-wrote
			err = s.Replace(next)
			want.WriteString(text)
		} else {
			err = s.Replace(next)
			want.WriteString(<-wrote)
		}
		if err != nil {
			t.Fatal(err)
		}
		in.Close()
		b, err := readAll(rest)
		if err != nil {
			t.Fatal(err)
		}
		left.Write(b)
		// What is left has to be the end of what was written.
		if !strings.HasSuffix(want.String(), string(b)) {
			t.Fatalf("%d bytes are left, and are not the end", len(b))
		}
		all := want.String()
		want.Reset()
		want.WriteString(all[:len(all)-len(b)])
		in, rest = nextIn, nextRest
	}
	in.Close()
	rest.Close()
	if err := <-k.done; err != nil {
		t.Fatal(err)
	}
	if k.got.String() != want.String() {
		t.Errorf("%d bytes came, want %d", k.got.Len(), want.Len())
	}
	if err := s.Replace(fd.New(-1)); err == nil {
		t.Error("a stream that has ended was given a far end")
	}
}
