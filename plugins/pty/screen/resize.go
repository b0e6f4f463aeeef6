package screen

// Resize gives the model another size, which is brought to the nearest that it can have. Lines of the main screen that
// were wrapped are wrapped anew, and what does not fit any more is scrolled off at the top, as far as the cursor lets
// it. The alternate screen, whose program draws it again, is cut, or gets blank places. The scroll region is the whole
// screen afterwards.
func (m *Model) Resize(rows, cols int) {
	rows, cols = clampSize(rows, cols)
	if rows == m.rows && cols == m.cols {
		return
	}
	c := &m.cur
	if m.shown == &m.alt {
		m.alt = cut(&m.alt, rows, cols, &m.cur)
		c = &m.main.saved.cursor
	}
	m.rewrap(rows, cols, c)
	m.tabs = defaultTabs(m.tabs, cols)
	m.rows, m.cols = rows, cols
	m.top, m.under = 0, rows
	for _, c := range []*cursor{&m.cur, &m.main.saved.cursor, &m.alt.saved.cursor} {
		c.x, c.y = min(c.x, cols-1), min(c.y, rows-1)
		c.pending = c.pending && c.x == cols-1
	}
}

// cut is g in another size. The lines that go are those at the top where the cursor would not be on the screen
// otherwise.
func cut(g *grid, rows, cols int, c *cursor) grid {
	n := newGrid(rows, cols)
	n.saved = g.saved
	off := max(0, c.y-rows+1)
	for y := range min(rows, len(g.order)-off) {
		row := n.change(y, n.cols)
		copy(row, g.row(y+off))
		if cols < g.cols && row[cols-1].wide() {
			row[cols-1] = cell{style: row[cols-1].style}
		}
		n.setWrapped(y, g.wrapped(y+off) && cols == g.cols)
	}
	c.y -= off
	if cols != g.cols {
		c.pending = false
	}
	return n
}

// wrapped is a grid of another width while it is being made: as many lines as it takes.
type wrapped struct {
	cols  int
	cells []cell
	wraps []bool
	x     int // in the last line
}

func (w *wrapped) newline() {
	w.cells = append(w.cells, make([]cell, w.cols)...)
	w.wraps = append(w.wraps, false)
	w.x = 0
}

// add adds a character that takes n places.
func (w *wrapped) add(c cell, n int) {
	if n > w.cols {
		return
	}
	if w.x+n > w.cols {
		w.wraps[len(w.wraps)-1] = true
		w.newline()
	}
	last := w.cells[len(w.cells)-w.cols:]
	last[w.x] = c
	if n == 2 {
		last[w.x+1] = cell{isRest, c.style}
	}
	w.x += n
}

// rewrap gives the main screen, with the cursor c in it, another size.
func (m *Model) rewrap(rows, cols int, c *cursor) {
	g := &m.main
	lines := m.rows
	for lines > c.y+1 && used(g.row(lines-1)) == 0 {
		lines--
	}
	w := &wrapped{cols: cols}
	cx, cy := 0, 0
	for y := 0; y < lines; y++ {
		w.newline()
		for ; ; y++ {
			row := g.row(y)
			goesOn := g.wrapped(y) && y+1 < lines
			n := used(row)
			if goesOn {
				n = m.cols
				if row[n-1] == (cell{}) && g.row(y + 1)[0].wide() {
					n-- // it is blank since what follows did not fit
				}
			}
			if y == c.y {
				cx, cy = m.rewrapCursor(w, row, n, c)
			} else {
				addCells(w, row[:n])
			}
			if !goesOn {
				break
			}
		}
	}
	off := min(max(0, len(w.wraps)-rows), cy)
	next := newGrid(rows, cols)
	next.saved = g.saved
	for y := range len(w.wraps) {
		row := w.cells[y*cols : (y+1)*cols]
		switch {
		case y < off && m.Scrolled != nil:
			m.giveAway(row, w.wraps[y])
		case y >= off && y-off < rows:
			copy(next.change(y-off, cols), row)
			next.setWrapped(y-off, w.wraps[y])
		}
	}
	pending := c.pending
	m.main = next
	c.x, c.y = min(cx, cols-1), cy-off
	c.pending = pending && cx >= cols
}

// rewrapCursor adds the first n cells of the cursor's row, and returns where the cursor is then: in a column that may be
// one beyond the last.
func (m *Model) rewrapCursor(w *wrapped, row []cell, n int, c *cursor) (x, y int) {
	at := c.x
	if c.pending {
		at++
	}
	addCells(w, row[:min(at, n)])
	x, y = w.x, len(w.wraps)-1
	if at < n {
		before := len(w.wraps)
		addCells(w, row[at:n])
		if x == w.cols || len(w.wraps) > before && x+1 == w.cols && row[at].wide() {
			x, y = 0, y+1
		}
		return x, y
	}
	return x + at - n, y
}

func addCells(w *wrapped, row []cell) {
	for _, c := range row {
		switch {
		case c.rest():
		case c.wide():
			w.add(c, 2)
		default:
			w.add(c, 1)
		}
	}
}
