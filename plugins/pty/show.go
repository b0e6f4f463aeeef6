package pty

import (
	"strings"

	"github.com/muxd/muxd/plugins/pty/screen"
	"github.com/muxd/muxd/sink/sinkpb"
)

// Screen is what the console shows.
func (c *consoleSink) Screen() (*sinkpb.ScreenResponse, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.display.resize(c.Size())
	return describe(c.display.model, c.display.shown), nil
}

// describe says what m shows, which has seen the output up to offset.
func describe(m *screen.Model, offset uint64) *sinkpb.ScreenResponse {
	rows, cols := m.Size()
	s := &sinkpb.ScreenResponse{
		Size:   &sinkpb.Size{Rows: uint32(rows), Cols: uint32(cols)},
		Offset: offset, Modes: m.ModeNames(), Redraw: m.AppendRedraw(nil, true),
		Styles: []*sinkpb.Style{{}},
	}
	s.Title, s.IconTitle = m.Title()
	y, x, shape, pending := m.Cursor()
	s.Cursor = &sinkpb.Cursor{
		Row: uint32(y), Col: uint32(x), Shape: uint32(shape), Pending: pending, Visible: m.Modes()&screen.ModeCursor != 0,
	}
	for n := range screen.Colors {
		s.Palette = append(s.Palette, uint32(m.Color(n)))
	}
	numbers := map[screen.Style]uint32{{}: 0}
	for y := range rows {
		line := &sinkpb.Line{Wrapped: m.Wrapped(y)}
		for x := range m.Used(y) {
			c := m.Cell(y, x)
			n, ok := numbers[c.Style]
			if !ok {
				n = uint32(len(s.Styles))
				numbers[c.Style] = n
				s.Styles = append(s.Styles, describeStyle(c.Style))
			}
			line.Cells = append(line.Cells, &sinkpb.Cell{Text: c.Text, Width: uint32(c.Width), Style: n})
		}
		s.Lines = append(s.Lines, line)
	}
	return s
}

func describeStyle(s screen.Style) *sinkpb.Style {
	has := func(a screen.Attr) bool { return s.Attr&a != 0 }
	_, uri, _ := strings.Cut(s.Link, ";")
	return &sinkpb.Style{
		Fg: describeColor(s.Fg), Bg: describeColor(s.Bg), UnderlineColor: describeColor(s.Under),
		Bold: has(screen.Bold), Faint: has(screen.Faint), Italic: has(screen.Italic), Blink: has(screen.Blink),
		Reverse: has(screen.Reverse), Hidden: has(screen.Hidden), Strike: has(screen.Strike), Overline: has(screen.Overline),
		Underline: uint32(s.Underline), Link: uri,
	}
}

func describeColor(c screen.Color) uint32 {
	if n, ok := c.Index(); ok {
		return uint32(n) + 1
	}
	if rgb, ok := c.RGB(); ok {
		return 1<<24 | uint32(rgb)
	}
	return 0
}
