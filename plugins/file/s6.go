package file

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"time"

	"github.com/muxd/muxd/sink"
)

// The formats of the supervision tools: a time and a line. They do not say of which stream a line is, nor that a line goes
// on: a line that is too long becomes several, as s6-log has it.

// tai64n is "@LABEL TEXT\n", the label a TAI64N one in 24 hexadecimal digits. It is what "s6-log t" writes and
// s6-tai64nlocal reads: seconds are atomic time's, with leap seconds, which those of multilog are not.
type tai64n struct{}

// taiEpoch is what a label says at the beginning of 1970, less the seconds by which atomic time was ahead then.
const taiEpoch = 1 << 62

// taiAhead is by how much atomic time is ahead of the clock's since 2017. There has been no leap second since, and there
// will be no more (resolution 4 of the 27th CGPM).
const taiAhead = 37

func (tai64n) stamp(b []byte, at time.Time, _ sink.Stream) []byte {
	var label [12]byte
	binary.BigEndian.PutUint64(label[:], uint64(taiEpoch+taiAhead+at.Unix()))
	binary.BigEndian.PutUint32(label[8:], uint32(at.Nanosecond()))
	b = append(b, '@')
	b = hex.AppendEncode(b, label[:])
	return append(b, ' ')
}

func (tai64n) record(b, stamp, text []byte, _ bool) []byte { return stamped(b, stamp, text) }

func (tai64n) goesOn() bool { return false }

func (tai64n) cut(text []byte) int { return len(text) }

func (tai64n) most(n int) int { return len("@ ") + 24 + n + 1 }

func (tai64n) parse(line []byte) (rec sink.Record, ok bool) {
	var label [12]byte
	if len(line) < 26 || line[0] != '@' || line[25] != ' ' {
		return rec, false
	}
	if _, err := hex.Decode(label[:], line[1:25]); err != nil {
		return rec, false
	}
	seconds := int64(binary.BigEndian.Uint64(label[:])) - taiEpoch - taiAhead
	rec.Time = time.Unix(seconds, int64(binary.BigEndian.Uint32(label[8:])))
	rec.Text = line[26:]
	return rec, true
}

func (f tai64n) mend(torn []byte, _ time.Time, _ sink.Stream) (keep int, end []byte, ours bool) {
	return mendStamped(f, torn, "@ffffffffffffffffffffffff ")
}

// iso is "DATE TIME  TEXT\n" in local time, as "s6-log T" writes it.
type iso struct{}

const isoTime = "2006-01-02 15:04:05.000000000"

func (iso) stamp(b []byte, at time.Time, _ sink.Stream) []byte {
	return append(at.Local().AppendFormat(b, isoTime), "  "...)
}

func (iso) record(b, stamp, text []byte, _ bool) []byte { return stamped(b, stamp, text) }

func (iso) goesOn() bool { return false }

func (iso) cut(text []byte) int { return len(text) }

func (iso) most(n int) int { return len(isoTime) + 2 + n + 1 }

func (iso) parse(line []byte) (rec sink.Record, ok bool) {
	if len(line) < len(isoTime)+2 {
		return rec, false
	}
	at, err := time.ParseInLocation(isoTime, string(line[:len(isoTime)]), time.Local)
	text, two := bytes.CutPrefix(line[len(isoTime):], []byte("  "))
	if err != nil || !two {
		return rec, false
	}
	rec.Time, rec.Text = at, text
	return rec, true
}

func (f iso) mend(torn []byte, _ time.Time, _ sink.Stream) (keep int, end []byte, ours bool) {
	return mendStamped(f, torn, "0000-00-00 00:00:00.000000000  ")
}

func stamped(b, stamp, text []byte) []byte {
	b = append(b, stamp...)
	b = append(b, text...)
	return append(b, '\n')
}
