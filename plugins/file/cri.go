package file

import (
	"bytes"
	"time"

	"github.com/muxd/muxd/sink"
)

// cri is what container runtimes write and the kubelet reads: "TIME STREAM TAG TEXT\n". The time is RFC 3339
// with nanoseconds, here in UTC and of fixed width, so that records sort as text; the tag is F for the last record
// of a line and P for those before it.
//
// What stands after the last newline when a stream ends is closed by an F, although containerd and conmon leave
// it with a P: a reader joins a P to the next record of the same stream, and in a file that is appended to that
// would be the first line of the next run.
type cri struct{}

const criTime = "2006-01-02T15:04:05.000000000Z"

const (
	tagFull    = 'F'
	tagPartial = 'P'
)

func (cri) stamp(b []byte, at time.Time, stream sink.Stream) []byte {
	b = at.UTC().AppendFormat(b, criTime)
	b = append(b, ' ')
	b = append(b, stream.String()...)
	return append(b, ' ')
}

func (cri) record(b, stamp, text []byte, full bool) []byte {
	b = append(b, stamp...)
	if full {
		b = append(b, tagFull, ' ')
	} else {
		b = append(b, tagPartial, ' ')
	}
	b = append(b, text...)
	return append(b, '\n')
}

func (cri) goesOn() bool { return true }

func (cri) cut(text []byte) int { return len(text) }

func (cri) most(n int) int { return len(criTime) + len(" stdout F ") + n + 1 }

func (f cri) mend(torn []byte, _ time.Time, _ sink.Stream) (keep int, end []byte, ours bool) {
	const like = "0000-00-00T00:00:00.000000000Z "
	return mendStamped(f, torn, like+"stdout F ", like+"stdout P ", like+"stderr F ", like+"stderr P ")
}

func (cri) parse(line []byte) (rec sink.Record, ok bool) {
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
	if rec.Stream = streamNamed(string(name)); rec.Stream == 0 {
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

// streamNamed is the output stream of that name; 0: there is none.
func streamNamed(name string) sink.Stream {
	switch name {
	case "stdout":
		return sink.Stdout
	case "stderr":
		return sink.Stderr
	}
	return 0
}
