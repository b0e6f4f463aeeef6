package screen

// execute is a control character.
func (m *Model) execute(b byte) {
	switch b {
	case '\b':
		m.backspace()
	case '\t':
		m.tab(1)
	case '\n', '\v', '\f':
		m.newline()
		if m.modes&ModeNewline != 0 {
			m.cur.x = 0
		}
	case '\r':
		m.cur.x, m.cur.pending = 0, false
	case 0x0e:
		m.cur.gl = 1
	case 0x0f:
		m.cur.gl = 0
	}
}

func (m *Model) backspace() {
	switch {
	case m.cur.x > 0:
		m.cur.x--
	case m.modes&ModeReverseWrap != 0 && m.modes&ModeWrap != 0 && m.cur.y > m.top && m.shown.wrapped(m.cur.y-1):
		m.cur.x, m.cur.y = m.cols-1, m.cur.y-1
	}
	m.cur.pending = false
}

// escape is ESC, intermediates in seq, and b. The ESC may have ended a question.
func (m *Model) escape(b byte, asked bool) {
	if len(m.seq) > 0 {
		m.escapeWith(m.seq[0], b)
		return
	}
	switch b {
	case '\\':
		if asked {
			m.queries = append(m.queries, Query{m.at + 1, 0, ""})
		}
	case '7':
		m.save()
	case '8':
		m.restore()
	case 'D':
		m.newline()
	case 'E':
		m.newline()
		m.cur.x = 0
	case 'H':
		m.tabs[m.cur.x] = true
		m.touched |= touchedTabs
	case 'M':
		m.newlineUp()
	case 'N', 'O':
		m.cur.single = int(b-'N') + 2
	case 'Z':
		m.ask(attributes)
	case 'c':
		m.reset()
	case '=', '>':
		m.setMode(66, true, b == '=')
	case 'n', 'o':
		m.cur.gl = int(b-'n') + 2
	}
}

func (m *Model) escapeWith(inter, b byte) {
	switch inter {
	case '#':
		if b == '8' {
			m.align()
		}
	case '(', ')', '*', '+':
		set := b
		if b != '0' && b != 'A' || len(m.seq) > 1 {
			set = 0
		}
		m.cur.sets[inter-'('] = set
	}
}

// align is DECALN: a screen full of E.
func (m *Model) align() {
	m.top, m.under = 0, m.rows
	m.modes &^= ModeOrigin
	m.cur.home()
	for y := range m.rows {
		m.blankLine(y, cell{char: 'E'})
	}
}

// control is a control sequence: its parameters and intermediates are in seq, and b ends it.
func (m *Model) control(b byte) {
	p := &m.params
	switch p.parse(m.seq); {
	case p.mark == 0 && p.inter == "":
		m.plain(b, p)
	case p.mark == '?' && p.inter == "":
		m.private(b, p)
	default:
		m.special(string(p.markText())+p.inter+string(b), p)
	}
}

func (m *Model) plain(b byte, p *params) {
	n := p.count(0) // most take a count
	switch b {
	case '@':
		m.insertBlanks(n)
	case 'A':
		m.up(n)
	case 'B':
		m.down(n)
	case 'C', 'a':
		m.moveX(m.cur.x + n)
	case 'D':
		m.moveX(m.cur.x - n)
	case 'E':
		m.down(n)
		m.cur.x = 0
	case 'F':
		m.up(n)
		m.cur.x = 0
	case 'G', '`':
		m.moveX(n - 1)
	case 'H', 'f':
		m.moveTo(n-1, p.count(1)-1)
	case 'I':
		m.tab(n)
	case 'J':
		m.eraseScreen(p.at(0, 0), false)
	case 'K':
		m.eraseLine(p.at(0, 0), false)
	case 'L':
		m.insertLines(n)
	case 'M':
		m.deleteLines(n)
	case 'P':
		m.deleteChars(n)
	case 'S':
		m.scrollUp(m.top, m.under, n)
	case 'T', '^':
		if len(p.n) <= 1 {
			m.scrollDown(m.top, m.under, n)
		}
	case 'X':
		m.eraseChars(n)
	case 'Z':
		m.tab(-n)
	case 'b':
		m.repeat(n)
	case 'c':
		m.ask(attributes)
	case 'd':
		m.moveTo(n-1, m.cur.x)
	case 'e': // the scroll region counts with DECOM only
		top := 0
		if m.modes&ModeOrigin != 0 {
			top = m.top
		}
		m.moveTo(m.cur.y-top+n, m.cur.x)
	case 'g':
		m.clearTabs(p.at(0, 0))
	case 'h', 'l':
		for i := range p.n {
			m.setMode(p.at(i, 0), false, b == 'h')
		}
	case 'm':
		m.rendition(p)
	case 'n':
		m.status(p.at(0, 0), "")
	case 'r':
		m.setRegion(n-1, p.at(1, 0))
	case 's':
		m.save()
	case 't':
		m.window(p)
	case 'u':
		m.restore()
	case 'x':
		m.ask("\x1b[2;1;1;112;112;1;0x")
	}
}

func (m *Model) private(b byte, p *params) {
	switch b {
	case 'J':
		m.eraseScreen(p.at(0, 0), true)
	case 'K':
		m.eraseLine(p.at(0, 0), true)
	case 'h', 'l':
		for i := range p.n {
			m.setMode(p.at(i, 0), true, b == 'h')
		}
	case 'r', 's':
		for i := range p.n {
			m.savePrivate(p.at(i, 0), b == 's')
		}
	case 'n':
		m.status(p.at(0, 0), "?")
	case 'u':
		m.askKitty()
	}
}

// special are the sequences with a mark or an intermediate.
func (m *Model) special(name string, p *params) {
	switch name {
	case "!p":
		m.softReset()
	case " q":
		if n := p.at(0, 0); n <= 6 {
			m.shape = n
			m.touched |= touchedShape
		}
	case "\"q":
		s := m.styles[m.cur.style]
		if s.Attr &^= protected; p.at(0, 0) == 1 {
			s.Attr |= protected
		}
		m.setStyle(s)
	case "$p":
		m.askMode(p.at(0, 0), false)
	case "?$p":
		m.askMode(p.at(0, 0), true)
	case ">c":
		m.ask("\x1b[>1;10;0c")
	case "=c":
		m.ask("\x1bP!|00000000\x1b\\")
	case ">q":
		m.ask("\x1bP>|muxd\x1b\\")
	case ">m":
		if p.at(0, 0) == 4 {
			m.keys = min(p.at(1, 0), 2)
			m.touched |= touchedKeys
		}
	case ">n":
		if p.at(0, 0) == 4 {
			m.keys = 0
		}
	case ">u":
		m.pushKitty(p.at(0, 0))
	case "<u":
		m.kitty = m.kitty[:max(0, len(m.kitty)-p.count(0))]
	case "=u":
		m.setKitty(p.at(0, 0), p.at(1, 1))
	}
}

// kittyMost is how many flags kitty's protocol lets a program push here.
const kittyMost = 16

func (m *Model) pushKitty(flags int) {
	if len(m.kitty) == kittyMost {
		m.kitty = append(m.kitty[:0], m.kitty[1:]...)
	}
	m.kitty = append(m.kitty, flags&31)
	m.touched |= touchedKitty
}

func (m *Model) setKitty(flags, how int) {
	if len(m.kitty) == 0 {
		m.kitty = []int{0}
	}
	m.touched |= touchedKitty
	top := &m.kitty[len(m.kitty)-1]
	switch flags &= 31; how {
	case 1:
		*top = flags
	case 2:
		*top |= flags
	case 3:
		*top &^= flags
	}
}
