package pty

import (
	"bytes"
	"reflect"
	"strings"
	"testing"

	"github.com/muxd/muxd/sink"
)

// ended is a console that has shown out and has ended.
func ended(t *testing.T, scrollback int, out string) *harness {
	t.Helper()
	h := newHarness(t, scrollback)
	h.tty.Close()
	h.status, h.known = 7<<8, true
	for at := 0; at < len(out); at += 5000 {
		p := out[at:min(at+5000, len(out))]
		if err := h.c.Write(h.ctx, &sink.Chunk{Stream: sink.Console, Offset: uint64(at), Data: []byte(p)}); err != nil {
			t.Fatal(err)
		}
	}
	if err := h.c.Write(h.ctx, &sink.Chunk{Stream: sink.Console, Offset: uint64(len(out)), Last: true}); err != nil {
		t.Fatal(err)
	}
	return h
}

// What a console leaves is the same screen, output, lines and status, however much there was.
func TestRemains(t *testing.T) {
	for _, c := range []struct {
		name       string
		scrollback int
		out        string
	}{
		{"nothing", 64 << 10, ""},
		{"a line", 64 << 10, "\x1b]2;title\x07one \x1b[31mred\x1b[m\r\n"},
		{"an editor", 64 << 10, "before\r\n\x1b[?1049h\x1b[?1006;1002h\x1b[5;9Hinside\x1b[2 q"},
		{"no scrollback", 0, strings.Repeat("line\r\n", 20000)},
		{"more than is kept", 64 << 10, strings.Repeat("a longer line\r\n", 20000)},
		{"more than is left", 8 << 20, strings.Repeat("a line in a long scrollback\r\n", 100000)},
	} {
		t.Run(c.name, func(t *testing.T) {
			h := ended(t, c.scrollback, c.out)
			want, err := h.c.Screen()
			if err != nil {
				t.Fatal(err)
			}
			b := h.c.Remains()
			if len(b) > sink.RemainsMost {
				t.Fatalf("%d bytes are left", len(b))
			}
			p, err := past(b)
			if err != nil {
				t.Fatal(err)
			}
			got, err := p.Screen()
			if err != nil {
				t.Fatal(err)
			}
			if !reflect.DeepEqual(got, want) {
				t.Errorf("the screen is\n%v\nwant\n%v", got, want)
			}
			g := p.(*consoleSink)
			last := h.c.past.appendLast(nil, keptMost)
			if kept := g.past.appendLast(nil, 1<<62); !bytes.Equal(kept, last) || g.past.end() != uint64(len(c.out)) {
				t.Errorf("%d bytes of output are left, up to %d, want %d, up to %d", len(kept), g.past.end(), len(last), len(c.out))
			}
			if kept, last := g.display.mem.lines.appendLast(nil, 1<<62), h.c.display.mem.lines.appendLast(nil, keptMost); !bytes.Equal(kept, last) {
				t.Errorf("%d bytes of lines are left, want %d", len(kept), len(last))
			}
			if g.exit != 7<<8 || !g.known {
				t.Errorf("the status is %#x, %v", g.exit, g.known)
			}
			if err := p.Resize(30, 90); err == nil {
				t.Error("it was resized")
			}
			if err := p.Close(); err != nil {
				t.Error(err)
			}
		})
	}
}

// Whatever is in the file, there is an error or a console.
func FuzzPast(f *testing.F) {
	f.Add([]byte{remainsVersion})
	f.Add([]byte{0, 1, 2})
	c := &consoleSink{viewers: map[*attached]struct{}{}}
	c.past = ringOf([]byte("one\r\n\x1b[6n"), 100)
	c.display = newDisplay(newMemory(make([]byte, memorySize(0)), 0), 5, 20, nil)
	c.display.mem.lines = ringOf([]byte("zero\r\n"), 50)
	f.Add(c.remains(keptMost))
	f.Fuzz(func(t *testing.T, b []byte) {
		p, err := past(b)
		if err != nil {
			return
		}
		if _, err := p.Screen(); err != nil {
			t.Error(err)
		}
		p.(*consoleSink).display.redraw(true, 24, 100)
		p.Close()
	})
}
