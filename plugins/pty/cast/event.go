// Package cast writes recordings of consoles, as asciicast files of version 2 or 3 (docs.asciinema.org/manual/asciicast), so that
// whoever writes one can be killed at any moment: each event is one line, and a successor takes an unfinished one back.
package cast

import (
	"encoding/json"
	"fmt"
	"strconv"
	"time"
	"unicode/utf8"
)

// Versions of the format.
const (
	V2 = 2 // events have the time since the beginning
	V3 = 3 // events have the time since the event before, and there is one for the exit
)

// Kinds of events.
const (
	output = "o"
	input  = "i"
	resize = "r"
	marker = "m"
	exit   = "x" // V3
)

// Header is what a recording says of itself.
type Header struct {
	Rows, Cols     int
	Title, Command string
}

// line is the header as it stands in a file that begins at start, a whole second.
func (h Header) line(version int, start time.Time) []byte {
	var v any
	if version == V3 {
		type term struct {
			Cols int `json:"cols"`
			Rows int `json:"rows"`
		}
		v = struct {
			Version   int    `json:"version"`
			Term      term   `json:"term"`
			Timestamp int64  `json:"timestamp"`
			Command   string `json:"command,omitempty"`
			Title     string `json:"title,omitempty"`
		}{V3, term{h.Cols, h.Rows}, start.Unix(), h.Command, h.Title}
	} else {
		v = struct {
			Version   int    `json:"version"`
			Width     int    `json:"width"`
			Height    int    `json:"height"`
			Timestamp int64  `json:"timestamp"`
			Command   string `json:"command,omitempty"`
			Title     string `json:"title,omitempty"`
		}{V2, h.Cols, h.Rows, start.Unix(), h.Command, h.Title}
	}
	b, err := json.Marshal(v)
	if err != nil {
		panic("cast: a header that is no JSON: " + err.Error())
	}
	return append(b, '\n')
}

// appendEvent appends an event's line. at is the number that stands for its time, in microseconds.
func appendEvent(b []byte, at int64, kind string, data []byte) []byte {
	b = fmt.Appendf(b, `[%d.%06d, "%s", "`, at/1e6, at%1e6, kind)
	b = appendText(b, data)
	return append(b, "\"]\n"...)
}

// appendText appends p as the inside of a JSON string. What is no UTF-8 becomes U+FFFD, since JSON cannot say it.
func appendText(b, p []byte) []byte {
	for len(p) > 0 {
		n := 0
		for n < len(p) && p[n] >= ' ' && p[n] < 0x7f && p[n] != '"' && p[n] != '\\' {
			n++
		}
		b = append(b, p[:n]...)
		if p = p[n:]; len(p) == 0 {
			break
		}
		r, size := utf8.DecodeRune(p)
		switch {
		case r == '"' || r == '\\':
			b = append(b, '\\', byte(r))
		case r == '\n':
			b = append(b, `\n`...)
		case r == '\r':
			b = append(b, `\r`...)
		case r < ' ' || r == 0x7f:
			b = fmt.Appendf(b, `\u%04x`, r)
		default:
			b = utf8.AppendRune(b, r)
		}
		p = p[size:]
	}
	return b
}

// whole is how much of p does not end inside of a character whose rest may still come.
func whole(p []byte) int {
	for back := 1; back <= min(len(p), utf8.UTFMax-1); back++ {
		switch b := p[len(p)-back]; {
		case !utf8.RuneStart(b):
		case utf8.FullRune(p[len(p)-back:]):
			return len(p)
		default:
			return len(p) - back
		}
	}
	return len(p)
}

// eventTime reads the number at the beginning of an event's line, in microseconds. ok is false for what is no event.
func eventTime(line []byte) (at int64, ok bool) {
	if len(line) == 0 || line[0] != '[' {
		return 0, false
	}
	n := 1
	for n < len(line) && line[n] != ',' {
		n++
	}
	f, err := strconv.ParseFloat(string(line[1:n]), 64)
	return int64(f*1e6 + 0.5), err == nil
}
