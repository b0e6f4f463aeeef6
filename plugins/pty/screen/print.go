package screen

import (
	"unicode/utf8"

	"github.com/mattn/go-runewidth"
)

// widths are those that programs compute by wcwidth(3): one code point after the other, and what is ambiguous is narrow.
// Of the libraries at hand this one takes 2 ns a code point, golang.org/x/text/width 6, and rivo/uniseg, which looks for
// clusters, 35.
var widths = &runewidth.Condition{StrictEmojiNeutral: true}

// clusterMost bounds what combines into one character, in bytes.
const clusterMost = 24

// printASCII prints a run of printable ASCII.
func (m *Model) printASCII(p []byte) {
	if m.cur.single != 0 || m.cur.sets[m.cur.gl] != 0 || m.modes&ModeInsert != 0 {
		for _, b := range p {
			m.print(rune(b))
		}
		return
	}
	for len(p) > 0 {
		if m.cur.pending {
			m.wrap()
		}
		if m.cur.x == m.cols-1 && m.modes&ModeWrap == 0 {
			p = p[len(p)-1:] // each overwrites the last column
		}
		n := min(len(p), m.cols-m.cur.x)
		row := m.shown.change(m.cur.y, m.cur.x+n)
		split(row, m.cur.x)
		split(row, m.cur.x+n)
		style := m.cur.style
		to := row[m.cur.x : m.cur.x+n]
		for i, b := range p[:n] {
			to[i] = cell{uint32(b), style}
		}
		m.last = uint32(p[n-1])
		p = p[n:]
		m.advance(n)
	}
}

// advance moves the cursor behind n places that were written.
func (m *Model) advance(n int) {
	m.cur.x += n
	if m.cur.x >= m.cols {
		m.cur.x, m.cur.pending = m.cols-1, m.modes&ModeWrap != 0
	}
}

// wrap goes to the next line for the character that does not fit any more.
func (m *Model) wrap() {
	y := m.cur.y
	m.shown.setWrapped(y, true)
	m.newline()
	switch {
	case m.cur.y == m.under-1 && m.cur.y > 0:
		m.shown.setWrapped(m.cur.y-1, true) // it may have scrolled
	case m.cur.y == y:
		m.shown.setWrapped(y, false) // below the region the last line stays where it is
	}
	m.cur.x = 0
}

// print prints a character.
func (m *Model) print(r rune) {
	set := m.cur.sets[m.cur.gl]
	if m.cur.single != 0 {
		set, m.cur.single = m.cur.sets[m.cur.single], 0
	}
	if r < utf8.RuneSelf {
		r = translate(set, r)
	}
	if r < 0xa0 && r >= 0x7f {
		return // C1 controls, which no program means in UTF-8
	}
	switch w := widths.RuneWidth(r); {
	case w == 0:
		m.combine(r)
	default:
		m.put1(uint32(r), min(w, 2))
	}
}

// put1 puts a character that takes w places.
func (m *Model) put1(char uint32, w int) {
	if w > m.cols {
		return
	}
	if m.cur.pending {
		m.wrap()
	}
	if m.cur.x+w > m.cols { // a wide one in the last column
		if m.modes&ModeWrap != 0 {
			m.wrap()
		} else {
			m.cur.x = m.cols - w
		}
	}
	row := m.shown.change(m.cur.y, m.cur.x+w)
	if m.modes&ModeInsert != 0 {
		m.insertBlanks(w)
	}
	x := m.cur.x
	split(row, x)
	split(row, x+w)
	row[x] = cell{char, m.cur.style}
	if w == 2 {
		row[x].char |= isWide
		row[x+1] = cell{isRest, m.cur.style}
	}
	m.last = row[x].char
	m.advance(w)
}

// combine adds r to the character before the cursor.
func (m *Model) combine(r rune) {
	x := m.cur.x
	if !m.cur.pending {
		x--
	}
	if x < 0 {
		return // at the beginning of a line there is nothing to combine with
	}
	row := m.shown.change(m.cur.y, x+1)
	if row[x].rest() {
		x--
	}
	text := m.appendText(nil, row[x])
	if len(text)+utf8.RuneLen(r) > clusterMost {
		return
	}
	n := m.cluster(string(utf8.AppendRune(text, r))) // may number styles and clusters anew
	row[x].char = row[x].char&^(charMask|isCluster) | n
	m.last = row[x].char
}

// repeat is REP.
func (m *Model) repeat(n int) {
	if m.last == 0 {
		return
	}
	char, w := m.last&(charMask|isCluster), 1
	if m.last&isWide != 0 {
		w = 2
	}
	for range min(n, m.rows*m.cols) {
		m.put1(char, w)
	}
}

// graphics is the DEC Special Graphics set, from 0x5f on.
var graphics = []rune(" ◆▒␉␌␍␊°±␤␋┘┐┌└┼⎺⎻─⎼⎽├┤┴┬│≤≥π≠£·")

func translate(set byte, r rune) rune {
	switch {
	case set == '0' && r >= 0x5f && r < 0x7f:
		return graphics[r-0x5f]
	case set == 'A' && r == '#':
		return '£'
	}
	return r
}
