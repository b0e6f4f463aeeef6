package screen

import (
	"bytes"
	"fmt"
	"strconv"
	"strings"
	"unicode/utf8"
)

// Bounds of what commands leave behind.
const (
	titleMost  = 1024
	titlesMost = 10
	linkMost   = 1024
	linksMost  = 8192 // styles, beyond which none leads anywhere
)

// command is OSC with the string that was collected.
func (m *Model) command() {
	number, text, _ := bytes.Cut(m.str, []byte{';'})
	n, err := strconv.Atoi(string(number))
	if err != nil {
		return
	}
	switch n {
	case 0, 1, 2:
		title := clean(text)
		if n != 2 {
			m.icon = title
		}
		if n != 1 {
			m.title = title
		}
	case 4:
		m.setPalette(string(text))
	case 8:
		m.setLink(string(text))
	case 10, 11, 12:
		m.setColors(n, string(text))
	case 104:
		m.resetPalette(string(text))
	case 110, 111, 112:
		delete(m.palette, n-110+colorText)
	case 52:
		if _, what, _ := bytes.Cut(text, []byte{';'}); string(what) == "?" {
			m.askString("")
		}
	}
}

// clean is text as a title can have it: valid, without control characters, and not too long.
func clean(text []byte) string {
	s := strings.Map(func(r rune) rune {
		if r < 0x20 || r >= 0x7f && r < 0xa0 {
			return -1
		}
		return r
	}, strings.ToValidUTF8(string(text), "\ufffd"))
	for len(s) > titleMost {
		_, size := utf8.DecodeLastRuneInString(s)
		s = s[:len(s)-size]
	}
	return s
}

// setLink is OSC 8: what is printed next leads to a URI.
func (m *Model) setLink(text string) {
	s := m.styles[m.cur.style]
	s.Link = ""
	if _, uri, _ := strings.Cut(text, ";"); uri != "" && len(text) <= linkMost {
		s.Link = clean([]byte(text))
	}
	m.setStyle(s)
}

// Numbers in Model.palette beyond the palette itself.
const (
	colorText = 256 + iota // OSC 10, and so on
	colorBack
	colorCursor
	Colors // how many there are
)

// setPalette is OSC 4: pairs of a number and a colour, or a question mark.
func (m *Model) setPalette(text string) {
	f := strings.Split(text, ";")
	for i := 0; i+1 < len(f); i += 2 {
		if n, err := strconv.Atoi(f[i]); err == nil && n >= 0 && n < 256 {
			m.setColor(n, f[i+1], fmt.Sprintf("4;%d", n))
		}
	}
}

// setColors is OSC 10, 11 and 12: a colour each, beginning with that of number.
func (m *Model) setColors(number int, text string) {
	for _, c := range strings.Split(text, ";") {
		if number > 12 {
			return
		}
		m.setColor(number-10+colorText, c, strconv.Itoa(number))
		number++
	}
}

func (m *Model) setColor(n int, text, name string) {
	if text == "?" {
		c := m.color(n)
		r, g, b := c>>16&0xff, c>>8&0xff, c&0xff
		m.askString(fmt.Sprintf("\x1b]%s;rgb:%02x%02x/%02x%02x/%02x%02x\x1b\\", name, r, r, g, g, b, b))
		return
	}
	if c, ok := parseColor(text); ok {
		if m.palette == nil {
			m.palette = map[int]RGB{}
		}
		m.palette[n] = c
	}
}

func (m *Model) resetPalette(text string) {
	if text == "" {
		for n := range 256 {
			delete(m.palette, n)
		}
		return
	}
	for _, f := range strings.Split(text, ";") {
		if n, err := strconv.Atoi(f); err == nil && n < 256 {
			delete(m.palette, n)
		}
	}
}

// parseColor reads rgb:R/G/B with one to four digits each, and #RGB, #RRGGBB and #RRRRGGGGBBBB (XParseColor(3)).
func parseColor(s string) (RGB, bool) {
	var parts []string
	if rest, ok := strings.CutPrefix(s, "rgb:"); ok {
		parts = strings.Split(rest, "/")
	} else if rest, ok := strings.CutPrefix(s, "#"); ok && len(rest)%3 == 0 {
		for k := len(rest) / 3; len(rest) > 0; rest = rest[k:] {
			parts = append(parts, rest[:k])
		}
	}
	if len(parts) != 3 {
		return 0, false
	}
	var c RGB
	for _, p := range parts {
		n, err := strconv.ParseUint(p, 16, 16)
		if err != nil || len(p) > 4 {
			return 0, false
		}
		c = c<<8 | RGB(n*0xff/(1<<(4*len(p))-1))
	}
	return c, true
}

// color is a colour of the palette, or one of the terminal's own: what the program has set, or what xterm has.
func (m *Model) color(n int) RGB {
	if c, ok := m.palette[n]; ok {
		return c
	}
	switch {
	case n < 16:
		return xtermColors[n]
	case n < 232:
		level := func(k int) RGB { return RGB(min(k, 1)*55 + k*40) }
		n -= 16
		return level(n/36)<<16 | level(n/6%6)<<8 | level(n%6)
	case n < 256:
		return RGB(8+10*(n-232)) * 0x010101
	case n == colorBack:
		return 0
	}
	return 0xe5e5e5
}

var xtermColors = [16]RGB{
	0x000000, 0xcd0000, 0x00cd00, 0xcdcd00, 0x0000ee, 0xcd00cd, 0x00cdcd, 0xe5e5e5,
	0x7f7f7f, 0xff0000, 0x00ff00, 0xffff00, 0x5c5cff, 0xff00ff, 0x00ffff, 0xffffff,
}
