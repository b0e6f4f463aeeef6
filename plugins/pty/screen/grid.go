package screen

// grid is a screenful of cells. Lines move by their numbers only.
type grid struct {
	cells []cell
	order []int32 // which line of cells is the line of that number on the screen; nil: the grid is not in use
	wraps []bool  // by line of cells: it goes on in the next one
	ends  []int   // by line of cells: behind that place nothing was written
	cols  int
	saved saved
}

// saved is what DECSC keeps. Its zero value is home, in the default style: what DECRC restores where nothing was saved.
type saved struct {
	cursor
	origin bool
}

// cursor is where the next character goes, and what it will look like.
type cursor struct {
	x, y    int
	pending bool   // the last column was written: the next character goes to the next line
	style   uint32 // a number in Model.styles
	blank   uint32 // the same of what is erased: of the background that is set (xterm calls that bce)
	sets    [4]byte
	gl      int // which of sets is in use
	single  int // the one for the next character only; 0: none
}

func newGrid(rows, cols int) grid {
	g := grid{cells: make([]cell, rows*cols), order: make([]int32, rows), wraps: make([]bool, rows), ends: make([]int, rows), cols: cols}
	for i := range g.order {
		g.order[i] = int32(i)
	}
	return g
}

// row is line y of the screen, to be read.
func (g *grid) row(y int) []cell {
	i := int(g.order[y]) * g.cols
	return g.cells[i : i+g.cols : i+g.cols]
}

// change is line y of the screen, to be written up to place end.
func (g *grid) change(y, end int) []cell {
	line := g.order[y]
	g.ends[line] = max(g.ends[line], end)
	return g.row(y)
}

// written is what of line y may show something.
func (g *grid) written(y int) []cell { return g.row(y)[:g.ends[g.order[y]]] }

func (g *grid) wrapped(y int) bool       { return g.wraps[g.order[y]] }
func (g *grid) setWrapped(y int, w bool) { g.wraps[g.order[y]] = w }

// used is how many places of a row there are up to the last that shows something.
func used(row []cell) int {
	n := len(row)
	for n >= 8 && [8]cell(row[n-8:n]) == ([8]cell{}) { // many at once, since this is done for every line
		n -= 8
	}
	for n > 0 && row[n-1] == (cell{}) {
		n--
	}
	return n
}

// rotate moves the lines from top up to under by n lines up, or with a negative n down. Those that leave at one end
// come in at the other.
func (g *grid) rotate(top, under, n int) {
	o := g.order[top:under]
	if n < 0 {
		n += len(o)
	}
	if n == 1 {
		first := o[0]
		copy(o, o[1:])
		o[len(o)-1] = first
		return
	}
	reverse(o[:n])
	reverse(o[n:])
	reverse(o)
}

func reverse(o []int32) {
	for i, j := 0, len(o)-1; i < j; i, j = i+1, j-1 {
		o[i], o[j] = o[j], o[i]
	}
}

// blank is what an erased place is.
func (m *Model) blank() cell { return cell{style: m.cur.blank} }

func fill(row []cell, c cell) {
	if c == (cell{}) {
		clear(row)
		return
	}
	for i := range row {
		row[i] = c
	}
}

// split makes blank what is cut where a row is cut before x: the two halves of a wide character.
func split(row []cell, x int) {
	if x > 0 && x < len(row) && row[x].rest() {
		row[x-1] = cell{style: row[x-1].style}
		row[x] = cell{style: row[x].style}
	}
}

// scrollUp moves the lines from top up to under by n up. Those that leave the top of the main screen are scrolled off.
func (m *Model) scrollUp(top, under, n int) {
	g := m.shown
	n = min(n, under-top)
	if n <= 0 {
		return
	}
	if g == &m.main && top == 0 && m.Scrolled != nil {
		for y := range n {
			row := g.written(y)
			if g.wrapped(y) {
				row = g.row(y)
			}
			m.giveAway(row, g.wrapped(y))
		}
	}
	if top > 0 {
		g.setWrapped(top-1, false)
	}
	if under < m.rows {
		g.setWrapped(under-1, false)
	}
	g.rotate(top, under, n)
	m.clearLines(under-n, under)
}

// scrollDown moves the lines from top up to under by n down.
func (m *Model) scrollDown(top, under, n int) {
	g := m.shown
	n = min(n, under-top)
	if n <= 0 {
		return
	}
	if top > 0 {
		g.setWrapped(top-1, false)
	}
	g.rotate(top, under, -n)
	m.clearLines(top, top+n)
	g.setWrapped(under-1, false)
}

func (m *Model) clearLines(from, to int) {
	b := m.blank()
	for y := from; y < to; y++ {
		m.blankLine(y, b)
	}
}

// blankLine makes line y one of nothing but b.
func (m *Model) blankLine(y int, b cell) {
	g := m.shown
	if b == (cell{}) {
		clear(g.written(y))
		g.ends[g.order[y]] = 0
	} else {
		fill(g.change(y, m.cols), b)
	}
	g.setWrapped(y, false)
}

// giveAway gives a line to Scrolled.
func (m *Model) giveAway(row []cell, wrapped bool) {
	m.line = m.appendRow(m.line[:0], row, wrapped)
	if !wrapped {
		m.line = append(m.line, '\r', '\n')
	}
	m.Scrolled(m.line)
}

// newline moves the cursor a line down, and scrolls where it is in the region's last one.
func (m *Model) newline() {
	m.cur.pending = false
	switch {
	case m.cur.y == m.under-1:
		m.scrollUp(m.top, m.under, 1)
	case m.cur.y < m.rows-1:
		m.cur.y++
	}
}

// newlineUp moves the cursor a line up, and scrolls where it is in the region's first one.
func (m *Model) newlineUp() {
	m.cur.pending = false
	switch {
	case m.cur.y == m.top:
		m.scrollDown(m.top, m.under, 1)
	case m.cur.y > 0:
		m.cur.y--
	}
}
