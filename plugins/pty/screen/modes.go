package screen

// Mode is a set of modes.
type Mode uint64

const (
	ModeInsert      Mode = 1 << iota // IRM
	ModeNewline                      // LNM
	ModeCursorKeys                   // DECCKM
	ModeReverse                      // DECSCNM
	ModeOrigin                       // DECOM
	ModeWrap                         // DECAWM
	ModeMouseX10                     // presses only
	ModeBlink                        // of the cursor
	ModeCursor                       // DECTCEM
	ModeReverseWrap                  //
	ModeKeypad                       // DECNKM, DECKPAM
	ModeMouse                        // presses and releases
	ModeMouseDrag                    // and movement with a button
	ModeMouseMove                    // and all movement
	ModeFocus                        // focus events
	ModeMouseUTF8                    // how positions are written
	ModeMouseSGR                     //
	ModeMouseURXVT                   //
	ModeMousePixels                  //
	ModeAltScroll                    // the wheel types cursor keys
	ModePaste                        // bracketed paste
	ModeSync                         // synchronised output
	ModeTheme                        // reports of the colour scheme
	ModeAlternate                    // the alternate screen is shown
	ModeColumns                      // DECCOLM is heeded
)

// What is no mode, but is noted in Model.touched as well.
const (
	touchedShape Mode = 1 << 31
	touchedKeys  Mode = 1 << 30
	touchedTabs  Mode = 1 << 29
	touchedKitty Mode = 1 << 28
)

const (
	modesAtStart  = ModeWrap | ModeCursor
	mouseEvents   = ModeMouseX10 | ModeMouse | ModeMouseDrag | ModeMouseMove
	mouseEncoding = ModeMouseUTF8 | ModeMouseSGR | ModeMouseURXVT | ModeMousePixels
)

// modeNumber is a mode's name in sequences, and for people.
type modeNumber struct {
	n       int
	private bool
	mode    Mode
	name    string
}

// modeTable has every mode that is followed, in the order in which a redraw sets them.
var modeTable = []modeNumber{
	{20, false, ModeNewline, "newline"},
	{1, true, ModeCursorKeys, "cursor-keys"},
	{5, true, ModeReverse, "reverse"},
	{7, true, ModeWrap, "wrap"},
	{9, true, ModeMouseX10, "mouse-x10"},
	{12, true, ModeBlink, "blink"},
	{40, true, ModeColumns, "allow-columns"},
	{45, true, ModeReverseWrap, "reverse-wrap"},
	{66, true, ModeKeypad, "keypad"},
	{1000, true, ModeMouse, "mouse"},
	{1002, true, ModeMouseDrag, "mouse-drag"},
	{1003, true, ModeMouseMove, "mouse-move"},
	{1004, true, ModeFocus, "focus"},
	{1005, true, ModeMouseUTF8, "mouse-utf8"},
	{1006, true, ModeMouseSGR, "mouse-sgr"},
	{1015, true, ModeMouseURXVT, "mouse-urxvt"},
	{1016, true, ModeMousePixels, "mouse-pixels"},
	{1007, true, ModeAltScroll, "alternate-scroll"},
	{2004, true, ModePaste, "paste"},
	{2031, true, ModeTheme, "theme"},
	{4, false, ModeInsert, "insert"},
	{6, true, ModeOrigin, "origin"},
	{25, true, ModeCursor, "cursor"},
	{2026, true, ModeSync, "synchronized"},
	{1049, true, ModeAlternate, "alternate-screen"},
	{1047, true, ModeAlternate, "alternate-screen"},
	{47, true, ModeAlternate, "alternate-screen"},
}

func findMode(n int, private bool) (Mode, bool) {
	for _, k := range modeTable {
		if k.n == n && k.private == private {
			return k.mode, true
		}
	}
	return 0, false
}

// Modes are the modes that are set.
func (m *Model) Modes() Mode { return m.modes }

// ModeNames are the names of the modes that are set.
func (m *Model) ModeNames() []string {
	var names []string
	var told Mode
	for _, k := range modeTable {
		if m.modes&k.mode != 0 && told&k.mode == 0 {
			names = append(names, k.name)
		}
		told |= k.mode
	}
	return names
}

// setMode is SM, RM, DECSET and DECRST of one mode.
func (m *Model) setMode(n int, private, on bool) {
	mode, ok := findMode(n, private)
	switch {
	case private && n == 1048:
		m.saveOrRestore(on)
	case private && n == 3:
		m.columns()
	case !ok:
		return
	case mode == ModeAlternate:
		m.alternate(n, on)
	case mode == ModeOrigin:
		m.assign(mode, on)
		m.moveTo(0, 0)
	case mode&mouseEvents != 0:
		m.modes &^= mouseEvents
		m.assign(mode, on)
	case mode&mouseEncoding != 0:
		if on {
			m.modes &^= mouseEncoding
		}
		m.assign(mode, on)
	case mode == ModeWrap:
		m.cur.pending = m.cur.pending && on
		m.assign(mode, on)
	default:
		m.assign(mode, on)
	}
	m.touched |= mode
}

// columns is DECCOLM, set or reset. Like xterm it does nothing but where the program has allowed that; then it empties the screen. How many
// columns there are only the window's size says, which a terminal that heeds it changes.
func (m *Model) columns() {
	if m.modes&ModeColumns == 0 {
		return
	}
	m.top, m.under = 0, m.rows
	m.moveTo(0, 0)
	m.clearLines(0, m.rows)
}

func (m *Model) assign(mode Mode, on bool) {
	if on {
		m.modes |= mode
	} else {
		m.modes &^= mode
	}
}

func (m *Model) isSet(n int, private bool) (on, known bool) {
	mode, ok := findMode(n, private)
	return m.modes&mode != 0, ok
}

// alternate switches between the screens. 1049 saves and restores the cursor too. The alternate screen is always
// empty when it comes: what 47 could show again of its last time is not kept, since no redraw could say it.
func (m *Model) alternate(n int, on bool) {
	if n == 1049 && on {
		m.save()
	}
	if was := m.shown == &m.alt; was != on {
		m.switchTo(on)
	}
	if n == 1049 && !on {
		m.restore()
	}
}

func (m *Model) switchTo(on bool) {
	m.cur.pending = false
	m.assign(ModeAlternate, on)
	if !on {
		m.shown, m.alt = &m.main, grid{}
		return
	}
	m.alt = newGrid(m.rows, m.cols)
	m.shown = &m.alt
	if m.cur.blank != 0 {
		m.clearLines(0, m.rows)
	}
}

func (m *Model) saveOrRestore(save bool) {
	if save {
		m.save()
	} else {
		m.restore()
	}
}

// save is DECSC.
func (m *Model) save() {
	m.shown.saved = saved{cursor: m.cur, origin: m.modes&ModeOrigin != 0}
	m.shown.saved.single = 0
}

// restore is DECRC. Where nothing was saved it goes home.
func (m *Model) restore() {
	s := m.shown.saved
	m.cur = s.cursor
	m.assign(ModeOrigin, s.origin)
	if s.origin {
		m.cur.y = min(max(m.cur.y, m.top), m.under-1)
	}
	m.cur.pending = m.cur.pending && m.modes&ModeWrap != 0
}

// savePrivate is XTSAVE and XTRESTORE of one private mode.
func (m *Model) savePrivate(n int, save bool) {
	on, ok := m.isSet(n, true)
	if !ok {
		return
	}
	if was, ok := m.kept[n]; !save && ok {
		m.setMode(n, true, was)
	}
	if save {
		if m.kept == nil {
			m.kept = map[int]bool{}
		}
		m.kept[n] = on
	}
}
