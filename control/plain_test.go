package control

import (
	"math/rand/v2"
	"testing"
)

func TestPlainText(t *testing.T) {
	for _, c := range []struct{ raw, want string }{
		{"", ""},
		{"one\r\ntwo\r\n", "one\ntwo\n"},
		{"\x1b[?2004hbash$ \x1b[1;31mls\x1b[m\x1b[K", "bash$ ls"},
		{"\x1b]0;a title\x07text\x1b]2;another\x1b\\more", "textmore"},
		{"\x1bP+q544e\x1b\\x\x1b_APC\x1b\\y", "xy"},
		{"\x1b(B\x1b)0\x1b#8\x1b=\x1b>\x1b7q", "q"},
		{"10%\r20%\r\x1b[K30%\r\n", "10%\n20%\n30%\n"},
		{"\x1b[?2004l\r42\r\n", "42\n"},
		{"a\r\r\nb", "a\nb"},
		{"bell\a back\b tab\tvt\v\x7f", "bell back tab\tvt"},
		{"caf\u00e9 \u4e16\u754c \U0001f600", "caf\u00e9 \u4e16\u754c \U0001f600"},
		{"\xff\xe4\xb8broken\xc3", "broken"},
		{"\x1b[31\x18text", "text"},
		{"\x1b[3\n1mx", "x"},
	} {
		var whole plainText
		whole.write(0, []byte(c.raw))
		if string(whole.text) != c.want {
			t.Errorf("%q: %q, want %q", c.raw, whole.text, c.want)
		}
		var split plainText
		for i := range len(c.raw) {
			split.write(uint64(i), []byte(c.raw[i:i+1]))
		}
		if string(split.text) != c.want || split.ground != whole.ground {
			t.Errorf("%q, byte by byte: %q up to %d, want %q up to %d", c.raw, split.text, split.ground, c.want, whole.ground)
		}
	}
}

// What the text comes from can be told after any number of bytes has been forgotten.
func TestPlainTextOffsets(t *testing.T) {
	const raw = "ab\x1b[1mcd\x1b[m\r\nx\u00e9\ry\x1b]0;t\x07z"
	var whole plainText
	whole.write(100, []byte(raw))
	want := map[byte]uint64{}
	for i := range len(raw) {
		if b := raw[i]; b >= 'a' && b <= 'd' || b >= 'x' && b <= 'z' {
			want[b] = uint64(100 + i)
		}
	}
	for trimmed := range len(whole.text) {
		var p plainText
		p.write(100, []byte(raw))
		for left := trimmed; left > 0; {
			n := min(left, 1+rand.IntN(3))
			p.trim(n)
			left -= n
		}
		if string(p.text) != string(whole.text[trimmed:]) {
			t.Fatalf("without %d bytes: %q", trimmed, p.text)
		}
		for i, b := range p.text {
			if at, ok := want[b]; ok && p.offset(i+1) != at+1 {
				t.Errorf("without %d bytes: %q ends at %d, want %d", trimmed, b, p.offset(i+1), at+1)
			}
		}
	}
}

// A reading ends neither inside of a character nor of a control sequence, but is not held up by one that never ends.
func TestWhole(t *testing.T) {
	for _, c := range []struct {
		raw  string
		want int
	}{
		{"text", 4},
		{"text\xe4\xb8", 4},
		{"text\x1b[3", 4},
		{"text\x1b]0;titl", 4},
		{"text\r", 5},
		{"\x1b[m", 3},
	} {
		if got := whole([]byte(c.raw)); got != c.want {
			t.Errorf("%q: %d, want %d", c.raw, got, c.want)
		}
	}
	long := append([]byte("text\x1b]"), make([]byte, sequenceMost+1)...)
	for i := 6; i < len(long); i++ {
		long[i] = 'x'
	}
	if got := whole(long); got != len(long) {
		t.Errorf("a sequence that is too long: %d, want %d", got, len(long))
	}
}
