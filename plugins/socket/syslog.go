package socket

import (
	"bytes"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/muxd/muxd/sink"
)

// syslogFraming is RFC 5424: a message a line, of severity 6 (informational) for stdout and 3 (error) for stderr, whose
// MSGID is the stream. On streams each has its length before it (octet counting: RFC 6587, section 3.4.1, and RFC 5425); a
// datagram is one message.
//
//	<30>1 2026-01-02T03:04:05.000000Z host web - stdout - hello
type syslogFraming struct {
	octets   bool
	facility int
	host     string
	app      string
}

// facilities are the names of RFC 5424's facilities, as in syslog.conf(5).
var facilities = []string{
	"kern", "user", "mail", "daemon", "auth", "syslog", "lpr", "news", "uucp", "cron", "authpriv", "ftp", "ntp", "audit",
	"alert", "clock", "local0", "local1", "local2", "local3", "local4", "local5", "local6", "local7",
}

const (
	severityError   = 3
	severityWarning = 4
	severityInfo    = 6
)

func newSyslog(c sink.Child, octets bool, facility int) syslogFraming {
	host, err := os.Hostname()
	if err != nil {
		host = ""
	}
	return syslogFraming{octets: octets, facility: facility, host: syslogName(host, 255), app: syslogName(owner(c), 48)}
}

// syslogName is s as a header field of RFC 5424: printable ASCII without blanks, not longer than most, "-" where there is
// nothing.
func syslogName(s string, most int) string {
	s = strings.Map(func(r rune) rune {
		if r <= ' ' || r > '~' {
			return '_'
		}
		return r
	}, s)
	if s == "" {
		return "-"
	}
	return s[:min(len(s), most)]
}

func (syslogFraming) lines() bool { return true }
func (syslogFraming) whole() bool { return true }

func (f syslogFraming) render(b []byte, r record) []byte {
	severity := severityInfo
	if r.stream == sink.Stderr {
		severity = severityError
	}
	return f.message(b, severity, r.stream, r.time, r.text)
}

func (f syslogFraming) message(b []byte, severity int, st sink.Stream, at time.Time, text []byte) []byte {
	start := len(b)
	b = append(b, '<')
	b = strconv.AppendInt(b, int64(f.facility*8+severity), 10)
	b = append(b, ">1 "...)
	b = at.UTC().AppendFormat(b, "2006-01-02T15:04:05.000000Z")
	b = append(b, ' ')
	b = append(b, f.host...)
	b = append(b, ' ')
	b = append(b, f.app...)
	b = append(b, " - "...)
	b = append(b, st.String()...)
	b = append(b, " - "...)
	b = append(b, text...)
	if !f.octets {
		return b
	}
	count := strconv.AppendInt(nil, int64(len(b)-start), 10)
	count = append(count, ' ')
	b = append(b, count...)
	copy(b[start+len(count):], bytes.Clone(b[start:len(b)-len(count)]))
	copy(b[start:], count)
	return b
}

func (f syslogFraming) stamp(b []byte, st sink.Stream, at time.Time, dropped uint64) []byte {
	return f.message(b, severityWarning, st, at, []byte(droppedText(st, dropped)))
}
