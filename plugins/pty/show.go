package pty

import (
	"strings"

	"github.com/muxd/muxd/plugins/pty/screen"
	"github.com/muxd/muxd/sink"
)

// Screen is what the console shows.
func (c *consoleSink) Screen() (*sink.Screen, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.display.resize(c.Size())
	return describe(c.display.model, c.display.shown), nil
}

// describe says what m shows, which has seen the output up to offset.
func describe(m *screen.Model, offset uint64) *sink.Screen {
	rows, cols := m.Size()
	s := &sink.Screen{
		Rows: rows, Cols: cols, Offset: offset, Modes: m.ModeNames(), Redraw: m.AppendRedraw(nil, true),
		Styles: []sink.ScreenStyle{{}},
	}
	s.Title, s.IconTitle = m.Title()
	y, x, shape, pending := m.Cursor()
	s.Cursor = sink.ScreenCursor{
		Row: y, Col: x, Shape: int(shape), Pending: pending, Visible: m.Modes()&screen.ModeCursor != 0,
	}
	for n := range screen.Colors {
		s.Palette = append(s.Palette, uint32(m.Color(n)))
	}
	numbers := map[screen.Style]int{{}: 0}
	for y := range rows {
		line := sink.ScreenLine{Wrapped: m.Wrapped(y)}
		for x := range m.Used(y) {
			c := m.Cell(y, x)
			n, ok := numbers[c.Style]
			if !ok {
				n = len(s.Styles)
				numbers[c.Style] = n
				s.Styles = append(s.Styles, describeStyle(c.Style))
			}
			line.Cells = append(line.Cells, sink.ScreenCell{Text: c.Text, Width: int(c.Width), Style: n})
		}
		s.Lines = append(s.Lines, line)
	}
	return s
}

func describeStyle(s screen.Style) sink.ScreenStyle {
	has := func(a screen.Attr) bool { return s.Attr&a != 0 }
	_, uri, _ := strings.Cut(s.Link, ";")
	return sink.ScreenStyle{
		Fg: describeColor(s.Fg), Bg: describeColor(s.Bg), UnderlineColor: describeColor(s.Under),
		Bold: has(screen.Bold), Faint: has(screen.Faint), Italic: has(screen.Italic), Blink: has(screen.Blink),
		Reverse: has(screen.Reverse), Hidden: has(screen.Hidden), Strike: has(screen.Strike), Overline: has(screen.Overline),
		Underline: int(s.Underline), Link: uri,
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
