package screen

// insertBlanks is ICH.
func (m *Model) insertBlanks(n int) {
	row, x := m.shown.change(m.cur.y, m.cols), m.cur.x
	n = min(n, m.cols-x)
	split(row, x)
	split(row, m.cols-n)
	copy(row[x+n:], row[x:m.cols-n])
	fill(row[x:x+n], m.blank())
	m.edited()
}

// deleteChars is DCH.
func (m *Model) deleteChars(n int) {
	row, x := m.shown.change(m.cur.y, m.cols), m.cur.x
	n = min(n, m.cols-x)
	split(row, x)
	split(row, x+n)
	copy(row[x:], row[x+n:])
	fill(row[m.cols-n:], m.blank())
	m.edited()
}

// edited has the cursor's line end where it ends.
func (m *Model) edited() {
	m.cur.pending = false
	m.shown.setWrapped(m.cur.y, false)
}

// eraseChars is ECH.
func (m *Model) eraseChars(n int) {
	m.cur.pending = false
	m.erase(m.cur.y, m.cur.x, min(m.cur.x+n, m.cols), false)
}

// erase makes the places of line y from x up to to blank, selectively but for those that are protected.
func (m *Model) erase(y, x, to int, selective bool) {
	if x == 0 && to == m.cols && !selective {
		m.blankLine(y, m.blank())
		return
	}
	row := m.shown.change(y, m.cols)
	split(row, x)
	split(row, to)
	b := m.blank()
	if !selective {
		fill(row[x:to], b)
	} else {
		for i := x; i < to; i++ {
			if m.styles[row[i].style].Attr&protected == 0 {
				row[i] = cell{style: row[i].style}
			}
		}
	}
	if to == m.cols {
		m.shown.setWrapped(y, false)
	}
}

// eraseLine is EL and DECSEL.
func (m *Model) eraseLine(what int, selective bool) {
	y, x := m.cur.y, m.cur.x
	m.cur.pending = false
	switch what {
	case 0:
		m.erase(y, x, m.cols, selective)
	case 1:
		m.erase(y, 0, x+1, selective)
	case 2:
		m.erase(y, 0, m.cols, selective)
	}
}

// eraseScreen is ED and DECSED.
func (m *Model) eraseScreen(what int, selective bool) {
	from, to := 0, m.rows
	switch what {
	case 0:
		m.eraseLine(0, selective)
		from = m.cur.y + 1
	case 1:
		m.eraseLine(1, selective)
		to = m.cur.y
	case 2:
		m.cur.pending = false
	case 3:
		if m.Cleared != nil {
			m.Cleared()
		}
		return
	default:
		return
	}
	for y := from; y < to; y++ {
		m.erase(y, 0, m.cols, selective)
	}
}

// insertLines is IL.
func (m *Model) insertLines(n int) {
	if m.cur.y < m.top || m.cur.y >= m.under {
		return
	}
	m.scrollDown(m.cur.y, m.under, n)
	m.cur.x, m.cur.pending = 0, false
}

// deleteLines is DL. What it deletes is not scrolled off.
func (m *Model) deleteLines(n int) {
	if m.cur.y < m.top || m.cur.y >= m.under {
		return
	}
	keep := m.Scrolled
	m.Scrolled = nil
	m.scrollUp(m.cur.y, m.under, n)
	m.Scrolled = keep
	m.cur.x, m.cur.pending = 0, false
}

func (m *Model) up(n int) {
	least := 0
	if m.cur.y >= m.top {
		least = m.top
	}
	m.cur.y = max(m.cur.y-n, least)
	m.cur.pending = false
}

func (m *Model) down(n int) {
	most := m.rows - 1
	if m.cur.y < m.under {
		most = m.under - 1
	}
	m.cur.y = min(m.cur.y+n, most)
	m.cur.pending = false
}

func (m *Model) moveX(x int) {
	m.cur.x, m.cur.pending = min(max(x, 0), m.cols-1), false
}

// moveTo is CUP, of which the lines are the scroll region's with DECOM.
func (m *Model) moveTo(y, x int) {
	if m.modes&ModeOrigin != 0 {
		m.cur.y = min(m.top+y, m.under-1)
	} else {
		m.cur.y = min(y, m.rows-1)
	}
	m.moveX(x)
}

// setRegion is DECSTBM; under 0 is the screen's end.
func (m *Model) setRegion(top, under int) {
	if under == 0 || under > m.rows {
		under = m.rows
	}
	if top+1 >= under {
		return
	}
	m.top, m.under = top, under
	m.moveTo(0, 0)
}

// tab goes n stops on, or with a negative n back.
func (m *Model) tab(n int) {
	x := m.cur.x
	for ; n > 0 && x < m.cols-1; n-- {
		for x++; x < m.cols-1 && !m.tabs[x]; x++ {
		}
	}
	for ; n < 0 && x > 0; n++ {
		for x--; x > 0 && !m.tabs[x]; x-- {
		}
	}
	if x != m.cur.x {
		m.moveX(x)
	}
}

// clearTabs is TBC.
func (m *Model) clearTabs(what int) {
	m.touched |= touchedTabs
	switch what {
	case 0:
		m.tabs[m.cur.x] = false
	case 3:
		clear(m.tabs)
	}
}

// defaultTabs makes tabs as long as cols: every eighth column is a stop where tabs says nothing.
func defaultTabs(tabs []bool, cols int) []bool {
	for x := len(tabs); x < cols; x++ {
		tabs = append(tabs, x%8 == 0 && x > 0)
	}
	return tabs[:cols]
}
