// Package screen is a model of a terminal: what a program has written to it goes in, and what a person would see comes
// out, as cells, as a checkpoint from which another model goes on exactly, or as a sequence that makes another
// terminal look the same.
//
// It understands what xterm does of ECMA-48 and the VT220, without the sequences for other fonts, printers and
// graphics, and without left and right margins; text is UTF-8. Whatever it is given, it takes without an error and within bounds: strings
// that are too long are passed over to their end.
package screen

// Sizes that a model can have. Others are brought to the nearest.
const (
	RowsMost = 500
	ColsMost = 1000
)

// Model is a terminal. Make it with New. It is not safe for use by several goroutines.
type Model struct {
	// Scrolled is given each line that leaves the main screen at its top, as text with SGR sequences that begins and
	// ends in the default style. It ends with CR LF, but for a line that goes on in the next one. The line is valid until
	// Scrolled returns. nil: the lines are lost.
	Scrolled func(line []byte)
	// Cleared is called when the program wants the lines that were scrolled off forgotten. nil: nobody is told.
	Cleared func()

	rows, cols int
	main, alt  grid
	shown      *grid // main or alt
	cur        cursor
	top, under int // the scroll region: its first line, and the line behind its last
	tabs       []bool
	modes      Mode
	touched    Mode   // what the program has ever set or reset
	shape      int    // of the cursor, as in DECSCUSR
	keys       int    // xterm's modifyOtherKeys
	kitty      []int  // flags of kitty's keyboard protocol; the last ones count
	last       uint32 // the character just printed, which REP repeats; 0: none
	title      string
	icon       string
	titles     []titles // that were pushed
	palette    map[int]RGB
	kept       map[int]bool // private modes that XTSAVE has saved

	styles   []Style // by number; 0 is the default
	numbers  map[Style]uint32
	stylesAt int      // how many there may be before those that are not used are dropped
	clusters []string // characters of several code points, by number
	clusterN map[string]uint32

	parser
	queries []Query
	line    []byte // a line for Scrolled
}

// titles are what the title stack keeps.
type titles struct{ title, icon string }

// New makes a terminal that shows nothing.
func New(rows, cols int) *Model {
	m := &Model{}
	m.rows, m.cols = clampSize(rows, cols)
	m.reset()
	return m
}

func clampSize(rows, cols int) (int, int) {
	return min(max(rows, 1), RowsMost), min(max(cols, 1), ColsMost)
}

// Size is the model's size.
func (m *Model) Size() (rows, cols int) { return m.rows, m.cols }

// reset brings everything to what it was at the beginning, but the size, the title and what stands in the parser.
func (m *Model) reset() {
	m.styles, m.numbers, m.stylesAt = []Style{{}}, map[Style]uint32{{}: 0}, tablesLeast
	m.clusters, m.clusterN = nil, nil
	m.main, m.alt = newGrid(m.rows, m.cols), grid{}
	m.shown = &m.main
	m.kitty, m.palette, m.kept, m.last = nil, nil, nil, 0
	m.tabs = defaultTabs(nil, m.cols)
	m.softReset()
	m.modes, m.shape = modesAtStart, 0
	m.cur.home()
}

// softReset is what DECSTR resets.
func (m *Model) softReset() {
	m.cur = cursor{x: m.cur.x, y: m.cur.y}
	m.cur.home()
	m.shown.saved = saved{}
	m.top, m.under = 0, m.rows
	m.modes = m.modes&^(ModeInsert|ModeOrigin|ModeCursorKeys|ModeKeypad|ModeReverseWrap) | ModeCursor | ModeWrap
	m.keys = 0
}

func (c *cursor) home() { c.x, c.y, c.pending = 0, 0, false }

// Write takes output of the program. It can be split anywhere.
func (m *Model) Write(p []byte) (int, error) {
	m.queries = m.queries[:0]
	m.parse(p)
	return len(p), nil
}
