package screen

import (
	"fmt"
	"math/rand/v2"
	"strings"
)

// generator makes terminal output that means something most of the time.
type generator struct{ *rand.Rand }

func newGenerator(seed uint64) generator { return generator{rand.New(rand.NewPCG(seed, 7))} }

func (g generator) of(s ...string) string { return s[g.IntN(len(s))] }

func (g generator) number() string {
	return g.of("", "0", "1", "2", "3", "5", "8", "17", fmt.Sprint(g.IntN(40)), fmt.Sprint(g.IntN(200)))
}

func (g generator) text() string {
	switch g.IntN(6) {
	case 0:
		return g.of("日本語", "漢字かな", "한국어", "😀👍", "e\u0301a\u0308", "äöü€", "│─┼", "\u200d", "👩\u200d🚀", "\u0301")
	case 1:
		return strings.Repeat(g.of("x", "long ", "-"), g.IntN(120))
	}
	var b strings.Builder
	for range g.IntN(20) {
		b.WriteByte(byte(' ' + g.IntN(95)))
	}
	return b.String()
}

func (g generator) sgr() string {
	p := make([]string, 1+g.IntN(4))
	for i := range p {
		p[i] = g.of("", "0", "1", "2", "3", "4", "5", "7", "8", "9", "21", "22", "24", "27", "31", "42", "39", "49", "53", "55", "93", "104",
			"38;5;"+fmt.Sprint(g.IntN(256)), "48;5;"+fmt.Sprint(g.IntN(256)), fmt.Sprintf("38;2;%d;%d;%d", g.IntN(256), g.IntN(256), g.IntN(256)),
			fmt.Sprintf("48:2::%d:%d:%d", g.IntN(256), g.IntN(256), g.IntN(256)), "4:3", "4:0", "58:5:9", "59", "58:2::1:2:3")
	}
	return "\x1b[" + strings.Join(p, ";") + "m"
}

// some is a piece of output; edge adds what few programs do.
func (g generator) some(edge bool) string {
	switch g.IntN(12) {
	case 0, 1, 2:
		return g.text()
	case 3:
		return g.of("\r\n", "\n", "\r", "\b", "\t", "\r\n\r\n", "\v", "\x0e", "\x0f")
	case 4:
		return g.sgr()
	case 5:
		return fmt.Sprintf("\x1b[%s;%sH", g.number(), g.number())
	case 6:
		return "\x1b[" + g.number() + g.of("A", "B", "C", "D", "E", "F", "G", "d", "I", "Z", "`", "a", "e")
	case 7:
		return "\x1b[" + g.of("", "0", "1", "2", "") + g.of("J", "K")
	case 8:
		return "\x1b[" + g.number() + g.of("@", "P", "L", "M", "X", "S", "T", "b")
	case 9:
		return fmt.Sprintf("\x1b[%s;%sr", g.of("", "1", "3", "5"), g.of("", "10", "20", "24"))
	case 10:
		return g.of("\x1b7", "\x1b8", "\x1bD", "\x1bM", "\x1bE", "\x1b[s", "\x1b[u", "\x1b[?25l", "\x1b[?25h", "\x1b[4h", "\x1b[4l",
			"\x1b[?6h", "\x1b[?6l", "\x1b[?7l", "\x1b[?7h", "\x1b[?1049h", "\x1b[?1049l", "\x1b[?2004h", "\x1b[?1h", "\x1b=", "\x1b>")
	}
	if !edge {
		return g.of("\x1b(0", "\x1b(B", "\x1b)0", "\x1b]2;a title\x07", "\x1b]0;both\x1b\\")
	}
	return g.of("\x1b#8", "\x1b(0", "\x1b(B", "\x1b)0", "\x1b]2;ti\u20actle\x07", "\x1b]0;both\x1b\\", "\x1b[22;0t", "\x1b[23;0t", "\x1b[5 q", "\x1bH", "\x1b[3g",
		"\x1b[g", "\x1b[?1047h", "\x1b[?47l", "\x1b[?1048h", "\x1b[!p", "\x1b]8;;http://x/\x07", "\x1b]8;;\x07", "\x1b]4;5;rgb:12/34/56\x07",
		"\x1b]11;#102030\x1b\\", "\x1b[?1002h", "\x1b[?1006h", "\x1b[?1000l", "\x1b[>5u", "\x1b[<u", "\x1b[>4;2m", "\x1b[1\"q", "\x1b[0\"q", "\x1b[?1J", "\x1b[?K",
		"\x1b[6n", "\x1b[c", "\x1b[?2026h", "\x1b[?2026l", "\x1b[?5h", "\x1b[20h", "\x1bN", "\x1bO", "\x1bn", "\x1b[3J", "\x1b[", "\x1b]2;x", "\x1bP1$r", "\xe2\x82", "\xff",
		"\x1bP$qm\x1b\\", "\x18", "\x1b[?7$p", "\x1b[1;2:3:4;?m", "\x1bc", "\x1b_G\x1b\\", "\x1b[?s", "\x1b[?40h", "\x1b[?40l", "\x1b[?3h", "\x1b[?3l", "\x1b[?25;7s", "\x1b[?25;7r", "\x80", "\x9b", "\x7f")
}

// output is n pieces of output.
func (g generator) output(n int, edge bool) []byte {
	var b []byte
	for range n {
		b = append(b, g.some(edge)...)
	}
	return b
}
