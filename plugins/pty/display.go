package pty

import (
	"bytes"

	"github.com/muxd/muxd/plugins/pty/screen"
)

// display is the terminal model of a console, and what of it is in memory that outlives the process.
type display struct {
	mem   memory
	model *screen.Model
	asked func(end uint64, q screen.Query) // told of each question, by the offset behind it

	shown uint64 // offset behind the output that the model has seen
	saved uint64 // and that the latest checkpoint has
	lines uint64 // offset in mem.lines at which the next line that is scrolled off goes
}

// saveEvery is after how much output there is another checkpoint. A successor has to go through no more than that.
const saveEvery = pastLeast

// newDisplay makes a display of that size, or that of a predecessor as it was when that one was killed.
func newDisplay(mem memory, rows, cols int, asked func(end uint64, q screen.Query)) *display {
	d := &display{mem: mem, asked: asked}
	if b, offset, lines, ok := mem.saves.load(); ok {
		if m, err := screen.Restore(b); err == nil && offset >= mem.past.start() {
			d.use(m)
			d.shown, d.saved, d.lines = offset, offset, lines
		}
	}
	if d.model == nil { // it is new, or a predecessor of another version made the checkpoint
		d.use(screen.New(rows, cols))
		d.shown = mem.past.start()
		d.save()
	}
	for end := mem.past.end(); d.shown < end; {
		d.show(mem.past.at(d.shown))
	}
	return d
}

func (d *display) use(m *screen.Model) {
	d.model = m
	m.Scrolled = func(line []byte) {
		d.mem.lines.write(d.lines, line)
		d.lines += uint64(len(line))
	}
	m.Cleared = func() { d.mem.lines.forget(d.lines) }
}

// write shows what of p, output from offset on, was not shown before, and keeps it.
func (d *display) write(offset uint64, p []byte) {
	end := offset + uint64(len(p))
	if end <= d.shown {
		return
	}
	p = p[max(offset, d.shown)-offset:]
	d.shown = max(offset, d.shown)
	if end-d.saved > saveEvery {
		d.save()
	}
	d.mem.past.write(d.shown, p)
	d.show(p)
}

// show has the model see p, which is what follows.
func (d *display) show(p []byte) {
	begin := d.shown
	d.shown += uint64(len(p))
	d.model.Write(p)
	for _, q := range d.model.Queries() {
		d.asked(begin+uint64(q.End), q)
	}
}

func (d *display) save() {
	d.mem.saves.save(d.model, d.shown, d.lines)
	d.saved = d.shown
}

// resize gives the model another size. That is not in the output, so there is a checkpoint of it.
func (d *display) resize(rows, cols int) {
	if r, c := d.model.Size(); rows > 0 && cols > 0 && (r != min(rows, screen.RowsMost) || c != min(cols, screen.ColsMost)) {
		d.model.Resize(rows, cols)
		d.save()
	}
}

// redraw is what draws the screen on a viewer's terminal. With first the terminal has not shown this console before: then
// what stands on its rows, and so many of the last lines that were scrolled off here, are scrolled off there. Of a
// console that has shown nothing there is nothing to draw.
func (d *display) redraw(first bool, rows, lines int) []byte {
	if first && d.lines == 0 && d.model.Pristine() {
		return nil
	}
	var b []byte
	if first {
		b = append(b, "\x1b[r\x1b[999;1H\r\n"...)
		if lines > 0 {
			b = d.appendLines(b, lines)
		}
		b = append(b, bytes.Repeat([]byte{'\n'}, rows)...)
	}
	return d.model.AppendRedraw(b, first)
}

// appendLines appends the last n lines that were scrolled off.
func (d *display) appendLines(b []byte, n int) []byte {
	r := &d.mem.lines
	for off := max(r.sensible(), r.lineStart(n)); off < r.end(); {
		p := r.at(off)
		b = append(b, p...)
		off += uint64(len(p))
	}
	if !bytes.HasSuffix(b, []byte("\n")) { // it goes on at the top of the screen
		b = append(b, "\r\n"...)
	}
	return b
}
