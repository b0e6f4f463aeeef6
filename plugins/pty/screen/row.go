package screen

import (
	"slices"
	"strconv"
)

// appendStyle appends what makes style to of style from: SGR, and with links OSC 8.
func appendStyle(b []byte, from, to Style, links bool) []byte {
	if links && from.Link != to.Link {
		b = append(b, "\x1b]8;"...)
		if to.Link == "" {
			b = append(b, ';')
		}
		b = append(append(b, to.Link...), "\x1b\\"...)
	}
	from.Link, to.Link = "", ""
	if from == to {
		return b
	}
	if (from.Attr^to.Attr)&protected != 0 {
		b = append(append(b, "\x1b["...), '0'+byte(to.Attr/protected&1))
		b = append(b, "\"q"...)
		from.Attr ^= protected
	}
	if from == to {
		return b
	}
	b = append(b, "\x1b[0"...)
	for i, code := range [...]string{";1", ";2", ";3", ";5", ";7", ";8", ";9", ";53"} {
		if to.Attr&(1<<i) != 0 {
			b = append(b, code...)
		}
	}
	switch to.Underline {
	case NoUnderline:
	case SingleUnderline:
		b = append(b, ";4"...)
	default:
		b = append(b, ";4:"...)
		b = append(b, '0'+byte(to.Underline))
	}
	b = appendColor(b, to.Fg, 30)
	b = appendColor(b, to.Bg, 40)
	b = appendColor(b, to.Under, 50)
	return append(b, 'm')
}

// appendColor appends the parameters for a colour of the text (30), behind it (40) or of its underline (50).
func appendColor(b []byte, c Color, what int64) []byte {
	if n, ok := c.Index(); ok {
		switch {
		case n < 8 && what != 50:
			return strconv.AppendInt(append(b, ';'), what+int64(n), 10)
		case n < 16 && what != 50:
			return strconv.AppendInt(append(b, ';'), what+60+int64(n)-8, 10)
		case what == 50: // behind colons: a terminal that does not know it skips it whole
			return strconv.AppendInt(append(b, ";58:5:"...), int64(n), 10)
		}
		b = strconv.AppendInt(append(b, ';'), what+8, 10)
		return strconv.AppendInt(append(b, ";5;"...), int64(n), 10)
	}
	rgb, ok := c.RGB()
	if !ok {
		return b
	}
	sep := byte(';')
	if what == 50 {
		b, sep = append(b, ";58:2:"...), ':'
	} else {
		b = strconv.AppendInt(append(b, ';'), what+8, 10)
		b = append(b, ";2"...)
	}
	for _, shift := range []int{16, 8, 0} {
		if what != 50 || shift != 16 {
			b = append(b, sep)
		} else {
			b = append(b, ':') // an empty colour space
		}
		b = strconv.AppendInt(b, int64(rgb>>shift&0xff), 10)
	}
	return b
}

// pen is what draws: where the terminal is that will read it, as far as styles go.
type pen struct {
	m     *Model
	b     []byte
	style uint32
}

func (p *pen) to(style uint32) {
	if style != p.style {
		p.b = appendStyle(p.b, p.m.styles[p.style], p.m.styles[style], true)
		p.style = style
	}
}

func (p *pen) cells(row []cell) {
	for len(row) > 0 {
		if n := plain(row, p.style); n > 0 {
			p.b = appendPlain(p.b, row[:n])
			row = row[n:]
			continue
		}
		if c := row[0]; !c.rest() {
			p.to(c.style)
			p.b = p.m.appendText(p.b, c)
		}
		row = row[1:]
	}
}

// plain is how many places row begins with that are printable ASCII in that style. Most lines are nothing else.
func plain(row []cell, style uint32) int {
	for i, c := range row {
		if c.char-0x20 >= 0x5f || c.style != style {
			return i
		}
	}
	return len(row)
}

// appendPlain appends places that are ASCII.
func appendPlain(b []byte, row []cell) []byte {
	at := len(b)
	b = slices.Grow(b, len(row))[:at+len(row)]
	to := b[at:]
	for i := range to {
		to[i] = byte(row[i].char)
	}
	return b
}

// appendRow appends a line that begins and ends in the default style. A whole one has its blank end too.
func (m *Model) appendRow(b []byte, row []cell, whole bool) []byte {
	if !whole {
		row = row[:used(row)]
	}
	p := pen{m: m, b: b}
	p.cells(row)
	p.to(0)
	return p.b
}
