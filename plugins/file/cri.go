package file

import (
	"bytes"
	"time"

	"github.com/muxd/muxd/sink"
)

// The format that container runtimes write and the kubelet reads: "TIME STREAM TAG TEXT\n". The time is RFC 3339
// with nanoseconds, here in UTC and of fixed width, so that records sort as text; the tag is F for the last record
// of a line and P for those before it.
//
// What stands after the last newline when a stream ends is closed by an F, although containerd and conmon leave
// it with a P: a reader joins a P to the next record of the same stream, and in a file that is appended to that
// would be the first line of the next run.
const criTime = "2006-01-02T15:04:05.000000000Z"

const (
	tagFull    = 'F'
	tagPartial = 'P'
)

// recordMost is more than a record of ours can be: time, stream, tag, text and newline.
const recordMost = len(criTime) + len(" stdout F ") + sink.StateMost + 1

// records renders one chunk of a stream, behind the carry that the chunks before it left: the beginning of a line
// whose end has not come. It depends on nothing else, so that a chunk that comes again gives the same bytes.
//
// A P record is written only when more of its line is known, so that every P is followed by an F.
type records struct {
	head  []byte // "TIME STREAM ", once for the chunk
	most  int    // the longest text
	carry []byte
	data  []byte // what is left of the chunk
	last  bool   // the stream ends behind data
}

// criHead appends what every record of a chunk begins with to b.
func criHead(b []byte, at time.Time, stream sink.Stream) []byte {
	b = at.UTC().AppendFormat(b, criTime)
	b = append(b, ' ')
	b = append(b, stream.String()...)
	return append(b, ' ')
}

// next appends records to b until enough bytes or more have come, or none is left. It appends nothing where none is.
func (r *records) next(b []byte, enough int) []byte {
	for start := len(b); len(b)-start < enough; {
		room := r.most - len(r.carry)
		if room < 0 { // the carry is of a time when the longest text was longer
			b = r.append(b, tagPartial, r.carry[:r.most], nil)
			r.carry = r.carry[r.most:]
			continue
		}
		window := r.data
		if len(window) > room {
			window = window[:room+1] // a newline may stand behind the longest text
		}
		switch i := bytes.IndexByte(window, '\n'); {
		case i >= 0:
			b = r.append(b, tagFull, r.carry, r.data[:i])
			r.carry, r.data = nil, r.data[i+1:]
		case len(r.data) > room:
			b = r.append(b, tagPartial, r.carry, r.data[:room])
			r.carry, r.data = nil, r.data[room:]
		case r.last && len(r.carry)+len(r.data) > 0:
			b = r.append(b, tagFull, r.carry, r.data)
			r.carry, r.data = nil, nil
		default:
			return b
		}
	}
	return b
}

func (r *records) append(b []byte, tag byte, carry, text []byte) []byte {
	b = append(b, r.head...)
	b = append(b, tag, ' ')
	b = append(b, carry...)
	b = append(b, text...)
	return append(b, '\n')
}

// rest is the unfinished line behind the last record, at most the longest text. It may use b's memory.
func (r *records) rest(b []byte) []byte {
	if len(r.carry) == 0 {
		return r.data
	}
	return append(append(b[:0], r.carry...), r.data...)
}

// parseRecord takes a record apart, without its newline. Text is line's own memory.
func parseRecord(line []byte) (rec sink.Record, ok bool) {
	stamp, rest, ok := bytes.Cut(line, []byte{' '})
	if !ok {
		return rec, false
	}
	at, err := time.Parse(time.RFC3339Nano, string(stamp))
	if err != nil {
		return rec, false
	}
	name, rest, ok := bytes.Cut(rest, []byte{' '})
	if !ok {
		return rec, false
	}
	switch string(name) {
	case "stdout":
		rec.Stream = sink.Stdout
	case "stderr":
		rec.Stream = sink.Stderr
	default:
		return rec, false
	}
	// The format lets further tags follow the first, with colons between.
	tags, text, ok := bytes.Cut(rest, []byte{' '})
	tag, _, _ := bytes.Cut(tags, []byte{':'})
	if !ok || len(tag) != 1 || tag[0] != tagFull && tag[0] != tagPartial {
		return rec, false
	}
	rec.Time, rec.Text, rec.Partial = at, text, tag[0] == tagPartial
	return rec, true
}
