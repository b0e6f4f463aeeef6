package screen

import "unicode/utf8"

// The parser is the state machine that Paul Williams found in the VT500 series (https://vt100.net/emu/dec_ansi_parser),
// with UTF-8 in the ground state, and BEL as an end of OSC, as xterm has it. Parameters are collected as they are, and
// looked at when a sequence is complete.
type state uint8

const (
	ground state = iota
	escape
	escapeInter
	csiEntry
	csiParam
	csiInter
	csiIgnore
	dcsEntry
	dcsParam
	dcsInter
	dcsPass
	dcsIgnore
	oscString
	otherString // SOS, PM and APC
	states
)

type action uint8

const (
	nothing action = iota
	execute
	begin // a sequence
	collect
	escDispatch
	csiDispatch
	hook // the final byte of a DCS: its string follows
	beginOSC
	put
	endOSC    // by BEL
	endEscape // a string ends by the ESC of ESC \
)

// Bounds of what is collected.
const (
	seqMost = 128
	strMost = 4096
)

// parser is where Write is in a sequence.
type parser struct {
	state  state
	seq    []byte // parameters and intermediates of a sequence, and with DCS the final byte
	str    []byte // of OSC or DCS
	over   bool   // str was too long: it will be ignored
	utf    [4]byte
	utfN   int    // bytes in utf: the beginning of a character
	at     int    // offset in what Write was given
	params params // of the control sequence that is being done

	asked bool // an ESC has just ended a string that was a question
}

// table says for each state and byte what is done, and what the next state is.
var table = makeTable()

type entry struct {
	do   action
	next state
}

func makeTable() (t [states][256]entry) {
	set := func(s state, from, to int, do action, next state) {
		for b := from; b <= to; b++ {
			t[s][b] = entry{do, next}
		}
	}
	for s := range states {
		set(s, 0, 0xff, nothing, s)
	}
	for _, s := range []state{ground, escape, escapeInter, csiEntry, csiParam, csiInter, csiIgnore} {
		set(s, 0, 0x1f, execute, s)
	}
	set(escape, 0x20, 0x2f, collect, escapeInter)
	set(escape, 0x30, 0x7e, escDispatch, ground)
	set(escape, '[', '[', nothing, csiEntry)
	set(escape, ']', ']', beginOSC, oscString)
	set(escape, 'P', 'P', nothing, dcsEntry)
	for _, b := range []int{'X', '^', '_'} {
		set(escape, b, b, nothing, otherString)
	}
	set(escapeInter, 0x20, 0x2f, collect, escapeInter)
	set(escapeInter, 0x30, 0x7e, escDispatch, ground)

	set(csiEntry, 0x20, 0x2f, collect, csiInter)
	set(csiEntry, 0x30, 0x3f, collect, csiParam)
	set(csiParam, 0x20, 0x2f, collect, csiInter)
	set(csiParam, 0x30, 0x3b, collect, csiParam)
	set(csiParam, 0x3c, 0x3f, nothing, csiIgnore)
	set(csiInter, 0x20, 0x2f, collect, csiInter)
	set(csiInter, 0x30, 0x3f, nothing, csiIgnore)
	for _, s := range []state{csiEntry, csiParam, csiInter} {
		set(s, 0x40, 0x7e, csiDispatch, ground)
	}
	set(csiIgnore, 0x40, 0x7e, nothing, ground)

	set(dcsEntry, 0x20, 0x2f, collect, dcsInter)
	set(dcsEntry, 0x30, 0x39, collect, dcsParam)
	set(dcsEntry, 0x3a, 0x3a, nothing, dcsIgnore)
	set(dcsEntry, 0x3b, 0x3f, collect, dcsParam)
	set(dcsParam, 0x20, 0x2f, collect, dcsInter)
	set(dcsParam, 0x30, 0x3b, collect, dcsParam)
	set(dcsParam, 0x3a, 0x3a, nothing, dcsIgnore)
	set(dcsParam, 0x3c, 0x3f, nothing, dcsIgnore)
	set(dcsInter, 0x20, 0x2f, collect, dcsInter)
	set(dcsInter, 0x30, 0x3f, nothing, dcsIgnore)
	for _, s := range []state{dcsEntry, dcsParam, dcsInter} {
		set(s, 0x40, 0x7e, hook, dcsPass)
	}
	set(dcsPass, 0, 0xff, put, dcsPass)
	set(oscString, 0x20, 0xff, put, oscString)
	set(oscString, 0x07, 0x07, endOSC, ground)

	for s := range states {
		set(s, 0x18, 0x18, execute, ground)
		set(s, 0x1a, 0x1a, execute, ground)
		set(s, 0x1b, 0x1b, begin, escape)
	}
	set(dcsPass, 0x1b, 0x1b, endEscape, escape)
	set(oscString, 0x1b, 0x1b, endEscape, escape)
	return t
}

func (m *Model) parse(p []byte) {
	for i := 0; i < len(p); {
		if m.state == ground {
			if m.utfN > 0 {
				i += m.continueRune(p[i:])
				continue
			}
			if n := printable(p[i:]); n > 0 {
				m.printASCII(p[i : i+n])
				i += n
				continue
			}
			if p[i] >= utf8.RuneSelf {
				i += m.text(p[i:])
				continue
			}
			if b := p[i]; b == '\n' || b == '\r' { // as the table says; most of what is no text
				m.last, m.asked = 0, false
				m.execute(b)
				i++
				continue
			}
		}
		m.at = i
		m.step(p[i])
		i++
	}
}

// printable is how many bytes p begins with that are printed as they are.
func printable(p []byte) int {
	for i, b := range p {
		if b-0x20 >= 0x5f {
			return i
		}
	}
	return len(p)
}

// text prints the characters beyond ASCII that p begins with, and returns how long they are.
func (m *Model) text(p []byte) int {
	n := 0
	for n < len(p) && p[n] >= utf8.RuneSelf {
		if !utf8.FullRune(p[n:]) {
			m.utfN = copy(m.utf[:], p[n:])
			return len(p)
		}
		r, size := utf8.DecodeRune(p[n:])
		m.print(r)
		n += size
	}
	return n
}

// continueRune goes on with a character whose beginning came with an earlier Write, and returns how much of p it took.
func (m *Model) continueRune(p []byte) int {
	had := m.utfN
	took := copy(m.utf[had:], p)
	b := m.utf[:had+took]
	if !utf8.FullRune(b) {
		m.utfN = len(b)
		return took
	}
	m.utfN = 0
	r, size := utf8.DecodeRune(b)
	m.print(r)
	if size >= had {
		return size - had
	}
	// The beginning was no beginning. Its first byte is done, and what was kept behind it comes again.
	rest := append([]byte(nil), m.utf[size:had]...)
	m.text(rest)
	return 0
}

func (m *Model) step(b byte) {
	e := table[m.state][b]
	m.state = e.next
	asked := m.asked
	m.asked = false
	switch e.do {
	case execute:
		m.last = 0
		m.execute(b)
	case begin:
		m.seq = m.seq[:0]
	case collect:
		if m.seq = append(m.seq, b); len(m.seq) > seqMost {
			m.tooLong()
		}
	case escDispatch:
		m.last = 0
		m.escape(b, asked)
	case csiDispatch:
		if b != 'b' {
			m.last = 0
		}
		m.control(b)
	case hook:
		m.seq = append(m.seq, b)
		m.str, m.over = m.str[:0], false
	case beginOSC:
		m.str, m.over = m.str[:0], false
	case put:
		m.put(b)
	case endOSC:
		m.command()
		m.dropString()
	case endEscape:
		if len(m.seq) > 0 {
			m.device()
		} else {
			m.command()
		}
		m.dropString()
		m.seq = m.seq[:0]
	}
}

// tooLong has the rest of a sequence that nothing would understand passed over.
func (m *Model) tooLong() {
	m.seq = m.seq[:0]
	switch m.state {
	case csiParam, csiInter:
		m.state = csiIgnore
	case dcsParam, dcsInter:
		m.state = dcsIgnore
	default:
		m.state = ground
	}
}

// put adds to a string. What is too long becomes one that says nothing.
func (m *Model) put(b byte) {
	switch {
	case m.over:
	case len(m.str) == strMost:
		m.str, m.over = append(m.str[:0], '?'), true
	default:
		m.str = append(m.str, b)
	}
}

// dropString gives the memory of a long string back.
func (m *Model) dropString() {
	m.str = m.str[:0]
	if cap(m.str) > 256 {
		m.str = nil
	}
}

// AppendPartial appends what brings another parser to where this one is: inside of a sequence, if at all. It begins no
// sequence that is complete.
func (m *Model) AppendPartial(b []byte) []byte {
	switch m.state {
	case ground:
		return append(b, m.utf[:m.utfN]...)
	case escape, escapeInter:
		b = append(b, '\x1b')
	case csiEntry, csiParam, csiInter:
		b = append(b, "\x1b["...)
	case csiIgnore:
		return append(b, "\x1b[ 0"...)
	case dcsEntry, dcsParam, dcsInter, dcsPass:
		b = append(b, "\x1bP"...)
	case dcsIgnore:
		return append(b, "\x1bP:"...)
	case oscString:
		b = append(b, "\x1b]"...)
	case otherString:
		return append(b, "\x1b_"...)
	}
	b = append(b, m.seq...)
	if m.state == dcsPass || m.state == oscString {
		b = append(b, m.str...)
	}
	return b
}
