package main

import (
	"bytes"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// privateModes are the DEC private modes (CSI ? N h and l) that a program may leave changed when its viewer goes,
// in the order in which they are put back: the alternate screen last, since what is reset on it concerns it.
var privateModes = []struct {
	number int
	normal bool // set, on a terminal that nobody has touched
}{
	{2026, false},                // synchronized output
	{1, false},                   // application cursor keys
	{5, false},                   // reverse screen
	{6, false},                   // origin mode
	{7, true},                    // wrap at the right margin
	{9, false},                   // X10 mouse
	{40, false},                  // allow 80 and 132 columns
	{66, false},                  // application keypad, the DEC way
	{1000, false}, {1001, false}, // mouse
	{1002, false}, {1003, false}, {1005, false}, {1006, false}, {1015, false}, {1016, false},
	{1004, false},                             // focus reports
	{2004, false},                             // bracketed paste
	{2031, false},                             // reports of the colour scheme
	{25, true},                                // cursor visible
	{47, false}, {1047, false}, {1049, false}, // alternate screen
}

func normalMode(number int) (normal, tracked bool) {
	for _, m := range privateModes {
		if m.number == number {
			return m.normal, true
		}
	}
	return false, false
}

// screenModes follows a console's output and knows what in it has changed the viewer's terminal in a way that should not
// outlast the viewer. Sequences may be split over writes at any place.
//
// States of the parser: text → (ESC) escape → ([) sequence → (a final byte) text; escape → (] P X ^ _) string →
// (BEL or ESC \) text. CAN and SUB lead back to text from everywhere.
type screenModes struct {
	state  func(*screenModes, byte)
	params []byte // of a sequence: what stands between ESC [ and its final byte; of an OSC string: its beginning
	osc    bool   // inside of an OSC string

	changed map[int]bool // private modes that are not as normal
	keypad  bool         // ESC =
	style   bool         // SGR
	margins bool         // DECSTBM
	cursor  bool         // DECSCUSR, the cursor's shape
	keys    bool         // xterm's modifyOtherKeys
	kitty   int          // depth of the stack of kitty's keyboard modes
	charset bool         // SO, or a character set other than ASCII in G0
	insert  bool         // IRM
	newline bool         // LNM
	title   string       // the latest, as an OSC string; "": none
	titles  int          // that the program has pushed (XTWINOPS)
	own     bool         // the terminal's own title is below them (saveTitle)
	colours [len(colourStrings)]bool
}

// saveTitle pushes the titles of the terminal's window and icon (XTWINOPS). Terminals that do not know it pass it over.
const saveTitle = "\x1b[22;0t"

// colourStrings are the strings (OSC) that change colours of the terminal itself, each with what takes that back: the palette, and the
// colours of text, background and cursor (xterm's control sequences, Operating System Commands).
var colourStrings = [...]struct{ set, reset string }{{"4", "104"}, {"10", "110"}, {"11", "111"}, {"12", "112"}}

// paramsMost is the longest parameter string that is looked at. What is longer is followed to its end and ignored.
const paramsMost = 128

// write follows p.
func (s *screenModes) write(p []byte) {
	for len(p) > 0 {
		if s.state == nil {
			i := bytes.IndexAny(p, "\x1b\x0e\x0f")
			if i < 0 {
				return
			}
			p = p[i:]
		}
		s.step(p[0])
		p = p[1:]
	}
}

func (s *screenModes) step(b byte) {
	switch {
	case b == 0x18 || b == 0x1a:
		s.state, s.osc = nil, false
	case b == 0x1b:
		if s.osc { // ESC \ ends it
			s.commanded()
		}
		s.osc = false
		s.state = (*screenModes).escape
	case s.state != nil:
		s.state(s, b)
	case b == 0x0e || b == 0x0f:
		s.charset = b == 0x0e
	}
}

func (s *screenModes) escape(b byte) {
	s.state = nil
	switch b {
	case '[':
		s.params = s.params[:0]
		s.state = (*screenModes).sequence
	case ']':
		s.params = s.params[:0]
		s.state, s.osc = (*screenModes).command, true
	case 'P', 'X', '^', '_':
		s.state = (*screenModes).text
	case '(':
		s.state = func(s *screenModes, b byte) { s.charset, s.state = b != 'B', nil }
	case ')', '*', '+', '#', '%', ' ':
		s.state = func(s *screenModes, b byte) { s.state = nil }
	case '=', '>':
		s.keypad = b == '='
	case 'c': // RIS
		*s = screenModes{params: s.params[:0], titles: s.titles, own: s.own}
	}
}

// text is inside of a string, which ends with BEL or with the ESC of ESC \.
func (s *screenModes) text(b byte) {
	if b == 0x07 {
		s.state = nil
	}
}

// command is inside of an OSC string. What begins it says what it does; a question at its end asks only.
func (s *screenModes) command(b byte) {
	switch {
	case b == 0x07:
		s.state, s.osc = nil, false
		s.commanded()
	case len(s.params) <= paramsMost:
		s.params = append(s.params, b)
	}
}

// commanded looks at an OSC string that has ended.
func (s *screenModes) commanded() {
	number, value, _ := strings.Cut(string(s.params), ";")
	if (number == "0" || number == "2") && len(s.params) <= paramsMost {
		s.title = string(s.params)
	}
	for i, c := range colourStrings {
		switch {
		case number == c.reset:
			s.colours[i] = false
		case number == c.set && !strings.HasSuffix(value, "?"):
			s.colours[i] = true
		}
	}
}

func (s *screenModes) sequence(b byte) {
	switch {
	case b < 0x20 || b == 0x7f: // a control character inside of a sequence acts, and the sequence goes on
	case b < 0x40:
		if len(s.params) <= paramsMost {
			s.params = append(s.params, b)
		}
	default:
		s.state = nil
		if len(s.params) <= paramsMost {
			s.act(string(s.params), b)
		}
	}
}

// act does what the sequence CSI params final does, as far as it is followed.
func (s *screenModes) act(params string, final byte) {
	rest, private := strings.CutPrefix(params, "?")
	switch {
	case private && (final == 'h' || final == 'l'):
		for _, n := range strings.Split(rest, ";") {
			s.private(n, final == 'h')
		}
	case final == 'h' || final == 'l':
		for _, n := range strings.Split(params, ";") {
			s.insert = s.insert && n != "4" || n == "4" && final == 'h'
			s.newline = s.newline && n != "20" || n == "20" && final == 'h'
		}
	case final == 't' && (params == "22" || params == "22;0" || params == "22;2"):
		s.titles++
	case final == 't' && (params == "23" || params == "23;0" || params == "23;2"):
		s.titles = max(0, s.titles-1)
	case final == 'm' && strings.HasPrefix(params, ">4"):
		s.keys = strings.HasPrefix(params, ">4;") && params != ">4;0"
	case final == 'm' && !strings.HasPrefix(params, ">") && !private:
		s.style = !slices.Contains([]string{"", "0"}, params)
	case final == 'r' && !private:
		s.margins = params != ""
	case final == 'q' && strings.HasSuffix(params, " "):
		s.cursor = params != " " && params != "0 "
	case final == 'u' && strings.HasPrefix(params, ">"):
		s.kitty++
	case final == 'u' && strings.HasPrefix(params, "<"):
		n, err := strconv.Atoi(params[1:])
		if err != nil {
			n = 1
		}
		s.kitty = max(0, s.kitty-n)
	case final == 'p' && params == "!": // DECSTR
		delete(s.changed, 1)
		delete(s.changed, 6)
		delete(s.changed, 25)
		s.style, s.margins, s.keypad, s.charset, s.insert = false, false, false, false, false
	}
}

func (s *screenModes) private(number string, on bool) {
	n, err := strconv.Atoi(number)
	if err != nil {
		return
	}
	normal, tracked := normalMode(n)
	switch {
	case !tracked:
	case on == normal:
		delete(s.changed, n)
	default:
		if s.changed == nil {
			s.changed = map[int]bool{}
		}
		s.changed[n] = true
	}
}

// restore is what brings the terminal back to normal; "" where nothing is changed.
func (s *screenModes) restore() string {
	var b strings.Builder
	if s.state != nil {
		b.WriteString("\x18") // CAN ends the sequence whose rest will not come
	}
	for _, r := range []struct {
		changed bool
		text    string
	}{
		{s.style, "\x1b[m"},
		{s.charset, "\x0f\x1b(B"},
		{s.margins, "\x1b7\x1b[r\x1b8"}, // DECSTBM moves the cursor: DECSC and DECRC around it
		{s.insert, "\x1b[4l"},
		{s.newline, "\x1b[20l"},
		{s.keypad, "\x1b>"},
		{s.cursor, "\x1b[0 q"},
		{s.keys, "\x1b[>4m"},
		{s.kitty > 0, fmt.Sprintf("\x1b[<%du", s.kitty)},
	} {
		if r.changed {
			b.WriteString(r.text)
		}
	}
	for i, c := range colourStrings {
		if s.colours[i] {
			b.WriteString("\x1b]" + c.reset + "\x1b\\")
		}
	}
	s.privates(&b, func(normal bool) bool { return normal })
	if s.own {
		b.WriteString(strings.Repeat("\x1b[23;0t", s.titles+1))
	}
	return b.String()
}

// again is what brings a terminal that restore has brought back to normal to the console's private modes and title again.
func (s *screenModes) again() string {
	var b strings.Builder
	if s.own {
		b.WriteString(strings.Repeat(saveTitle, s.titles+1))
	}
	if s.own && s.title != "" {
		b.WriteString("\x1b]" + s.title + "\x1b\\")
	}
	if s.keypad {
		b.WriteString("\x1b=")
	}
	s.privates(&b, func(normal bool) bool { return !normal })
	return b.String()
}

// privates writes the sequence that sets each changed mode to what on says.
func (s *screenModes) privates(b *strings.Builder, on func(normal bool) bool) {
	for _, m := range privateModes {
		if !s.changed[m.number] {
			continue
		}
		final := 'l'
		if on(m.normal) {
			final = 'h'
		}
		fmt.Fprintf(b, "\x1b[?%d%c", m.number, final)
	}
}
