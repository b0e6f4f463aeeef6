package config

import (
	"strconv"
	"strings"

	"github.com/BurntSushi/toml"
)

// path leads from the top of a document to a value: keys, and indexes of arrays in decimal.
type path []string

// key is the path to the value of that key, or index, below p.
func (p path) key(k string) path { return append(p[:len(p):len(p)], k) }

func (p path) id() string { return strings.Join(p, "\x00") }

// lines says on which line each value of a document stands. The TOML library knows lines of syntax errors only,
// and decodes tables of one array under one key, so the document is read a second time for them.
type lines map[string]int

// of is the line of the value at p, or of the nearest table that it would stand in.
func (l lines) of(p path) int {
	for ; len(p) > 0; p = p[:len(p)-1] {
		if n, ok := l[p.id()]; ok {
			return n
		}
	}
	return 1
}

func (l lines) has(p path) bool {
	_, ok := l[p.id()]
	return ok
}

// locate finds the lines of all values in text, which must be a valid document.
func locate(text string) lines {
	s := &lineScanner{text: text, line: 1, lines: lines{}, last: map[string]int{}}
	s.skip("\xef\xbb\xbf\xff\xfe") // a byte order mark; no bare key begins with such bytes
	var table path
	for s.blank(); s.pos < len(s.text); s.blank() {
		if s.peek() == '[' {
			table = s.header()
		} else {
			s.pair(table)
		}
	}
	return s.lines
}

// lineScanner walks a valid document. It checks nothing.
type lineScanner struct {
	text   string
	pos    int
	line   int // of lineAt
	lineAt int
	lines  lines
	last   map[string]int // the last index of each array of tables
}

// note records that the value at p begins here, unless it has begun before.
func (s *lineScanner) note(p path) {
	s.line += strings.Count(s.text[s.lineAt:s.pos], "\n")
	s.lineAt = s.pos
	if !s.lines.has(p) {
		s.lines[p.id()] = s.line
	}
}

func (s *lineScanner) peek() byte {
	if s.pos < len(s.text) {
		return s.text[s.pos]
	}
	return 0
}

// skip moves over every byte that is in set.
func (s *lineScanner) skip(set string) {
	for s.pos < len(s.text) && strings.IndexByte(set, s.text[s.pos]) >= 0 {
		s.pos++
	}
}

// upTo moves to the next byte that is in set, or to the end.
func (s *lineScanner) upTo(set string) {
	if i := strings.IndexAny(s.text[s.pos:], set); i >= 0 {
		s.pos += i
	} else {
		s.pos = len(s.text)
	}
}

// blank moves over space, newlines and comments.
func (s *lineScanner) blank() {
	for s.skip(" \t\r\n"); s.peek() == '#'; s.skip(" \t\r\n") {
		s.upTo("\n")
	}
}

// header reads [a.b] or [[a.b]] and returns the path of the table that it begins.
func (s *lineScanner) header() path {
	s.pos++
	array := s.peek() == '['
	if array {
		s.pos++
	}
	keys := s.keys()
	var p path
	for i, k := range keys {
		p = p.key(k)
		s.note(p)
		index, isArray := s.last[p.id()]
		switch {
		case array && i == len(keys)-1:
			if isArray {
				index++
			}
			s.last[p.id()] = index
			p = p.key(strconv.Itoa(index))
			s.note(p)
		case isArray: // [a.b] stands in the last table of [[a]]
			p = p.key(strconv.Itoa(index))
		}
	}
	s.skip("]")
	return p
}

// pair reads key = value.
func (s *lineScanner) pair(table path) {
	p := table
	for _, k := range s.keys() {
		p = p.key(k)
		s.note(p)
	}
	s.skip("=")
	s.value(p)
}

// keys reads a dotted key up to the = or ] behind it.
func (s *lineScanner) keys() (keys []string) {
	for {
		s.skip(" \t.")
		begin := s.pos
		switch s.peek() {
		case 0, '=', ']':
			return keys
		case '"', '\'':
			s.quoted()
			keys = append(keys, unquote(s.text[begin:s.pos]))
		default:
			s.upTo(" \t.=]")
			keys = append(keys, s.text[begin:s.pos])
		}
	}
}

// unquote is the key that a quoted one stands for.
func unquote(quoted string) string {
	var v struct{ K string }
	if _, err := toml.Decode("K = "+quoted, &v); err != nil {
		return quoted
	}
	return v.K
}

func (s *lineScanner) value(p path) {
	s.skip(" \t")
	switch s.peek() {
	case '"', '\'':
		s.quoted()
	case '[':
		s.pos++
		for i := 0; s.more(']'); i++ {
			element := p.key(strconv.Itoa(i))
			s.note(element)
			s.value(element)
		}
	case '{':
		s.pos++
		for s.more('}') {
			s.pair(p)
		}
	default:
		s.upTo(",]}#\n")
	}
}

// more moves to the next element of an array or inline table, or behind its end.
func (s *lineScanner) more(end byte) bool {
	s.blank()
	if s.peek() == ',' {
		s.pos++
		s.blank()
	}
	if s.peek() == end || s.peek() == 0 {
		s.pos++
		return false
	}
	return true
}

// quoted moves behind a string of any of the four kinds.
func (s *lineScanner) quoted() {
	q := s.text[s.pos : s.pos+1]
	end := q
	if strings.HasPrefix(s.text[s.pos:], q+q+q) {
		end = q + q + q
	}
	s.pos += len(end)
	for s.pos < len(s.text) && !strings.HasPrefix(s.text[s.pos:], end) {
		if q == `"` && s.peek() == '\\' {
			s.pos++
		}
		s.pos++
	}
	s.pos = min(s.pos+len(end), len(s.text))
	for extra := 0; len(end) == 3 && extra < 2 && strings.HasPrefix(s.text[s.pos:], q); extra++ {
		s.pos++ // up to two quotes may stand before the three that end the string
	}
}
