package file

import (
	"bytes"
	"strconv"
	"time"

	"github.com/muxd/muxd/sink"
)

// format is a way in which output stands in a file as records, each of them a line. Raw output has none: where a
// format is nil, the bytes stand in the file as they are.
type format interface {
	// stamp appends to b what is the same in every record of a chunk, so that a time is formatted once.
	stamp(b []byte, at time.Time, stream sink.Stream) []byte
	// record appends a record to b. full says that the line ends with it; otherwise it goes on in the stream's next record.
	record(b, stamp, text []byte, full bool) []byte
	// goesOn says whether a record can say that its line goes on.
	goesOn() bool
	// cut says how much of text, which is as long as a record's may be and not the end of its line, goes into the record.
	cut(text []byte) int
	// most is the length that no record with n bytes of text exceeds.
	most(n int) int
	// parse takes a record apart, without its newline. The text may be line's own memory.
	parse(line []byte) (rec sink.Record, ok bool)
	// mend says how torn, which stands behind the last newline of a file, becomes a line that readers take: keep so many bytes of
	// it and put end behind them. ours says that it is the beginning of a record. A record whose stream cannot be seen
	// any more becomes one of stream.
	mend(torn []byte, at time.Time, stream sink.Stream) (keep int, end []byte, ours bool)
}

// formats by the names that a spec calls them.
var formats = map[string]format{
	formatCRI: cri{}, formatJSON: jsonFile{}, formatTAI64N: tai64n{}, formatISO: iso{}, formatRaw: nil,
}

const (
	formatCRI    = "cri"
	formatJSON   = "json-file"
	formatTAI64N = "tai64n"
	formatISO    = "iso"
	formatRaw    = "raw"
)

// recordMost is more than a record of ours can be in any format.
var recordMost = jsonFile{}.most(sink.StateMost)

// records renders one chunk of a stream, behind the carry that the chunks before it left: the beginning of a line
// whose end has not come. It depends on nothing else, so that a chunk that comes again gives the same bytes.
//
// A record that does not end its line is written only when more of the line is known, so that each is followed by
// one that does.
type records struct {
	format format
	stamp  []byte // once for the chunk
	most   int    // the longest text
	carry  []byte
	data   []byte // what is left of the chunk
	last   bool   // the stream ends behind data
	missed uint64 // bytes of the stream that are missing between carry and data, so that neither is of the other's line
	at     time.Time
	stream sink.Stream
	join   []byte // memory for a text that begins in carry and ends in data
}

// next appends records to b until enough bytes or more have come, or none is left. It appends nothing where none is.
func (r *records) next(b []byte, enough int) []byte {
	for start := len(b); len(b)-start < enough; {
		if n := r.gap(); n > 0 {
			b = tellDropped(r.format, b, r.at, r.stream, n)
			continue
		}
		text, full, ok := r.text()
		if !ok {
			break
		}
		b = r.format.record(b, r.stamp, text, full)
	}
	return b
}

// gap is what is missing before the next text, once.
func (r *records) gap() (missed uint64) {
	if len(r.carry) > 0 {
		return 0
	}
	missed, r.missed = r.missed, 0
	return missed
}

// text returns the text of the next record, valid until the next call; ok is false where there is none. What is missing before it has
// to be asked for first.
func (r *records) text() (text []byte, full, ok bool) {
	if len(r.carry) > r.most { // it is of a time when the longest text was longer
		n := r.format.cut(r.carry[:r.most])
		text, r.carry = r.carry[:n], r.carry[n:]
		return text, false, true
	}
	if r.missed > 0 {
		text, r.carry = r.carry, nil
		return text, true, true
	}
	room := r.most - len(r.carry)
	window := r.data
	if len(window) > room {
		window = window[:room+1] // a newline may stand behind the longest text
	}
	switch i := bytes.IndexByte(window, '\n'); {
	case i >= 0:
		text = r.joined(i)
		r.carry, r.data = nil, r.data[i+1:]
		return text, true, true
	case len(r.data) > room:
		carried := len(r.carry)
		text = r.joined(room)
		n := r.format.cut(text)
		if n < carried { // most is tiny
			r.carry, r.data = text[n:], r.data[room:]
		} else {
			r.carry, r.data = nil, r.data[n-carried:]
		}
		return text[:n], false, true
	case r.last && len(r.carry)+len(r.data) > 0:
		text = r.joined(len(r.data))
		r.carry, r.data = nil, nil
		return text, true, true
	}
	return nil, false, false
}

// joined is the carry and n bytes of data behind it.
func (r *records) joined(n int) []byte {
	if len(r.carry) == 0 {
		return r.data[:n]
	}
	r.join = append(append(r.join[:0], r.carry...), r.data[:n]...)
	return r.join
}

// rest is the unfinished line behind the last record, at most the longest text.
func (r *records) rest() []byte { return r.joined(len(r.data)) }

// notice renders a record of the sink's own: something that the log has to tell of itself.
func notice(f format, b []byte, at time.Time, stream sink.Stream, text string) []byte {
	return f.record(b, f.stamp(nil, at, stream), []byte("[muxd: "+text+"]"), true)
}

// tellDropped is the notice that output is missing.
func tellDropped(f format, b []byte, at time.Time, stream sink.Stream, n uint64) []byte {
	return notice(f, b, at, stream, strconv.FormatUint(n, 10)+" bytes of "+stream.String()+" were dropped here")
}

// mendStamped is format.mend where a record is a stamp and, behind it, the text. Each of likes has the shape of a stamp: '0' is a
// decimal digit, 'f' a hexadecimal one, and everything else stands for itself.
func mendStamped(f format, torn []byte, likes ...string) (keep int, end []byte, ours bool) {
	if _, whole := f.parse(torn); whole {
		return len(torn), []byte{'\n'}, true
	}
	for _, like := range likes {
		if begins(torn, like) {
			return 0, nil, true // nothing of the output is in it
		}
	}
	return len(torn), []byte{'\n'}, false
}

// begins says whether b is the beginning of something like that.
func begins(b []byte, like string) bool {
	if len(b) > len(like) {
		return false
	}
	for i, c := range b {
		digit := c >= '0' && c <= '9'
		switch like[i] {
		case '0':
			if !digit {
				return false
			}
		case 'f':
			if !digit && (c < 'a' || c > 'f') {
				return false
			}
		default:
			if c != like[i] {
				return false
			}
		}
	}
	return true
}
