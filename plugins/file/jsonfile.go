package file

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"time"
	"unicode/utf8"

	"github.com/muxd/muxd/sink"
)

// jsonFile is Docker's log driver of that name: {"log":"TEXT\n","stream":"stdout","time":"TIME"} in a line. The text of
// a record that does not end its line has no newline. Bytes that are no UTF-8 become U+FFFD, as Docker has it, since
// JSON cannot hold them; a character is never torn between two records.
type jsonFile struct{}

const (
	jsonHead   = `{"log":"`
	jsonStream = `","stream":"`
	jsonTime   = `","time":"`
	jsonTail   = "\"}\n"
)

func (jsonFile) stamp(b []byte, at time.Time, stream sink.Stream) []byte {
	b = append(b, jsonStream...)
	b = append(b, stream.String()...)
	b = append(b, jsonTime...)
	b = at.UTC().AppendFormat(b, criTime)
	return append(b, jsonTail...)
}

func (jsonFile) record(b, stamp, text []byte, full bool) []byte {
	b = append(b, jsonHead...)
	b = appendJSON(b, text)
	if full {
		b = append(b, '\\', 'n')
	}
	return append(b, stamp...)
}

// plain are the bytes that stand for themselves in a JSON string.
var plain = func() (t [256]bool) {
	for c := ' '; c < utf8.RuneSelf; c++ {
		t[c] = c != '"' && c != '\\'
	}
	return t
}()

// allPlain says whether all of eight bytes are plain: taking 1 from a byte, or ' ', makes its high bit 1 where it was less and
// had none.
func allPlain(x uint64) bool {
	const ones, high = 0x0101010101010101, 0x8080808080808080
	quote, slash := x^ones*'"', x^ones*'\\'
	return (x|(x-ones*' ')&^x|(quote-ones)&^quote|(slash-ones)&^slash)&high == 0
}

// appendJSON appends text as it stands between the quotes of a JSON string.
func appendJSON(b, text []byte) []byte {
	const hex = "0123456789abcdef"
	for i := 0; i < len(text); {
		run := i
		for len(text)-i >= 8 && allPlain(binary.LittleEndian.Uint64(text[i:])) {
			i += 8
		}
		for i < len(text) && plain[text[i]] {
			i++
		}
		b = append(b, text[run:i]...)
		if i == len(text) {
			break
		}
		c := text[i]
		if c >= utf8.RuneSelf {
			r, n := utf8.DecodeRune(text[i:])
			if r == utf8.RuneError && n == 1 {
				b = append(b, `\ufffd`...)
			} else {
				b = append(b, text[i:i+n]...)
			}
			i += n
			continue
		}
		switch c {
		case '"', '\\':
			b = append(b, '\\', c)
		case '\r':
			b = append(b, '\\', 'r')
		case '\t':
			b = append(b, '\\', 't')
		default:
			b = append(b, '\\', 'u', '0', '0', hex[c>>4], hex[c&15])
		}
		i++
	}
	return b
}

func (jsonFile) goesOn() bool { return true }

// cut leaves the beginning of a character to the next record.
func (jsonFile) cut(text []byte) int {
	for i := len(text) - 1; i > 0 && i >= len(text)-utf8.UTFMax+1; i-- {
		if utf8.RuneStart(text[i]) {
			if !utf8.FullRune(text[i:]) {
				return i
			}
			break
		}
	}
	return len(text)
}

func (jsonFile) most(n int) int {
	return len(jsonHead) + len(`\u0000`)*(n+1) + len(jsonStream) + len("stdout") + len(jsonTime) + len(criTime) + len(jsonTail)
}

func (jsonFile) parse(line []byte) (rec sink.Record, ok bool) {
	var v struct {
		Log    *string   `json:"log"`
		Stream string    `json:"stream"`
		Time   time.Time `json:"time"`
	}
	if len(line) == 0 || line[0] != '{' || json.Unmarshal(line, &v) != nil || v.Log == nil {
		return rec, false
	}
	text := []byte(*v.Log)
	rec.Text = bytes.TrimSuffix(text, []byte{'\n'})
	rec.Partial = len(rec.Text) == len(text)
	rec.Time, rec.Stream = v.Time, streamNamed(v.Stream)
	return rec, true
}

// mend keeps the text, as far as it is there, and writes the rest of the record anew.
func (f jsonFile) mend(torn []byte, at time.Time, stream sink.Stream) (keep int, end []byte, ours bool) {
	if !bytes.HasPrefix(torn, []byte(jsonHead)) {
		if bytes.HasPrefix([]byte(jsonHead), torn) {
			return 0, nil, true
		}
		return len(torn), []byte{'\n'}, false
	}
	keep = len(jsonHead)
	for keep < len(torn) && torn[keep] != '"' {
		n := 1
		switch c := torn[keep]; {
		case c == '\\' && keep+1 < len(torn) && torn[keep+1] == 'u':
			n = len(`\u0000`)
		case c == '\\':
			n = 2
		case c >= utf8.RuneSelf:
			if !utf8.FullRune(torn[keep:]) {
				n = len(torn)
			}
		}
		if keep+n > len(torn) { // an escape or a character of which the end is missing
			break
		}
		keep += n
	}
	if _, rest, found := bytes.Cut(torn[keep:], []byte(jsonStream)); found {
		if name, _, _ := bytes.Cut(rest, []byte{'"'}); streamNamed(string(name)) != 0 {
			stream = streamNamed(string(name))
		}
	}
	return keep, f.stamp(nil, at, stream), true
}
