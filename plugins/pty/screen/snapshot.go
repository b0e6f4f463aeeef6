package screen

// Cell is a place as a person sees it.
type Cell struct {
	Text  string // " " where there is nothing
	Width int    // 1 or 2 places; 0: the second place of the cell before
	Style Style
}

// Cell is the place in row y and column x of the screen that is shown.
func (m *Model) Cell(y, x int) Cell {
	c := m.shown.row(y)[x]
	s := m.styles[c.style]
	switch s.Attr &^= protected; {
	case c.rest():
		return Cell{Style: s}
	case c.wide():
		return Cell{string(m.appendText(nil, c)), 2, s}
	}
	return Cell{string(m.appendText(nil, c)), 1, s}
}

// Used is how many places of row y there are up to the last that shows something.
func (m *Model) Used(y int) int { return used(m.shown.row(y)) }

// Wrapped says whether row y goes on in the next one.
func (m *Model) Wrapped(y int) bool { return m.shown.wrapped(y) }

// Cursor is where the cursor is, its shape as in DECSCUSR, and whether the next character goes to the next line.
func (m *Model) Cursor() (y, x, shape int, pending bool) {
	return m.cur.y, m.cur.x, m.shape, m.cur.pending
}

// Title is the window's title, and the icon's.
func (m *Model) Title() (title, icon string) { return m.title, m.icon }

// Region is the scroll region: its first row, and the one behind its last.
func (m *Model) Region() (top, under int) { return m.top, m.under }

// Color is entry n of the palette; 256 is the text's colour where no other is set, 257 the one behind it, and 258 the
// cursor's.
func (m *Model) Color(n int) RGB { return m.color(n) }
