package sink

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"testing"
)

// memorySlot is a stream's slot in the memory of a test. What is set takes effect as in a stage.Slot.
type memorySlot struct{ intended, current, next []byte }

func (s *memorySlot) intent() []byte     { return s.intended }
func (s *memorySlot) setIntent(b []byte) { s.intended = bytes.Clone(b) }
func (s *memorySlot) state() []byte      { return s.current }
func (s *memorySlot) setState(b []byte)  { s.next = bytes.Clone(b) }

// commit ends a chunk.
func (s *memorySlot) commit() { s.current, s.intended = s.next, nil }

// got is what a test has seen of a Line.
type got struct {
	Offset  uint64
	Text    string
	Partial bool
}

func seen(l Line) got { return got{l.Offset, string(l.Text), l.Partial} }

// reference are the lines of a whole text.
func reference(text string, most int) []got {
	var out []got
	var at uint64
	for line := range strings.Lines(text) {
		body, ended := strings.CutSuffix(line, "\n")
		start := at
		for len(body) > most {
			out = append(out, got{start, body[:most], true})
			body, start = body[most:], start+uint64(most)
		}
		if ended || body != "" {
			out = append(out, got{start, body, !ended})
		}
		at += uint64(len(line))
	}
	return out
}

// Whatever the chunks, and whatever process is killed over them, each line comes once to a sink that says Done after each,
// but for the one over which it was killed, which comes Again.
func TestLines(t *testing.T) {
	for seed := range uint64(3000) {
		r := rand.New(rand.NewPCG(seed, 0))
		text := make([]byte, r.IntN(60))
		for i := range text {
			text[i] = "ab\n"[r.IntN(3)]
		}
		most := 1 + r.IntN(8)
		slot := &memorySlot{}
		var out []got
		inDoubt := -1
		write := func(c *Chunk) (killed bool) {
			for l := range c.Lines(most) {
				if l.Again != c.Again {
					t.Fatalf("seed %d: of a chunk with again %v a line with %v", seed, c.Again, l.Again)
				}
				switch n := slices.Index(out, seen(l)); {
				case n >= 0 && n != inDoubt:
					t.Fatalf("seed %d: %+v came twice", seed, seen(l))
				case n < 0:
					out = append(out, seen(l))
				}
				inDoubt = -1
				if r.IntN(6) == 0 { // it is put out, and nobody knows
					inDoubt = len(out) - 1
					return true
				}
				l.Done()
				if r.IntN(6) == 0 {
					return true
				}
			}
			return false
		}
		put := func(c Chunk) {
			c.slot = slot
			for write(&c) {
				c.Again = true
			}
			slot.commit()
		}
		for at := 0; at < len(text); {
			n := 1 + r.IntN(len(text)-at)
			put(Chunk{Offset: uint64(at), Data: text[at : at+n]})
			if len(slot.current) > most {
				t.Fatalf("seed %d: %d bytes are kept of a line, with lines of %d", seed, len(slot.current), most)
			}
			at += n
		}
		put(Chunk{Offset: uint64(len(text)), Last: true})
		if want := reference(string(text), most); !slices.Equal(out, want) {
			t.Fatalf("seed %d: %q in lines of %d:\n%+v, want\n%+v", seed, text, most, out, want)
		}
	}
}

// A sink that never says Done gets all lines of the chunk again, with the same offsets.
func TestLinesWithoutDone(t *testing.T) {
	slot := &memorySlot{current: []byte("be")}
	c := &Chunk{Offset: 2, Data: []byte("gun\nand\nnot"), slot: slot}
	lines := func() (out []got) {
		for l := range c.Lines(10) {
			if l.Again != c.Again {
				t.Errorf("%+v: again %v, want %v", seen(l), l.Again, c.Again)
			}
			out = append(out, seen(l))
		}
		return out
	}
	want := []got{{0, "begun", false}, {6, "and", false}}
	if out := lines(); !reflect.DeepEqual(out, want) {
		t.Errorf("%+v, want %+v", out, want)
	}
	c.Again = true
	if out := lines(); !reflect.DeepEqual(out, want) {
		t.Errorf("again: %+v, want %+v", out, want)
	}
	if slot.commit(); string(slot.current) != "not" {
		t.Errorf("kept %q", slot.current)
	}
}

func TestLinesBounds(t *testing.T) {
	for _, most := range []int{-1, 0, StateMost + 1} {
		func() {
			defer func() {
				if r := fmt.Sprint(recover()); !strings.Contains(r, fmt.Sprint(most)) {
					t.Errorf("lines of %d: %s", most, r)
				}
			}()
			(&Chunk{slot: &memorySlot{}}).Lines(most)
		}()
	}
}
