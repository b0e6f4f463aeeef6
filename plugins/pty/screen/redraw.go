package screen

import (
	"slices"
	"strconv"
)

// AppendRedraw appends what makes another terminal of this size look and act like this one, in whatever state it is:
// contents of both screens, cursors, modes, titles, colours, and the beginning of a sequence whose rest is still to
// come. With first the terminal has not followed this one before: then what the program has never touched is left as
// the terminal's owner has it, and stacks are filled. What was scrolled off is not drawn.
func (m *Model) AppendRedraw(b []byte, first bool) []byte {
	// CAN ends a sequence whose rest the terminal will not see. DECSTR is not known to all, so that what it does is
	// said in detail too.
	b = append(b, "\x18\x1b[?1049l\x1b[!p\x1b[?5;6;2026l\x1b[?7;25h\x1b[4l\x1b[20l\x1b[r\x1b[m\x1b[0\"q\x1b]8;;\x1b\\"...)
	b = append(b, "\x0f\x1b(B\x1b)B\x1b*B\x1b+B\x1b[H\x1b[J"...)
	b = m.appendTitles(b, first)
	b = m.appendColors(b)
	b = m.appendTabs(b)
	d := drawing{pen{m: m, b: b}}
	d.grid(&m.main)
	if m.shown == &m.alt {
		d.save(&m.main, "\x1b[?1049h")
		d.b = append(d.b, "\x1b[H\x1b[J"...)
		d.grid(&m.alt)
	}
	if m.shown.saved != (saved{}) {
		d.save(m.shown, "\x1b7")
	}
	d.state(first)
	return m.AppendPartial(d.b)
}

func (m *Model) appendTitles(b []byte, first bool) []byte {
	say := func(t titles) {
		if t.icon != "" || !first {
			b = append(append(append(b, "\x1b]1;"...), t.icon...), "\x1b\\"...)
		}
		if t.title != "" || !first {
			b = append(append(append(b, "\x1b]2;"...), t.title...), "\x1b\\"...)
		}
	}
	if first {
		for _, t := range m.titles {
			say(t)
			b = append(b, "\x1b[22;0t"...)
		}
	}
	if now := (titles{m.title, m.icon}); now != (titles{}) || len(m.titles) > 0 {
		say(now)
	}
	return b
}

func (m *Model) appendColors(b []byte) []byte {
	for n := range colorCursor + 1 {
		c, ok := m.palette[n]
		if !ok {
			continue
		}
		if b = append(b, "\x1b]"...); n < 256 {
			b = strconv.AppendInt(append(b, "4;"...), int64(n), 10)
		} else {
			b = strconv.AppendInt(b, int64(n-colorText+10), 10)
		}
		b = append(b, ";rgb:"...)
		for i, shift := range []int{16, 8, 0} {
			if i > 0 {
				b = append(b, '/')
			}
			b = append(b, "0123456789abcdef"[c>>shift>>4&15], "0123456789abcdef"[c>>shift&15])
		}
		b = append(b, "\x1b\\"...)
	}
	return b
}

func (m *Model) appendTabs(b []byte) []byte {
	if m.touched&touchedTabs == 0 {
		return b
	}
	b = append(b, "\x1b[3g"...)
	for x, stop := range m.tabs {
		if stop {
			b = append(appendCUP(b, 0, x), "\x1bH"...)
		}
	}
	return b
}

func appendCUP(b []byte, y, x int) []byte {
	b = strconv.AppendInt(append(b, "\x1b["...), int64(y+1), 10)
	b = strconv.AppendInt(append(b, ';'), int64(x+1), 10)
	return append(b, 'H')
}

// drawing is a redraw as it goes on. Between its steps lines wrap, there is no region, and ASCII is in use.
type drawing struct{ pen }

// grid draws the contents of g on an empty screen. A line that goes on in the next one runs over, so that the terminal
// knows that too.
func (d *drawing) grid(g *grid) {
	over := false // the cursor is behind a line that goes on
	for y := range g.order {
		row := g.row(y)
		n := used(row)
		goesOn := g.wrapped(y) && y+1 < len(g.order) && used(g.row(y+1)) > 0
		if goesOn && !(n == len(row)-1 && g.row(y + 1)[0].wide()) {
			n = len(row)
		}
		if n == 0 {
			continue
		}
		if !over {
			d.b = appendCUP(d.b, y, 0)
		}
		d.cells(row[:n])
		over = goesOn
	}
	d.to(0)
}

// place puts the cursor of g where c is, in c's style and character sets.
func (d *drawing) place(g *grid, c cursor) {
	x := c.x
	if !c.pending {
		d.b = appendCUP(d.b, c.y, x)
	} else {
		// Only printing in the last column makes the next character go to the next line.
		row := g.row(c.y)
		if row[x].rest() {
			x--
		}
		d.b = appendCUP(d.b, c.y, x)
		d.cells(row[x:])
	}
	d.to(c.style)
	for i, set := range c.sets {
		if set != 0 {
			d.b = append(d.b, '\x1b', '('+byte(i), set)
		}
	}
	d.b = append(d.b, []string{"", "\x0e", "\x1bn", "\x1bo"}[c.gl]...)
}

// plain is what stands between two steps.
func (d *drawing) plain() {
	d.to(0)
	d.b = append(d.b, "\x0f\x1b(B\x1b)B\x1b*B\x1b+B"...)
}

// save has the terminal save the cursor that g has saved, by the sequence by.
func (d *drawing) save(g *grid, by string) {
	if g.saved.origin {
		d.b = append(d.b, "\x1b[?6h"...) // with the whole screen as the region nothing else changes
	}
	d.place(g, g.saved.cursor)
	d.b = append(d.b, by...)
	if g.saved.origin {
		d.b = append(d.b, "\x1b[?6l"...)
	}
	d.plain()
}

// state sets what is left: the region, the cursor and the modes.
func (d *drawing) state(first bool) {
	m := d.m
	if m.top != 0 || m.under != m.rows {
		d.b = strconv.AppendInt(append(d.b, "\x1b["...), int64(m.top+1), 10)
		d.b = strconv.AppendInt(append(d.b, ';'), int64(m.under), 10)
		d.b = append(d.b, 'r')
	}
	c := m.cur
	if m.modes&ModeOrigin != 0 {
		d.b = append(d.b, "\x1b[?6h"...)
	}
	d.placeIn(c)
	for _, k := range modeTable {
		d.mode(k)
	}
	if m.touched&touchedShape != 0 {
		d.b = append(d.b, '\x1b', '[', '0'+byte(m.shape), ' ', 'q')
	}
	if m.touched&touchedKeys != 0 {
		d.b = append(d.b, "\x1b[>4;"...)
		d.b = append(d.b, '0'+byte(m.keys), 'm')
	}
	d.kitty(first)
	if c.single != 0 {
		d.b = append(d.b, '\x1b', 'N'+byte(c.single)-2)
	}
}

// placeIn places the cursor where DECOM may be set.
func (d *drawing) placeIn(c cursor) {
	m := d.m
	g := m.shown
	if m.modes&ModeOrigin == 0 {
		d.place(g, c)
		return
	}
	// Within the region, whose first line is number 1.
	shift := m.top
	part := grid{cells: g.cells, order: g.order[shift:], wraps: g.wraps, cols: g.cols}
	c.y -= shift
	d.place(&part, c)
}

// mode sets or resets one mode that is not as it is between two steps. Origin mode is set by now.
func (d *drawing) mode(k modeNumber) {
	m := d.m
	on := m.modes&k.mode != 0
	switch {
	case k.mode == ModeAlternate, k.mode == ModeOrigin:
		return
	case k.mode == ModeKeypad:
		if on {
			d.b = append(d.b, "\x1b="...)
		} else if m.touched&k.mode != 0 {
			d.b = append(d.b, "\x1b>"...)
		}
		return
	case on && modesAtStart&k.mode != 0, !on && m.touched&k.mode == 0:
		return
	}
	d.b = k.append(d.b, on)
}

// kitty fills the stack of kitty's keyboard protocol, or only sets its top where the terminal has followed it.
func (d *drawing) kitty(first bool) {
	m := d.m
	switch {
	case m.touched&touchedKitty == 0:
	case first:
		for _, flags := range m.kitty {
			d.b = strconv.AppendInt(append(d.b, "\x1b[>"...), int64(flags), 10)
			d.b = append(d.b, 'u')
		}
	default:
		d.b = strconv.AppendInt(append(d.b, "\x1b[="...), int64(m.kittyFlags()), 10)
		d.b = append(d.b, 'u')
	}
}

// Pristine says whether nothing has been written that a terminal would have to be told.
func (m *Model) Pristine() bool {
	blank := func(g *grid) bool { return !slices.ContainsFunc(g.cells, func(c cell) bool { return c != cell{} }) }
	return m.shown == &m.main && m.touched == 0 && m.cur == (cursor{}) && m.main.saved == (saved{}) &&
		m.state == ground && m.utfN == 0 && m.title == "" && m.icon == "" && len(m.titles) == 0 &&
		len(m.palette) == 0 && m.top == 0 && m.under == m.rows && blank(&m.main)
}
