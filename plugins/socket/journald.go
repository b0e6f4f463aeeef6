package socket

import (
	"strconv"
	"time"

	"github.com/muxd/muxd/sink"
)

// journaldFraming is the native protocol of systemd-journald (JOURNAL_NATIVE_PROTOCOL of systemd.io): a datagram is an entry,
// and each of its fields "NAME=value" and a newline, which no value here has.
//
// The journal stamps entries when it gets them; MUXD_TIME is when the line was read, in microseconds.
type journaldFraming struct{ id, child string }

func newJournald(c sink.Child) journaldFraming {
	return journaldFraming{c.ID, syslogName(owner(c), 255)}
}

func (journaldFraming) lines() bool { return true }
func (journaldFraming) whole() bool { return true }

func (f journaldFraming) render(b []byte, r record) []byte {
	priority := severityInfo
	if r.stream == sink.Stderr {
		priority = severityError
	}
	b = append(b, "MESSAGE="...)
	b = append(b, r.text...)
	b = append(b, '\n')
	b = f.fields(b, priority, r.stream, r.time)
	if r.partial {
		b = append(b, "MUXD_PARTIAL=1\n"...)
	}
	return b
}

func (f journaldFraming) fields(b []byte, priority int, st sink.Stream, at time.Time) []byte {
	for _, field := range [][2]string{
		{"PRIORITY", strconv.Itoa(priority)}, {"SYSLOG_IDENTIFIER", f.child}, {"MUXD_ID", f.id},
		{"MUXD_STREAM", st.String()}, {"MUXD_TIME", strconv.FormatInt(at.UnixMicro(), 10)},
	} {
		b = append(b, field[0]...)
		b = append(b, '=')
		b = append(b, field[1]...)
		b = append(b, '\n')
	}
	return b
}

func (f journaldFraming) stamp(b []byte, st sink.Stream, at time.Time, dropped uint64) []byte {
	b = append(b, "MESSAGE="...)
	b = append(b, droppedText(st, dropped)...)
	b = append(b, '\n')
	b = f.fields(b, severityWarning, st, at)
	b = append(b, "MUXD_DROPPED="...)
	b = strconv.AppendUint(b, dropped, 10)
	return append(b, '\n')
}
