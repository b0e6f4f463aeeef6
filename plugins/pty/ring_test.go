package pty

import (
	"bytes"
	"math"
	"math/rand/v2"
	"strings"
	"testing"
)

func (r *ring) text() string {
	var b []byte
	for off := r.start(); off < r.end(); {
		p := r.at(off)
		b = append(b, p...)
		off += uint64(len(p))
	}
	return string(b)
}

// The ring is compared with a slice that keeps everything.
func TestRingModel(t *testing.T) {
	for seed := range uint64(200) {
		rnd := rand.New(rand.NewPCG(seed, 1))
		r := newRing(make([]byte, ringHeader+rnd.IntN(20000)))
		var all []byte
		for range 60 {
			p := make([]byte, rnd.IntN(1<<rnd.IntN(15)))
			for i := range p {
				p[i] = byte(rnd.Uint32())
			}
			r.write(uint64(len(all)), p)
			all = append(all, p...)
			want := all[len(all)-min(len(all), len(r.buf)):]
			if r.end() != uint64(len(all)) || !bytes.Equal([]byte(r.text()), want) {
				t.Fatalf("seed %d: %d bytes up to %d are kept, want %d up to %d", seed, r.end()-r.start(), r.end(), len(want), len(all))
			}
		}
	}
}

func TestRingGap(t *testing.T) {
	r := newRing(make([]byte, ringHeader+100))
	r.write(0, []byte("before"))
	r.write(50, []byte("after"))
	if r.start() != 50 || r.text() != "after" {
		t.Errorf("%q from %d, want what follows the gap", r.text(), r.start())
	}
}

// A successor finds what was there, and passes over what comes again.
func TestRingAgain(t *testing.T) {
	mem := make([]byte, ringHeader+8)
	r := newRing(mem)
	r.write(0, []byte("0123456789"))
	r = newRing(mem)
	r.write(4, []byte("456789"))
	r.write(8, []byte("89ab"))
	if r.start() != 4 || r.text() != "456789ab" {
		t.Errorf("%q from %d", r.text(), r.start())
	}
}

func TestRingAllocations(t *testing.T) {
	r := newRing(make([]byte, ringHeader+64<<10))
	p := make([]byte, 5000)
	for range 20 {
		r.write(r.end(), p)
	}
	if n := testing.AllocsPerRun(100, func() { r.write(r.end(), p) }); n != 0 {
		t.Errorf("%v allocations a write", n)
	}
}

func TestReplay(t *testing.T) {
	fill := strings.Repeat("x", 20)
	for _, c := range []struct {
		name, past string
		most       int
		replay     string
		want       string
	}{
		{"from the beginning", "\x9fabc\n$ ", 100, "all", "\x9fabc\n$ "},
		{"nothing asked for", "abc\n", 100, "", "abc\n"},
		{"behind a newline", fill + "cut off\nwhole\n$ ", 12, "screen", "whole\n$ "},
		{"behind a return", fill + "cut off\r50%", 8, "all", "50%"},
		{"at an escape", fill + "\x1b[31mred\x1b[mplain\nx", 16, "all", "\x1b[mplain\nx"},
		{"inside of a sequence", fill + "\x1b[38;5;17mblue\nend", 14, "all", "end"},
		{"inside of a character", fill + "\u20acuro", 5, "all", "uro"},
		{"only continuations", fill + "\x80\x80\x80\x80\x80", 5, "all", "\x80\x80"},
		{"none", "abc\n", 100, "none", ""},
		{"no lines", "abc\n", 100, "lines=0", ""},
		{"one line", "a\nb\nc\n", 100, "lines=1", "c\n"},
		{"an unfinished line", "a\nb\nc", 100, "lines=2", "b\nc"},
		{"more lines than there are", "a\nb\n", 100, "lines=9", "a\nb\n"},
		{"more lines than are kept", fill + "b\nc\n", 6, "lines=5", "c\n"},
		{"empty lines", "a\n\n\n", 100, "lines=2", "\n\n"},
		{"from an offset", "abcdef", 100, "from=2", "cdef"},
		{"from the end", "abcdef", 100, "from=6", ""},
		{"from what is gone", fill + "b\nc\n", 6, "from=3", "c\n"},
		{"from what is to come", "a\nb", 100, "from=30", "a\nb"},
		{"empty", "", 100, "all", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := newRing(make([]byte, ringHeader+c.most))
			r.write(0, []byte(c.past))
			want, err := parseReplay(c.replay)
			if err != nil {
				t.Fatal(err)
			}
			off, _ := r.begin(want)
			if got := c.past[off:]; got != c.want {
				t.Errorf("begins with %q, want %q", got, c.want)
			}
		})
	}
}

func TestReplayOfOneLongLine(t *testing.T) {
	r := newRing(make([]byte, ringHeader+64<<10))
	r.write(0, append(bytes.Repeat([]byte("y"), 100<<10), '\n'))
	if off, _ := r.begin(replay{lines: math.MaxInt}); off != r.start() {
		t.Errorf("%d bytes of a long line are not shown", off-r.start())
	}
}

func TestParseReplayRefuses(t *testing.T) {
	for _, s := range []string{"lines", "lines=", "lines=-1", "lines=x", "from=-1", "from", "everything", "all=1"} {
		if _, err := parseReplay(s); err == nil {
			t.Errorf("%q was taken", s)
		}
	}
}
