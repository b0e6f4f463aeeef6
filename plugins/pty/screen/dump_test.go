package screen

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
)

// dump is everything that a terminal is, in words, for comparing. Places where nothing was written are spaces.
func dump(m *Model) string {
	var b strings.Builder
	fmt.Fprintf(&b, "size %dx%d region %d-%d modes %v shape %d keys %d kitty %v flags %d\n", m.rows, m.cols, m.top, m.under,
		m.ModeNames(), m.shape, m.keys, m.kitty, m.kittyFlags())
	fmt.Fprintf(&b, "title %q icon %q titles %q\n", m.title, m.icon, m.titles)
	fmt.Fprintf(&b, "cursor %s\n", cursorState(m, m.cur))
	fmt.Fprintf(&b, "partial %q over %v\n", m.AppendPartial(nil), m.over && m.state != ground)
	for _, n := range slices.Sorted(maps.Keys(m.palette)) {
		fmt.Fprintf(&b, "color %d %06x\n", n, m.palette[n])
	}
	for x, stop := range m.tabs {
		if stop != (x%8 == 0 && x > 0) {
			fmt.Fprintf(&b, "tab %d %v\n", x, stop)
		}
	}
	gridState(&b, m, "main", &m.main)
	if m.shown == &m.alt {
		gridState(&b, m, "alt", &m.alt)
	}
	return b.String()
}

func cursorState(m *Model, c cursor) string {
	return fmt.Sprintf("%d,%d pending %v sets %q gl %d single %d style %+v", c.y, c.x, c.pending, c.sets, c.gl, c.single, m.styles[c.style])
}

func gridState(b *strings.Builder, m *Model, name string, g *grid) {
	fmt.Fprintf(b, "%s: saved %s origin %v\n", name, cursorState(m, g.saved.cursor), g.saved.origin)
	for y := range g.order {
		row := g.row(y)
		n := len(row)
		for n > 0 && m.styles[row[n-1].style] == (Style{}) && (row[n-1].char == 0 || row[n-1].char == ' ') {
			n--
		}
		goesOn := g.wrapped(y) && y+1 < len(g.order) && used(g.row(y+1)) > 0
		fmt.Fprintf(b, "%3d ", y)
		var style Style
		for _, c := range row[:n] {
			if s := m.styles[c.style]; s != style {
				fmt.Fprintf(b, "{%x %x %x %x %d %s}", s.Fg, s.Bg, s.Under, s.Attr, s.Underline, s.Link)
				style = s
			}
			switch {
			case c.rest():
				b.WriteString("<")
			default:
				b.Write(m.appendText(nil, c))
			}
		}
		if goesOn {
			b.WriteString("\\")
		}
		b.WriteString("\n")
	}
}

// afterRedraw is what goes on behind a redraw, which cannot say of a line that it goes on where nothing follows yet.
const afterRedraw = "after the redraw"

// same fails the test where the two are not the same.
func same(t *testing.T, what string, got, want *Model) {
	t.Helper()
	g, w := strings.Split(dump(got), "\n"), strings.Split(dump(want), "\n")
	for i := range max(len(g), len(w)) {
		if what == afterRedraw && i < len(g) && i < len(w) && strings.TrimSuffix(g[i], "\\") == strings.TrimSuffix(w[i], "\\") {
			continue
		}
		if i >= len(g) || i >= len(w) || g[i] != w[i] {
			t.Errorf("%s: line %d:\n got %s\nwant %s", what, i, at(g, i), at(w, i))
			return
		}
	}
}

func at(s []string, i int) string {
	if i < len(s) {
		return s[i]
	}
	return "nothing"
}

// check looks at what must hold whatever was written.
func check(m *Model) error {
	switch c := m.cur; {
	case c.x < 0 || c.x >= m.cols || c.y < 0 || c.y >= m.rows:
		return fmt.Errorf("the cursor is at %d,%d", c.y, c.x)
	case c.pending && (c.x != m.cols-1 || m.modes&ModeWrap == 0):
		return fmt.Errorf("the next character is to wrap at column %d of %d, modes %v", c.x, m.cols, m.ModeNames())
	case m.top < 0 || m.top >= m.under || m.under > m.rows:
		return fmt.Errorf("the region is %d to %d", m.top, m.under)
	case m.modes&ModeOrigin != 0 && (c.y < m.top || c.y >= m.under):
		return fmt.Errorf("line %d is out of the region %d to %d", c.y, m.top, m.under)
	case len(m.tabs) != m.cols:
		return fmt.Errorf("%d tabs", len(m.tabs))
	case len(m.seq) > seqMost || len(m.str) > strMost || len(m.titles) > titlesMost || len(m.kitty) > kittyMost:
		return fmt.Errorf("something has grown: %d %d %d %d", len(m.seq), len(m.str), len(m.titles), len(m.kitty))
	case (m.shown == &m.alt) != (m.modes&ModeAlternate != 0) || (m.shown == &m.alt) != (m.alt.order != nil):
		return fmt.Errorf("which screen is shown is not clear")
	}
	for _, g := range []*grid{&m.main, &m.alt} {
		if g.saved.style >= uint32(len(m.styles)) || g.saved.y >= m.rows || g.saved.x >= m.cols {
			return fmt.Errorf("saved %+v", g.saved)
		}
		seen := make([]bool, len(g.order))
		for y := range g.order {
			if seen[g.order[y]] {
				return fmt.Errorf("line %d is there twice", g.order[y])
			}
			seen[g.order[y]] = true
			row := g.row(y)
			for x, c := range row {
				switch {
				case c.rest() && (x == 0 || !row[x-1].wide()):
					return fmt.Errorf("half a character at %d,%d", y, x)
				case c.wide() && (x+1 == len(row) || !row[x+1].rest()):
					return fmt.Errorf("half a character at %d,%d", y, x)
				case int(c.style) >= len(m.styles) || m.badChar(c.char):
					return fmt.Errorf("no such cell at %d,%d: %+v", y, x, c)
				}
			}
		}
	}
	return nil
}
