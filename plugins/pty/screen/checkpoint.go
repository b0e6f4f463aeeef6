package screen

import (
	"encoding/binary"
	"errors"
	"maps"
	"slices"
)

// checkpointVersion is the first byte of a checkpoint. It changes with what follows.
const checkpointVersion = 1

// AppendCheckpoint appends all that the model is, so that Restore makes one that goes on exactly.
func (m *Model) AppendCheckpoint(b []byte) []byte {
	m.sweep() // only what is in use counts
	w := writer{b: append(b, checkpointVersion)}
	w.n(m.rows, m.cols, int(m.modes), int(m.touched), m.shape, m.keys, int(m.last), m.top, m.under)
	w.list(m.kitty)
	w.text(m.title, m.icon)
	w.n(len(m.titles))
	for _, t := range m.titles {
		w.text(t.title, t.icon)
	}
	w.n(len(m.palette))
	for _, n := range slices.Sorted(maps.Keys(m.palette)) {
		w.n(n, int(m.palette[n]))
	}
	w.n(len(m.kept))
	for _, n := range slices.Sorted(maps.Keys(m.kept)) {
		w.n(n)
		w.bool(m.kept[n])
	}
	for _, stop := range m.tabs {
		w.bool(stop)
	}
	w.n(len(m.styles) - 1)
	for _, s := range m.styles[1:] {
		w.n(int(s.Fg), int(s.Bg), int(s.Under), int(s.Attr), int(s.Underline))
		w.text(s.Link)
	}
	w.n(len(m.clusters))
	w.text(m.clusters...)
	w.cursor(&m.cur)
	w.grid(&m.main)
	if m.shown == &m.alt {
		w.grid(&m.alt)
	}
	w.text(string(m.AppendPartial(nil)))
	w.bool(m.asked)
	return w.b
}

// Restore makes the model of which b is a checkpoint.
func Restore(b []byte) (*Model, error) {
	r := reader{b: b}
	if len(b) == 0 || b[0] != checkpointVersion {
		return nil, errors.New("screen: not a checkpoint of this version")
	}
	r.b = b[1:]
	m := New(r.n(RowsMost), r.n(ColsMost))
	m.modes, m.touched = Mode(r.n(1<<32-1)), Mode(r.n(1<<32-1))
	m.shape, m.keys, m.last = r.n(6), r.n(2), uint32(r.n(1<<32-1))
	m.top, m.under = r.n(m.rows-1), r.n(m.rows)
	for range r.n(kittyMost) {
		m.kitty = append(m.kitty, r.n(31))
	}
	m.title, m.icon = r.text(), r.text()
	for range r.n(titlesMost) {
		m.titles = append(m.titles, titles{r.text(), r.text()})
	}
	m.palette, m.kept = map[int]RGB{}, map[int]bool{}
	for range r.n(colorCursor + 1) {
		n := r.n(colorCursor)
		m.palette[n] = RGB(r.n(0xffffff))
	}
	for range r.n(len(modeTable)) {
		n := r.n(paramMost)
		m.kept[n] = r.bool()
	}
	for x := range m.tabs {
		m.tabs[x] = r.bool()
	}
	for range r.n(len(r.b)) {
		s := Style{
			Fg: Color(r.n(1<<32 - 1)), Bg: Color(r.n(1<<32 - 1)), Under: Color(r.n(1<<32 - 1)),
			Attr: Attr(r.n(1<<16 - 1)), Underline: Underline(r.n(int(DashedUnderline))), Link: r.text(),
		}
		m.numbers[s] = uint32(len(m.styles))
		m.styles = append(m.styles, s)
	}
	m.clusterN = map[string]uint32{}
	for range r.n(len(r.b)) {
		c := r.text()
		m.clusterN[c] = uint32(len(m.clusters))
		m.clusters = append(m.clusters, c)
	}
	m.stylesAt = 2*max(len(m.styles), len(m.clusters)) + tablesLeast
	r.cursor(m, &m.cur)
	r.grid(m, &m.main)
	if m.modes&ModeAlternate != 0 {
		m.alt = newGrid(m.rows, m.cols)
		m.shown = &m.alt
		r.grid(m, &m.alt)
	}
	partial, asked := r.text(), r.bool()
	if r.bad || m.top >= m.under || m.badChar(m.last) {
		return nil, errors.New("screen: the checkpoint is damaged")
	}
	m.Write([]byte(partial))
	m.asked = asked
	return m, nil
}

// writer writes a checkpoint: numbers as uvarint, texts behind their length.
type writer struct{ b []byte }

func (w *writer) n(n ...int) {
	for _, n := range n {
		w.b = binary.AppendUvarint(w.b, uint64(n))
	}
}

func (w *writer) list(n []int) { w.n(len(n)); w.n(n...) }

func (w *writer) text(s ...string) {
	for _, s := range s {
		w.n(len(s))
		w.b = append(w.b, s...)
	}
}

func (w *writer) bool(v bool) {
	if v {
		w.b = append(w.b, 1)
	} else {
		w.b = append(w.b, 0)
	}
}

func (w *writer) cursor(c *cursor) {
	w.n(c.x, c.y, int(c.style), int(c.blank), c.gl, c.single)
	w.b = append(w.b, c.sets[:]...)
	w.bool(c.pending)
}

// grid writes each line as its length and whether it goes on, and then runs of one style.
func (w *writer) grid(g *grid) {
	w.cursor(&g.saved.cursor)
	w.bool(g.saved.origin)
	for y := range g.order {
		row := g.row(y)
		row = row[:used(row)]
		w.n(len(row))
		w.bool(g.wrapped(y))
		for len(row) > 0 {
			k := 1
			for k < len(row) && row[k].style == row[0].style {
				k++
			}
			w.n(int(row[0].style), k)
			for _, c := range row[:k] {
				// The flags go to the other end, so that ASCII takes few bytes.
				w.b = binary.AppendUvarint(w.b, uint64(c.char&charMask)<<3|uint64(c.char>>29))
			}
			row = row[k:]
		}
	}
}

// reader reads what writer wrote. What cannot be is bad, and reads as 0.
type reader struct {
	b   []byte
	bad bool
}

func (r *reader) n(most int) int {
	v, k := binary.Uvarint(r.b)
	if k <= 0 || v > uint64(most) {
		r.bad, r.b = true, nil
		return 0
	}
	r.b = r.b[k:]
	return int(v)
}

func (r *reader) text() string {
	n := r.n(len(r.b))
	if n > len(r.b) {
		r.bad = true
		return ""
	}
	s := string(r.b[:n])
	r.b = r.b[n:]
	return s
}

func (r *reader) bool() bool { return r.n(1) == 1 }

func (r *reader) cursor(m *Model, c *cursor) {
	c.x, c.y = r.n(m.cols-1), r.n(m.rows-1)
	c.style, c.blank = uint32(r.n(len(m.styles)-1)), uint32(r.n(len(m.styles)-1))
	c.gl, c.single = r.n(3), r.n(3)
	for i := range c.sets {
		c.sets[i] = byte(r.n(127))
	}
	c.pending = r.bool()
}

func (r *reader) grid(m *Model, g *grid) {
	r.cursor(m, &g.saved.cursor)
	g.saved.origin = r.bool()
	for y := range g.order {
		n := r.n(m.cols)
		row := g.change(y, n)[:n]
		g.setWrapped(y, r.bool())
		for len(row) > 0 && !r.bad {
			style, k := uint32(r.n(len(m.styles)-1)), r.n(len(row))
			if k == 0 {
				r.bad = true
			}
			for i := range row[:k] {
				v := r.n(1<<32 - 1)
				row[i] = cell{uint32(v>>3) | uint32(v)<<29, style}
				r.bad = r.bad || m.badChar(row[i].char)
			}
			row = row[k:]
		}
	}
}

func (m *Model) badChar(char uint32) bool {
	n := char & charMask
	if char&isCluster != 0 {
		return int(n) >= len(m.clusters)
	}
	return n > 0x10ffff
}
