package pty

import (
	"bytes"
	"cmp"
	"compress/flate"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"sync/atomic"

	"github.com/muxd/muxd/plugins/pty/screen"
	"github.com/muxd/muxd/sink"
)

// What a console leaves behind is its screen, the latest of its output, the lines that were scrolled off, and the exit status, in this
// order: a byte that is remainsVersion, and compressed the wait status, u32, and whether it is known, u8; how much output there was, and
// how many bytes of lines, u64 each; and checkpoint, output, and lines, each with its length before it, u32. Numbers are big-endian.
const (
	remainsVersion = 1
	remainsHeader  = 4 + 1 + 8 + 8
	keptMost       = 1 << 20 // bytes of output that are left, and of lines
)

var errEnded = errors.New("the console has ended")

// Remains is the console as it is at its end.
func (c *consoleSink) Remains() []byte {
	c.mu.Lock()
	defer c.mu.Unlock()
	for most := uint64(keptMost); ; most /= 4 {
		if b := c.remains(most); len(b) <= sink.RemainsMost || most == 0 {
			return b
		}
	}
}

// remains is that with no more than so much output, and as many lines. c.mu is held.
func (c *consoleSink) remains(most uint64) []byte {
	raw := binary.BigEndian.AppendUint32(nil, c.exit)
	known := byte(0)
	if c.known {
		known = 1
	}
	raw = binary.BigEndian.AppendUint64(append(raw, known), c.past.end())
	raw = binary.BigEndian.AppendUint64(raw, c.display.mem.lines.end())
	raw = withLength(raw, c.display.model.AppendCheckpoint)
	raw = withLength(raw, func(b []byte) []byte { return c.past.appendLast(b, most) })
	raw = withLength(raw, func(b []byte) []byte { return c.display.mem.lines.appendLast(b, most) })
	out := bytes.NewBuffer([]byte{remainsVersion})
	w, err := flate.NewWriter(out, flate.BestSpeed)
	if err == nil {
		w.Write(raw)
		err = w.Close()
	}
	if err != nil {
		panic("pty: " + err.Error()) // nothing of that can fail
	}
	return out.Bytes()
}

// withLength appends what f appends, with its length before it.
func withLength(b []byte, f func([]byte) []byte) []byte {
	at := len(b)
	b = f(append(b, 0, 0, 0, 0))
	binary.BigEndian.PutUint32(b[at:], uint32(len(b)-at-4))
	return b
}

// appendLast appends the last bytes that are kept, at most so many.
func (r *ring) appendLast(b []byte, most uint64) []byte {
	end := r.end()
	for off := max(r.start(), end-min(end, most)); off < end; {
		p := r.at(off)
		b, off = append(b, p...), off+uint64(len(p))
	}
	return b
}

// uncompressedMost bounds what remains can become: a damaged file does not fill the memory.
const uncompressedMost = remainsHeader + 12 + checkpointMost + 2*keptMost

// past makes a console of what one has left: it has no terminal, and has ended.
func past(remains []byte) (sink.ConsoleSink, error) {
	if len(remains) == 0 || remains[0] != remainsVersion {
		return nil, errors.New("another version of the sink pty has left it, and this one cannot read it")
	}
	raw, err := io.ReadAll(io.LimitReader(flate.NewReader(bytes.NewReader(remains[1:])), uncompressedMost+1))
	if err != nil || len(raw) < remainsHeader || len(raw) > uncompressedMost {
		return nil, fmt.Errorf("it is damaged: %d bytes: %w", len(raw), cmp.Or(err, io.ErrUnexpectedEOF))
	}
	c := &consoleSink{viewers: map[*attached]struct{}{}, room: make(chan struct{}), dealt: &atomic.Uint64{}, absent: newAbsent(0), ended: true}
	c.exit, c.known = binary.BigEndian.Uint32(raw), raw[4] == 1
	end, linesEnd := binary.BigEndian.Uint64(raw[5:]), binary.BigEndian.Uint64(raw[13:])
	raw = raw[remainsHeader:]
	var parts [3][]byte
	for i := range parts {
		if len(raw) < 4 || uint64(len(raw)-4) < uint64(binary.BigEndian.Uint32(raw)) {
			return nil, errors.New("it is damaged: it ends too soon")
		}
		n := 4 + int(binary.BigEndian.Uint32(raw))
		parts[i], raw = raw[4:n], raw[n:]
	}
	if uint64(len(parts[1])) > end || uint64(len(parts[2])) > linesEnd {
		return nil, errors.New("it is damaged: there is more output than there was")
	}
	c.past = ringOf(parts[1], end)
	mem := memory{past: c.past, lines: ringOf(parts[2], linesEnd)}
	model, err := screen.Restore(parts[0])
	if err != nil {
		return nil, err
	}
	c.display = &display{mem: mem, model: model, shown: end, lines: mem.lines.end()}
	// What the program has asked its terminal is not to be asked any other.
	scan := screen.New(model.Size())
	scan.Write(parts[1])
	for _, q := range scan.Queries() {
		c.questions = append(c.questions, question{end: c.past.start() + uint64(q.End), mask: q.Mask})
	}
	return c, nil
}

// ringOf is a ring that has p, of which the last byte stands before offset end.
func ringOf(p []byte, end uint64) ring {
	r := newRing(make([]byte, ringHeader+max(len(p), 1)))
	r.write(end-uint64(len(p)), p)
	return r
}
