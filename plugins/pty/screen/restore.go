package screen

import "strconv"

// What is no mode, but is told by Changed as well.
const (
	changedStyle   Mode = 1 << 35
	changedMargins Mode = 1 << 34
	changedColors  Mode = 1 << 33
	changedCharset Mode = 1 << 32
)

// modesRestored are those that AppendRestore brings back. How the cursor blinks, and what the wheel types, is another
// matter on every terminal.
const modesRestored = ^(ModeBlink | ModeReverseWrap | ModeAltScroll)

// Changed is what there is of this terminal that should not stay on another one when that has followed this one for the last time.
func (m *Model) Changed() Mode {
	c := (m.modes ^ modesAtStart) & modesRestored
	for _, k := range []struct {
		changed bool
		what    Mode
	}{
		{m.cur.style != 0, changedStyle},
		{m.top != 0 || m.under != m.rows, changedMargins},
		{len(m.palette) > 0, changedColors},
		{m.cur.gl != 0 || m.cur.sets[0] != 0, changedCharset},
		{m.shape != 0, touchedShape},
		{m.keys != 0, touchedKeys},
		{len(m.kitty) > 0, touchedKitty},
	} {
		if k.changed {
			c |= k.what
		}
	}
	return c
}

// Depth changes with what else AppendRestore writes.
func (m *Model) Depth() int {
	return len(m.kitty) + (kittyMost+1)*(len(m.titles)+(titlesMost+1)*len(m.palette))
}

// AppendRestore appends what brings another terminal that has followed this one, and on which what has changed, back to normal. The alternate
// screen comes last, since what is reset on it concerns it. Nothing is appended where nothing is to be done.
func (m *Model) AppendRestore(b []byte, what Mode) []byte {
	if m.state != ground || m.utfN != 0 {
		b = append(b, '\x18') // CAN ends the sequence whose rest will not come
	}
	for _, k := range []struct {
		what Mode
		text string
	}{
		{changedStyle, "\x1b[m\x1b]8;;\x1b\\"},
		{changedCharset, "\x0f\x1b(B"},
		{changedMargins, "\x1b7\x1b[r\x1b8"}, // DECSTBM moves the cursor: DECSC and DECRC around it
		{ModeKeypad, "\x1b>"},
		{touchedShape, "\x1b[0 q"},
		{touchedKeys, "\x1b[>4m"},
	} {
		if what&k.what != 0 {
			b = append(b, k.text...)
		}
	}
	if n := len(m.kitty); n > 0 {
		b = append(strconv.AppendInt(append(b, "\x1b[<"...), int64(n), 10), 'u')
	}
	for range m.titles {
		b = append(b, "\x1b[23;0t"...)
	}
	b = m.resetColors(b)
	for _, k := range modeTable {
		if what&k.mode != 0 && k.mode&^(ModeAlternate|ModeKeypad) != 0 {
			b = k.append(b, modesAtStart&k.mode != 0)
		}
	}
	if what&ModeAlternate != 0 {
		b = append(b, "\x1b[?1049l"...)
	}
	return b
}

// resetColors takes back what has been set of the terminal's own colours.
func (m *Model) resetColors(b []byte) []byte {
	for n := range m.palette {
		if n < 256 {
			b = append(b, "\x1b]104\x1b\\"...)
			break
		}
	}
	for n := colorText; n <= colorCursor; n++ {
		if _, ok := m.palette[n]; ok {
			b = append(strconv.AppendInt(append(b, "\x1b]"...), int64(n-colorText+110), 10), "\x1b\\"...)
		}
	}
	return b
}

// append appends the sequence that sets or resets k.
func (k modeNumber) append(b []byte, on bool) []byte {
	if b = append(b, "\x1b["...); k.private {
		b = append(b, '?')
	}
	if b = strconv.AppendInt(b, int64(k.n), 10); on {
		return append(b, 'h')
	}
	return append(b, 'l')
}

// Unfinished says whether the cursor stands behind something in its line, on the main screen.
func (m *Model) Unfinished() bool {
	if m.shown == &m.alt {
		return m.main.saved.x > 0
	}
	return m.cur.x > 0
}
