package screen

import (
	"bytes"
	"testing"
)

const seeds = 3000

// However output is split over writes, the terminal is the same.
func TestSplit(t *testing.T) {
	for seed := range uint64(seeds) {
		g := newGenerator(seed)
		out := g.output(60, true)
		whole, split := New(24, 80), New(24, 80)
		whole.Write(out)
		for rest := out; len(rest) > 0; {
			n := min(len(rest), 1+g.IntN(1<<g.IntN(8)))
			split.Write(rest[:n])
			rest = rest[n:]
		}
		if same(t, "split", split, whole); t.Failed() {
			t.Fatalf("seed %d: %q", seed, out)
		}
	}
}

// A checkpoint goes on exactly, at any place, and twice.
func TestCheckpoint(t *testing.T) {
	for seed := range uint64(seeds) {
		g := newGenerator(seed)
		m := New(1+g.IntN(30), 1+g.IntN(100))
		out := g.output(60, true)
		at := g.IntN(len(out) + 1)
		m.Write(out[:at])
		c := m.AppendCheckpoint(nil)
		if err := check(m); err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
		again, err := Restore(c)
		if err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
		if same(t, "checkpoint", again, m); t.Failed() {
			t.Fatalf("seed %d: %q", seed, out[:at])
		}
		if twice := again.AppendCheckpoint(nil); !bytes.Equal(twice, c) {
			t.Fatalf("seed %d: the checkpoint of the restored one differs", seed)
		}
		m.Write(out[at:])
		again.Write(out[at:])
		if same(t, "after it", again, m); t.Failed() {
			t.Fatalf("seed %d: %q, %q", seed, out[:at], out[at:])
		}
	}
}

// A damaged checkpoint is an error or another terminal, and never worse.
func TestDamagedCheckpoint(t *testing.T) {
	g := newGenerator(1)
	m := New(10, 20)
	m.Write(g.output(100, true))
	c := m.AppendCheckpoint(nil)
	for i := range c {
		b := bytes.Clone(c)
		b[i] ^= byte(1 + g.IntN(255))
		if m, err := Restore(b); err == nil {
			m.Write(g.output(10, true))
		}
		Restore(c[:i])
	}
}

// A redraw makes a fresh terminal the same, at any place, and so it does one that has seen something else.
func TestRedraw(t *testing.T) {
	for seed := range uint64(seeds) {
		g := newGenerator(seed)
		rows, cols := 2+g.IntN(30), 2+g.IntN(100)
		m := New(rows, cols)
		out := g.output(60, true)
		at := g.IntN(len(out) + 1)
		m.Write(out[:at])
		m.last = 0 // no sequence says what REP would repeat
		draw := m.AppendRedraw(nil, true)
		fresh := New(rows, cols)
		fresh.Write(draw)
		fresh.last = 0
		if same(t, "redraw", fresh, m); t.Failed() {
			t.Fatalf("seed %d:\nafter %q\ndrawn %q", seed, out[:at], draw)
		}
		m.kept, fresh.kept = nil, nil
		m.Write(out[at:])
		fresh.Write(out[at:])
		if same(t, afterRedraw, fresh, m); t.Failed() {
			t.Fatalf("seed %d: %q, %q", seed, out[:at], out[at:])
		}
	}
}

func FuzzModel(f *testing.F) {
	for seed := range uint64(20) {
		f.Add(newGenerator(seed).output(30, true), uint8(24), uint8(80))
	}
	f.Fuzz(func(t *testing.T, out []byte, rows, cols uint8) {
		m := New(int(rows), int(cols))
		for i := range 4 {
			m.Write(out[len(out)*i/4 : len(out)*(i+1)/4])
			if err := check(m); err != nil {
				t.Fatal(err)
			}
			if i == 2 {
				m.Resize(int(cols), int(rows))
				if err := check(m); err != nil {
					t.Fatal(err)
				}
			}
		}
		again, err := Restore(m.AppendCheckpoint(nil))
		if err != nil {
			t.Fatal(err)
		}
		same(t, "checkpoint", again, m)
		fresh := New(m.Size())
		fresh.Write(m.AppendRedraw(nil, true))
		if fresh.cols > 1 {
			same(t, "redraw", fresh, m)
		}
	})
}
