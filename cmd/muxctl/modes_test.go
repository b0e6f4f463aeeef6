package main

import (
	"math/rand/v2"
	"testing"
)

func TestScreenModes(t *testing.T) {
	for _, c := range []struct{ name, output, restore, again string }{
		{"plain text", "hello\r\n\ttab\x07", "", ""},
		{"colour that was taken back", "\x1b[31mred\x1b[0m \x1b[1mbold\x1b[m", "", ""},
		{"colour left on", "\x1b[1;31mred", "\x1b[m", ""},
		{"alternate screen", "\x1b[?1049h", "\x1b[?1049l", "\x1b[?1049h"},
		{"alternate screen left", "\x1b[?1049h\x1b[?1049l", "", ""},
		{"vim", "\x1b[?1049h\x1b[?1h\x1b=\x1b[?2004h\x1b[?25l\x1b[?1006;1000h\x1b[1;24r\x1b[>4;2m",
			"\x1b7\x1b[r\x1b8\x1b>\x1b[>4m\x1b[?1l\x1b[?1000l\x1b[?1006l\x1b[?2004l\x1b[?25h\x1b[?1049l",
			"\x1b=\x1b[?1h\x1b[?1000h\x1b[?1006h\x1b[?2004h\x1b[?25l\x1b[?1049h"},
		{"cursor hidden and shown", "\x1b[?25l\x1b[?25h", "", ""},
		{"untracked mode", "\x1b[?1007h", "", ""},
		{"reverse screen", "\x1b[?5h", "\x1b[?5l", "\x1b[?5h"},
		{"insert mode and newline mode", "\x1b[4;20h", "\x1b[4l\x1b[20l", ""},
		{"insert mode that was taken back", "\x1b[4h\x1b[20;4l", "", ""},
		{"reset", "\x1b[?1049h\x1b[31m\x1b=\x1bc", "", ""},
		{"soft reset", "\x1b[?25l\x1b[31m\x1b=\x1b[!p", "", ""},
		{"in a title", "\x1b]0;\x1b\\ \x1b]0;[?1049h\x07", "", ""},
		{"in a string", "\x1bP[?1049h\x1b\\", "", ""},
		{"cancelled", "\x1b[?104\x189h", "", ""},
		{"unfinished", "\x1b[?104", "\x18", ""},
		{"kitty keyboard", "\x1b[>1u\x1b[>3u\x1b[<u", "\x1b[<1u", ""},
		{"cursor shape", "\x1b[5 q", "\x1b[0 q", ""},
		{"line drawing", "\x1b(0", "\x0f\x1b(B", ""},
		{"shift out and in", "\x0eabc\x0f", "", ""},
		{"palette and background", "\x1b]4;1;#ff0000\x07\x1b]11;rgb:00/00/00\x1b\\x", "\x1b]104\x1b\\\x1b]111\x1b\\", ""},
		{"colours taken back", "\x1b]10;red\x07\x1b]12;red\x07\x1b]110\x07\x1b]112\x1b\\", "", ""},
		{"colours asked for", "\x1b]4;1;?\x07\x1b]10;?\x1b\\\x1b]11;?\x07", "", ""},
		{"colour that is cancelled", "\x1b]10;re\x18d\x07", "", ""},
		{"title with a number", "\x1b]0;11;red\x07", "", ""},
		{"absurd parameters", "\x1b[9999999999999999999999h\x1b[?h", "", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			check := func(s *screenModes, how string) {
				t.Helper()
				if got := s.restore(); got != c.restore {
					t.Errorf("%s: restore %q, want %q", how, got, c.restore)
				}
				if got := s.again(); got != c.again {
					t.Errorf("%s: again %q, want %q", how, got, c.again)
				}
			}
			var whole, split screenModes
			whole.write([]byte(c.output))
			check(&whole, "in one piece")
			for i := range len(c.output) {
				split.write([]byte(c.output[i : i+1]))
			}
			check(&split, "byte by byte")
			whole.write([]byte(c.restore))
			if got := whole.restore(); got != "" {
				t.Errorf("after restore there is still %q to restore", got)
			}
		})
	}
}

// Rubbish is followed without a crash, and what it has changed can be put back.
func TestScreenModesRubbish(t *testing.T) {
	const bytes = "\x1b\x1b\x1b[[[??<>=;0124579hlmrqupc() \x07\x18\x0e\x0f]P\\B"
	for seed := range uint64(3000) {
		rnd := rand.New(rand.NewPCG(seed, 3))
		var s screenModes
		b := make([]byte, 400)
		for i := range b {
			b[i] = bytes[rnd.IntN(len(bytes))]
		}
		s.write(b)
		s.write([]byte(s.restore()))
		if left := s.restore(); left != "" {
			t.Fatalf("seed %d: after restore there is still %q to restore", seed, left)
		}
	}
}

// The terminal has its own title again, whatever the console has pushed and popped, and the console's when it is shown again.
func TestTitles(t *testing.T) {
	for _, c := range []struct{ name, output, restore, again string }{
		{"none", "text", "\x1b[23;0t", "\x1b[22;0t"},
		{"set", "\x1b]0;theirs\x07", "\x1b[23;0t", "\x1b[22;0t\x1b]0;theirs\x1b\\"},
		{"pushed", "\x1b[22;0t\x1b]2;a;b\x1b\\", "\x1b[23;0t\x1b[23;0t", "\x1b[22;0t\x1b[22;0t\x1b]2;a;b\x1b\\"},
		{"pushed and popped", "\x1b[22;2t\x1b]2;x\x07\x1b[23;2t\x1b[23;2t", "\x1b[23;0t", "\x1b[22;0t\x1b]2;x\x1b\\"},
		{"reset", "\x1b]2;x\x07\x1bc", "\x1b[23;0t", "\x1b[22;0t"},
	} {
		s := screenModes{own: true}
		s.write([]byte(c.output))
		if got := s.restore(); got != c.restore {
			t.Errorf("%s: restore %q, want %q", c.name, got, c.restore)
		}
		if got := s.again(); got != c.again {
			t.Errorf("%s: again %q, want %q", c.name, got, c.again)
		}
	}
}
