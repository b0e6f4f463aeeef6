package screen

import (
	"encoding/hex"
	"fmt"
	"strings"
)

// Query is a question of the program to its terminal. Only one terminal may answer it: others are to be shown Mask in place
// of its last byte, and so drop it. The backslash behind the ESC that has ended a question comes as one without an answer.
type Query struct {
	End    int // offset in what Write was given, behind the question
	Mask   byte
	Answer string // "" where this model has none
}

// Queries are the questions in the last Write. They are valid until the next.
func (m *Model) Queries() []Query { return m.queries }

// attributes is the answer to DA1: a VT220 with colours.
const attributes = "\x1b[?62;22c"

// cancel is CAN, which ends a sequence that then does nothing.
const cancel = '\x18'

// ask records a question that ends where the parser is.
func (m *Model) ask(answer string) {
	m.queries = append(m.queries, Query{m.at + 1, cancel, answer})
}

// askString records a question by a string. Where an ESC has ended it, a backslash is to follow.
func (m *Model) askString(answer string) {
	m.ask(answer)
	m.asked = m.state == escape
}

// status is DSR.
func (m *Model) status(n int, mark string) {
	switch {
	case n == 5 && mark == "":
		m.ask("\x1b[0n")
	case n == 6:
		y := m.cur.y
		if m.modes&ModeOrigin != 0 {
			y -= m.top
		}
		m.ask(fmt.Sprintf("\x1b[%s%d;%dR", mark, y+1, m.cur.x+1))
	case mark == "?":
		m.ask("")
	}
}

func (m *Model) askMode(n int, private bool) {
	answer, mark := 0, ""
	if on, known := m.isSet(n, private); known {
		answer = 2
		if on {
			answer = 1
		}
	}
	if private {
		mark = "?"
	}
	m.ask(fmt.Sprintf("\x1b[%s%d;%d$y", mark, n, answer))
}

func (m *Model) askKitty() { m.ask(fmt.Sprintf("\x1b[?%du", m.kittyFlags())) }

func (m *Model) kittyFlags() int {
	if len(m.kitty) == 0 {
		return 0
	}
	return m.kitty[len(m.kitty)-1]
}

// window is CSI t: questions about the window, and the title stack. Nothing here changes a window.
func (m *Model) window(p *params) {
	switch what, of := p.at(0, 0), p.at(1, 0); what {
	case 18, 19:
		m.ask(fmt.Sprintf("\x1b[%d;%d;%dt", what-10, m.rows, m.cols))
	case 11, 13, 14, 15, 16, 20, 21:
		m.ask("") // pixels, and titles, which a program could have had typed
	case 22:
		if len(m.titles) == titlesMost {
			m.titles = append(m.titles[:0], m.titles[1:]...)
		}
		m.titles = append(m.titles, titles{m.title, m.icon})
	case 23:
		if len(m.titles) == 0 {
			return
		}
		t := m.titles[len(m.titles)-1]
		m.titles = m.titles[:len(m.titles)-1]
		if of != 1 {
			m.title = t.title
		}
		if of != 2 {
			m.icon = t.icon
		}
	}
}

// device is DCS: what stands before its string is in seq, and the string was collected.
func (m *Model) device() {
	switch string(m.seq) {
	case "$q":
		if s, ok := m.setting(string(m.str)); ok {
			m.askString("\x1bP1$r" + s + string(m.str) + "\x1b\\")
		} else {
			m.askString("\x1bP0$r\x1b\\")
		}
	case "+q":
		name, _, _ := strings.Cut(string(m.str), ";")
		if b, err := hex.DecodeString(name); err == nil && string(b) == "TN" {
			m.askString("\x1bP1+r" + name + "=" + hex.EncodeToString([]byte("xterm-256color")) + "\x1b\\")
		} else {
			m.askString("\x1bP0+r\x1b\\")
		}
	}
}

// setting is what DECRQSS asks for: the parameters that the named sequence would have.
func (m *Model) setting(name string) (string, bool) {
	switch name {
	case "m":
		sgr := string(appendStyle(nil, Style{}, m.styles[m.cur.style], false))
		sgr = strings.TrimSuffix(strings.TrimPrefix(sgr, "\x1b["), "m")
		if sgr == "" {
			sgr = "0"
		}
		return sgr, true
	case "r":
		return fmt.Sprintf("%d;%d", m.top+1, m.under), true
	case " q":
		return fmt.Sprint(m.shape), true
	case "\"q":
		if m.styles[m.cur.style].Attr&protected != 0 {
			return "1", true
		}
		return "0", true
	case "\"p":
		return "62;1", true
	}
	return "", false
}
