package screen

import "unicode/utf8"

// Color is a colour: the terminal's own one (0), one of its palette of 256, or RGB.
type Color uint32

// RGB is red, green and blue in its lowest three bytes.
type RGB uint32

const (
	colorIndexed = 1 << 24
	colorRGB     = 2 << 24
)

// Index is the colour's number in the palette.
func (c Color) Index() (n int, ok bool) { return int(c & 0xff), c>>24 == 1 }

// RGB is the colour itself.
func (c Color) RGB() (rgb RGB, ok bool) { return RGB(c & 0xffffff), c>>24 == 2 }

// Attr are properties of a character.
type Attr uint16

const (
	Bold Attr = 1 << iota
	Faint
	Italic
	Blink
	Reverse
	Hidden
	Strike
	Overline
	protected // DECSCA: what selective erasing leaves
)

// Underline is a style of underlining, numbered as in SGR 4:n.
type Underline uint8

const (
	NoUnderline Underline = iota
	SingleUnderline
	DoubleUnderline
	CurlyUnderline
	DottedUnderline
	DashedUnderline
)

// Style is what a character looks like.
type Style struct {
	Fg, Bg, Under Color // of the text, behind it, and of its underline
	Attr          Attr
	Underline     Underline
	Link          string // parameters;URI, as in OSC 8; "" where there is none
}

// cell is one place of the grid. Its lowest 21 bits are the character, or with isCluster a number in Model.clusters; 0
// is a place where nothing was written.
type cell struct {
	char  uint32
	style uint32 // a number in Model.styles
}

const (
	isCluster = 1 << 29
	isWide    = 1 << 30 // takes this place and the next
	isRest    = 1 << 31 // the second place of a wide one
	charMask  = 1<<29 - 1
)

func (c cell) wide() bool { return c.char&isWide != 0 }
func (c cell) rest() bool { return c.char&isRest != 0 }

// appendText appends the character of c; a space where there is none.
func (m *Model) appendText(b []byte, c cell) []byte {
	switch n := c.char & charMask; {
	case c.char&isCluster != 0:
		return append(b, m.clusters[n]...)
	case n == 0:
		return append(b, ' ')
	default:
		return utf8.AppendRune(b, rune(n))
	}
}

// tablesLeast is how many styles and clusters there may be at least before those that nothing uses are dropped.
const tablesLeast = 512

// number is the number of a style. A new one may have all others numbered anew.
func (m *Model) number(s Style) uint32 {
	if n, ok := m.numbers[s]; ok {
		return n
	}
	if len(m.styles) >= m.stylesAt {
		m.sweep()
	}
	n := uint32(len(m.styles))
	m.styles = append(m.styles, s)
	m.numbers[s] = n
	return n
}

// cluster is the character that consists of these code points.
func (m *Model) cluster(text string) uint32 {
	if n, ok := m.clusterN[text]; ok {
		return n | isCluster
	}
	if len(m.clusters) >= m.stylesAt {
		m.sweep()
	}
	if m.clusterN == nil {
		m.clusterN = map[string]uint32{}
	}
	n := uint32(len(m.clusters))
	m.clusters = append(m.clusters, text)
	m.clusterN[text] = n
	return n | isCluster
}

// sweep drops styles and clusters that nothing shows, and numbers the others anew.
func (m *Model) sweep() {
	if len(m.styles) == 1 && len(m.clusters) == 0 {
		return
	}
	styles, clusters := m.styles, m.clusters
	toStyle, toCluster := make([]uint32, len(styles)), make([]uint32, len(clusters))
	m.styles, m.numbers = []Style{{}}, map[Style]uint32{{}: 0}
	m.clusters, m.clusterN = nil, map[string]uint32{}
	style := func(n uint32) uint32 {
		if n != 0 && toStyle[n] == 0 {
			toStyle[n] = uint32(len(m.styles))
			m.styles = append(m.styles, styles[n])
			m.numbers[styles[n]] = toStyle[n]
		}
		return toStyle[n]
	}
	char := func(c uint32) uint32 {
		if c&isCluster == 0 {
			return c
		}
		n := c & charMask
		if toCluster[n] == 0 {
			m.clusterN[clusters[n]] = uint32(len(m.clusters))
			m.clusters = append(m.clusters, clusters[n])
			toCluster[n] = uint32(len(m.clusters))
		}
		return c&^charMask | (toCluster[n] - 1)
	}
	for _, g := range []*grid{&m.main, &m.alt} {
		for y := range g.order {
			row := g.row(y)
			for x, c := range row {
				if c != (cell{}) {
					row[x] = cell{char(c.char), style(c.style)}
				}
			}
		}
		g.saved.style, g.saved.blank = style(g.saved.style), style(g.saved.blank)
	}
	m.cur.style, m.cur.blank = style(m.cur.style), style(m.cur.blank)
	m.last = char(m.last)
	m.stylesAt = 2*max(len(m.styles), len(m.clusters)) + tablesLeast
}
