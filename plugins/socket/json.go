package socket

import (
	"encoding/base64"
	"encoding/json"
	"strconv"
	"time"
	"unicode/utf8"

	"github.com/muxd/muxd/sink"
)

// jsonFraming is one JSON object a line:
//
//	{"time":"2026-01-02T03:04:05.000000006Z","child":"web","stream":"stdout","text":"hello"}
//
// A line that is no UTF-8 is in "base64" in place of "text"; "partial":true says that it goes on in the next object. Where
// output was dropped stands an object with "dropped", the number of bytes, and without text.
type jsonFraming struct{ child []byte } // quoted

func newJSON(c sink.Child) jsonFraming {
	q, _ := json.Marshal(owner(c)) // of a string it cannot fail
	return jsonFraming{q}
}

func (jsonFraming) lines() bool { return true }
func (jsonFraming) whole() bool { return true }

func (f jsonFraming) head(b []byte, st sink.Stream, at time.Time) []byte {
	b = append(b, `{"time":"`...)
	b = at.UTC().AppendFormat(b, "2006-01-02T15:04:05.000000000Z")
	b = append(b, `","child":`...)
	b = append(b, f.child...)
	b = append(b, `,"stream":"`...)
	b = append(b, st.String()...)
	return append(b, '"')
}

func (f jsonFraming) render(b []byte, r record) []byte {
	b = f.head(b, r.stream, r.time)
	// A rune that was cut by the longest text is no UTF-8 in either half: both are in base64 then, and whole together.
	if utf8.Valid(r.text) {
		b = append(b, `,"text":`...)
		b = appendJSONString(b, r.text)
	} else {
		b = append(b, `,"base64":"`...)
		b = base64.StdEncoding.AppendEncode(b, r.text)
		b = append(b, '"')
	}
	if r.partial {
		b = append(b, `,"partial":true`...)
	}
	return append(b, '}', '\n')
}

func (f jsonFraming) stamp(b []byte, st sink.Stream, at time.Time, dropped uint64) []byte {
	b = f.head(b, st, at)
	b = append(b, `,"dropped":`...)
	b = strconv.AppendUint(b, dropped, 10)
	return append(b, '}', '\n')
}

// appendJSONString appends valid UTF-8 as a JSON string (RFC 8259, section 7), without what only HTML needs escaped.
func appendJSONString(b, text []byte) []byte {
	const hex = "0123456789abcdef"
	b = append(b, '"')
	for _, c := range text {
		switch {
		case c == '"' || c == '\\':
			b = append(b, '\\', c)
		case c == '\t':
			b = append(b, '\\', 't')
		case c == '\r':
			b = append(b, '\\', 'r')
		case c < 0x20 || c == 0x7f:
			b = append(b, '\\', 'u', '0', '0', hex[c>>4], hex[c&15])
		default:
			b = append(b, c)
		}
	}
	return append(b, '"')
}
