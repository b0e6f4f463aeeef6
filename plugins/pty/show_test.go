package pty

import (
	"testing"

	"github.com/muxd/muxd/sink"
)

func TestScreen(t *testing.T) {
	h := newHarness(t, 1000)
	out := "\x1b]2;a title\x07\x1b[1;31;48;5;20;4:3;58;2;1;2;3mred\x1b[m \u6f22e\u0301\x1b[?25l\x1b[?2004h\x1b]8;;http://x/\x07l\x1b]8;;\x07\x1b[5 q"
	h.c.Write(h.ctx, &sink.Chunk{Data: []byte(out)})
	s, err := h.c.Screen()
	if err != nil {
		t.Fatal(err)
	}
	cells := s.Lines[0].Cells
	if len(s.Lines) != 24 || len(cells) != 8 || s.Offset != uint64(len(out)) || s.Cols != 80 || s.Title != "a title" {
		t.Fatalf("%v", s)
	}
	if len(s.Palette) != 259 || s.Palette[1] != 0xcd0000 {
		t.Errorf("palette %x", s.Palette)
	}
	if c := s.Cursor; c.Row != 0 || c.Col != 8 || c.Visible || c.Shape != 5 {
		t.Errorf("cursor %v", c)
	}
	for i, want := range []struct {
		text  string
		width int
	}{{"r", 1}, {"e", 1}, {"d", 1}, {" ", 1}, {"\u6f22", 2}, {"", 0}, {"e\u0301", 1}, {"l", 1}} {
		if c := cells[i]; c.Text != want.text || c.Width != want.width {
			t.Errorf("cell %d is %v, want %v", i, c, want)
		}
	}
	st := s.Styles[cells[0].Style]
	if !st.Bold || st.Fg != 2 || st.Bg != 21 || st.Underline != 3 || st.UnderlineColor != 0x1010203 {
		t.Errorf("style %v", st)
	}
	if s.Styles[cells[7].Style].Link != "http://x/" || cells[3].Style != 0 {
		t.Errorf("styles %v", s.Styles)
	}
	if len(s.Modes) != 2 || s.Modes[1] != "paste" {
		t.Errorf("modes %q", s.Modes)
	}
}
