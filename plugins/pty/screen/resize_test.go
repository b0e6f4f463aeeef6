package screen

import (
	"strings"
	"testing"
)

// shows is the text of the screen, with the cursor as ^, and a backslash behind a line that goes on.
func shows(m *Model) string {
	var b strings.Builder
	for y := range m.rows {
		for x := range m.cols {
			if y == m.cur.y && x == m.cur.x {
				b.WriteByte('^')
			}
			if c := m.Cell(y, x); c.Width > 0 && x < m.Used(y) {
				b.WriteString(c.Text)
			}
		}
		if m.Wrapped(y) {
			b.WriteByte('\\')
		}
		b.WriteByte('|')
	}
	return b.String()
}

func TestResize(t *testing.T) {
	for _, c := range []struct {
		name, out  string
		rows, cols int
		want, off  string
	}{
		{"narrower", "0123456789abc\r\nx", 4, 5, "01234\\|56789\\|abc|x^|", ""},
		{"wider", "0123456789abc\r\nx", 3, 20, "0123456789abc|x^||", ""},
		{"lower", "a\r\nb\r\nc", 1, 10, "c^|", "a\r\nb\r\n"},
		{"lower, with nothing below", "a\r\nb\x1b[H", 1, 10, "^a|", ""},
		{"higher", "a\r\nb", 5, 10, "a|b^||||", ""},
		{"narrower, and too much", "0123456789abcdef\r\nx", 3, 4, "89ab\\|cdef|x^|", "01234567"},
		{"a wide one stays whole", "abc\u6f22", 3, 4, "abc\\|\u6f22^||", ""},
		{"a wide one goes back", "012345678\u6f22z", 3, 13, "012345678\u6f22z^|||", ""},
		{"the last column", "0123456789", 3, 10, "012345678^9|||", ""},
		{"the last column, and wider", "0123456789", 3, 12, "0123456789^|||", ""},
		{"the cursor in a line", "0123456789abc\x1b[1;8H", 4, 5, "01234\\|56^789\\|abc||", ""},
		{"the alternate screen", "\x1b[?1049h\x1b[H0123456789\r\nb\r\nc", 2, 5, "b|c^|", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			m := New(3, 10)
			var off strings.Builder
			m.Scrolled = func(line []byte) { off.Write(line) }
			m.Write([]byte(c.out))
			m.Resize(c.rows, c.cols)
			got := shows(m)
			if got != c.want || off.String() != c.off {
				t.Errorf("%s, scrolled off %q; want %s, %q", got, off.String(), c.want, c.off)
			}
			if err := check(m); err != nil {
				t.Error(err)
			}
		})
	}
}

// A size and back again changes nothing, where nothing was scrolled off.
func TestResizeAndBack(t *testing.T) {
	for seed := range uint64(300) {
		g := newGenerator(seed)
		m := New(24, 80)
		for range 8 {
			m.Write([]byte(g.text() + "\r\n"))
		}
		before := looksLike(m)
		m.Resize(200, 7+g.IntN(150))
		m.Resize(24, 80)
		if after := looksLike(m); after != before {
			t.Fatalf("seed %d:\n%s\nwas\n%s", seed, after, before)
		}
	}
}

// looksLike is the text of the screen.
func looksLike(m *Model) string {
	s := shows(m)
	return strings.ReplaceAll(s, "^", "")
}
