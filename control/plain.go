package control

import (
	"bytes"
	"sort"
	"unicode/utf8"
)

// plainText is a terminal's output as text: without control sequences and control characters, but for newlines and tabs. A carriage
// return in the middle of a line, behind which the line is written anew, is a newline. It knows where in the output each
// byte of the text came from.
//
// States: ground → (ESC) escape → ([) sequence → (a final byte) ground; escape → (] P X ^ _) str → (BEL, or ESC \) ground.
type plainText struct {
	text   []byte
	spans  []span // ascending; where the text of each begins, in text and in the output
	next   uint64 // the offset in the output of the next byte
	state  plainState
	rune   [utf8.UTFMax]byte // the beginning of a character whose rest has not come
	runeN  int
	cr     bool   // a carriage return, behind which no text has come yet
	ground uint64 // the last offset that was in no sequence and no character
}

type plainState int

const (
	inText plainState = iota
	inEscape
	inIntermediate // ESC and an intermediate byte, which one more byte follows
	inSequence
	inString
)

type span struct {
	text int
	raw  uint64
}

// write appends the text of p, whose first byte has that offset.
func (t *plainText) write(offset uint64, p []byte) {
	if offset != t.next {
		t.state, t.runeN, t.cr = inText, 0, false
		t.next, t.ground = offset, offset
	}
	for len(p) > 0 {
		if n := t.run(p); n > 0 {
			t.emit(t.next, p[:n])
			t.next += uint64(n)
			t.ground = t.next
			p = p[n:]
			continue
		}
		t.next++
		t.step(p[0])
		if t.state == inText && t.runeN == 0 {
			t.ground = t.next
		}
		p = p[1:]
	}
}

// run is how many bytes at the beginning of p are plain text, whatever came before.
func (t *plainText) run(p []byte) int {
	if t.state != inText || t.runeN > 0 {
		return 0
	}
	n := bytes.IndexFunc(p, func(r rune) bool { return r < ' ' && r != '\n' && r != '\t' || r >= 0x7f })
	if n < 0 {
		return len(p)
	}
	return n
}

// step takes one byte; next is behind it already.
func (t *plainText) step(b byte) {
	switch {
	case t.state == inString && b != 0x07 && b != 0x1b && b != 0x18 && b != 0x1a:
		return
	case b == 0x1b:
		t.state, t.runeN = inEscape, 0
	case b == 0x18 || b == 0x1a || t.state == inString: // CAN, SUB, BEL
		t.state, t.runeN = inText, 0
	case t.state != inText:
		t.sequence(b)
	case b >= 0x80:
		t.part(b)
	case b == '\r':
		t.cr = true
	case b >= ' ' && b != 0x7f || b == '\n' || b == '\t':
		t.runeN = 0
		t.emit(t.next-1, []byte{b})
	}
}

func (t *plainText) sequence(b byte) {
	switch {
	case b < ' ': // acts, and the sequence goes on
	case t.state == inEscape && b == '[':
		t.state = inSequence
	case t.state == inEscape && bytes.IndexByte([]byte("]PX^_"), b) >= 0:
		t.state = inString
	case t.state != inSequence && b < '0':
		t.state = inIntermediate
	case t.state != inSequence || b >= '@':
		t.state = inText
	}
}

// part takes a byte of a character of several. What is no UTF-8 is left out.
func (t *plainText) part(b byte) {
	if utf8.RuneStart(b) || t.runeN == len(t.rune) {
		t.runeN = 0
	}
	t.rune[t.runeN] = b
	t.runeN++
	if p := t.rune[:t.runeN]; utf8.FullRune(p) {
		if utf8.Valid(p) {
			t.emit(t.next-uint64(t.runeN), p)
		}
		t.runeN = 0
	}
}

// emit appends p, whose first byte is at offset raw of the output.
func (t *plainText) emit(raw uint64, p []byte) {
	if n := len(t.text); t.cr && p[0] != '\n' && n > 0 && t.text[n-1] != '\n' {
		t.add(raw-1, []byte{'\n'})
	}
	t.cr = false
	t.add(raw, p)
}

func (t *plainText) add(raw uint64, p []byte) {
	if k := len(t.spans); k == 0 || t.spans[k-1].raw+uint64(len(t.text)-t.spans[k-1].text) != raw {
		t.spans = append(t.spans, span{len(t.text), raw})
	}
	t.text = append(t.text, p...)
}

// offset is the offset in the output behind the first n bytes of the text.
func (t *plainText) offset(n int) uint64 {
	if len(t.spans) == 0 {
		return t.ground
	}
	k := max(0, sort.Search(len(t.spans), func(i int) bool { return t.spans[i].text >= n })-1)
	return t.spans[k].raw + uint64(n-t.spans[k].text)
}

// trim forgets the first n bytes of the text.
func (t *plainText) trim(n int) {
	if n == 0 {
		return
	}
	k := max(0, sort.Search(len(t.spans), func(i int) bool { return t.spans[i].text > n })-1)
	t.spans = append(t.spans[:0], t.spans[k:]...)
	for i := range t.spans {
		if less := n - t.spans[i].text; less > 0 {
			t.spans[i].raw += uint64(less)
			t.spans[i].text = 0
		} else {
			t.spans[i].text = -less
		}
	}
	t.text = append(t.text[:0], t.text[n:]...)
}
