package socket

import (
	"bytes"
	"iter"
	"strconv"
	"time"

	"github.com/muxd/muxd/sink"
)

// record is what one frame is made of: a line, or in framings that do not know lines a piece of a stream.
type record struct {
	stream  sink.Stream
	time    time.Time
	text    []byte // without the newline
	partial bool   // the line goes on in the next record
	size    int    // how many bytes of the stream it is
	missed  uint64 // it is none, but says that so many bytes are missing here
}

// framing says how records look on the wire. What it makes depends on the record alone, so that a chunk that comes again has
// as many frames, and the same of them.
type framing interface {
	// lines says whether records are lines; otherwise they are pieces.
	lines() bool
	// whole says whether a record that was torn by a broken connection is sent again whole on the next one.
	whole() bool
	// render appends a record to b, as it is sent.
	render(b []byte, r record) []byte
	// stamp appends what says that so many bytes of a stream were dropped here; nothing where the framing has no
	// place for it.
	stamp(b []byte, stream sink.Stream, at time.Time, dropped uint64) []byte
}

// part is a chunk and the unfinished line before it.
type part struct {
	stream sink.Stream
	time   time.Time
	carry  []byte
	data   []byte
	missed uint64 // bytes of the stream that are missing between carry and data, so that neither is of the other's line
	last   bool   // the stream ends behind data
}

// pieceMost is the longest piece of a stream in a framing without lines.
const pieceMost = 32 << 10

// records are the records of a chunk, and rest what is left of it then: the beginning of a line, at most the longest text.
// Both depend on the chunk alone.
func (p part) records(f framing, most int) (all iter.Seq[record], rest []byte) {
	if !f.lines() { // and so has no place to say that something is missing
		return p.pieces, nil
	}
	text := p.data
	if p.missed == 0 && len(p.carry) > 0 {
		text = append(append([]byte(nil), p.carry...), p.data...)
	}
	end := len(text) // of what becomes records
	if !p.last {
		end = bytes.LastIndexByte(text, '\n') + 1
		for len(text)-end > most {
			end += most
		}
	}
	return func(yield func(record) bool) {
		if p.missed > 0 {
			if n := len(p.carry); n > 0 && !yield(record{stream: p.stream, time: p.time, text: p.carry, size: n}) {
				return
			}
			if !yield(record{stream: p.stream, time: p.time, missed: p.missed}) {
				return
			}
		}
		for t := text[:end]; len(t) > 0; {
			n := bytes.IndexByte(t[:min(len(t), most+1)], '\n')
			r := record{stream: p.stream, time: p.time}
			switch {
			case n >= 0:
				r.text, r.size = t[:n], n+1
			case len(t) > most || !p.last:
				n = min(len(t), most)
				r.text, r.size, r.partial = t[:n], n, true
			default:
				r.text, r.size = t, len(t)
			}
			t = t[r.size:]
			if !yield(r) {
				return
			}
		}
	}, text[end:]
}

func (p part) pieces(yield func(record) bool) {
	for d := p.data; len(d) > 0; {
		n := min(len(d), pieceMost)
		if !yield(record{stream: p.stream, time: p.time, text: d[:n], size: n}) {
			return
		}
		d = d[n:]
	}
}

// framings are those that there are, and need nothing of the child.
func newFraming(name string, c sink.Child, octets bool, facility int) framing {
	switch name {
	case "lines":
		return linesFraming{}
	case "docker":
		return dockerFraming{}
	case "json":
		return newJSON(c)
	case "syslog":
		return newSyslog(c, octets, facility)
	case "journald":
		return newJournald(c)
	}
	return rawFraming{}
}

// rawFraming is the bytes as they are.
type rawFraming struct{}

func (rawFraming) lines() bool                                                 { return false }
func (rawFraming) whole() bool                                                 { return false }
func (rawFraming) render(b []byte, r record) []byte                            { return append(b, r.text...) }
func (rawFraming) stamp(b []byte, _ sink.Stream, _ time.Time, _ uint64) []byte { return b }

// linesFraming is whole lines: one of stdout never stands inside one of stderr.
type linesFraming struct{}

func (linesFraming) lines() bool { return true }
func (linesFraming) whole() bool { return true }

func (linesFraming) render(b []byte, r record) []byte { return append(append(b, r.text...), '\n') }

func (linesFraming) stamp(b []byte, st sink.Stream, _ time.Time, dropped uint64) []byte {
	return append(append(append(b, '['), droppedText(st, dropped)...), ']', '\n')
}

// droppedText says for people that something is missing.
func droppedText(st sink.Stream, n uint64) string {
	return "muxd: " + strconv.FormatUint(n, 10) + " bytes of " + st.String() + " were dropped here"
}

// dockerFraming is what Docker's API sends for an attached container without a terminal: before each piece 8 bytes, which are
// the stream (1 stdout, 2 stderr), three zeros, and the length.
type dockerFraming struct{}

func (dockerFraming) lines() bool { return false }
func (dockerFraming) whole() bool { return true }

func (dockerFraming) render(b []byte, r record) []byte {
	n := len(r.text)
	stream := byte(1)
	if r.stream == sink.Stderr {
		stream = 2
	}
	b = append(b, stream, 0, 0, 0, byte(n>>24), byte(n>>16), byte(n>>8), byte(n))
	return append(b, r.text...)
}

func (dockerFraming) stamp(b []byte, _ sink.Stream, _ time.Time, _ uint64) []byte { return b }
