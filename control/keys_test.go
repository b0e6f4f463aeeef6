package control

import (
	"strings"
	"testing"
)

func TestKeys(t *testing.T) {
	for name, want := range map[string]string{
		"a": "a", "A": "A", "é": "é", "-": "-", "^": "^",
		"Enter": "\r", "Escape": "\x1b", "Tab": "\t", "Space": " ", "BSpace": "\x7f",
		"C-c": "\x03", "C-C": "\x03", "^c": "\x03", "C-Space": "\x00", "C-@": "\x00", "C-[": "\x1b", "C-\\": "\x1c", "C-?": "\x7f",
		"M-x": "\x1bx", "M-Enter": "\x1b\r", "C-M-x": "\x1b\x18", "M-C-x": "\x1b\x18", "S-a": "A", "M--": "\x1b-",
		"S-Tab": "\x1b[Z", "BTab": "\x1b[Z",
		"Up": "\x1b[A", "Down": "\x1b[B", "Right": "\x1b[C", "Left": "\x1b[D", "Home": "\x1b[H", "End": "\x1b[F",
		"C-Left": "\x1b[1;5D", "S-Up": "\x1b[1;2A", "M-Right": "\x1b[1;3C", "C-S-End": "\x1b[1;6F",
		"IC": "\x1b[2~", "Delete": "\x1b[3~", "PageUp": "\x1b[5~", "PgDn": "\x1b[6~", "C-DC": "\x1b[3;5~",
		"F1": "\x1bOP", "F4": "\x1bOS", "S-F1": "\x1b[1;2P", "F5": "\x1b[15~", "F12": "\x1b[24~", "C-F5": "\x1b[15;5~",
	} {
		if got, err := Key(name).bytes(InputModes{}); err != nil || string(got) != want {
			t.Errorf("%s: %q, %v, want %q", name, got, err, want)
		}
	}
	for name, want := range map[string]string{
		"Up": "\x1bOA", "Home": "\x1bOH", "C-Up": "\x1b[1;5A", "F1": "\x1bOP", "PageUp": "\x1b[5~", "Enter": "\r",
	} {
		if got, err := Key(name).bytes(InputModes{CursorKeys: true}); err != nil || string(got) != want {
			t.Errorf("%s, application cursor keys: %q, %v, want %q", name, got, err, want)
		}
	}
	for name, want := range map[string][2]string{
		"KP0": {"0", "\x1bOp"}, "KP9": {"9", "\x1bOy"}, "KP+": {"+", "\x1bOk"}, "KP.": {".", "\x1bOn"}, "KPEnter": {"\r", "\x1bOM"},
		"M-KP5": {"\x1b5", "\x1b5"}, "KP-": {"-", "\x1bOm"},
	} {
		for i, keypad := range []bool{false, true} {
			if got, err := Key(name).bytes(InputModes{Keypad: keypad}); err != nil || string(got) != want[i] {
				t.Errorf("%s, application keypad %v: %q, %v, want %q", name, keypad, got, err, want[i])
			}
		}
	}
	for name, want := range map[string]string{
		"": "no such key", "Entr": "no such key", "enter": "no such key", "C-": "no such key", "X-a": "no such key", "\xff": "no such key",
		"F13": "no such key", "C-1": "no such control character", "C-é": "no such control character",
	} {
		if got, err := Key(name).bytes(InputModes{}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %q, %v, want an error with %q", name, got, err, want)
		}
	}
}

func TestPaste(t *testing.T) {
	for _, c := range []struct{ text, plain, bracketed string }{
		{"a\nb\r\nc\rd", "a\rb\rc\rd", "\x1b[200~a\rb\rc\rd\x1b[201~"},
		{"", "", "\x1b[200~\x1b[201~"},
		{"x\x1b[201~rm\n", "x\x1b[201~rm\r", "\x1b[200~xrm\r\x1b[201~"},
		{"x\x1b[20\x1b[201~1~y", "x\x1b[20\x1b[201~1~y", "\x1b[200~xy\x1b[201~"},
	} {
		if got, err := Paste(c.text).bytes(InputModes{}); err != nil || string(got) != c.plain {
			t.Errorf("%q: %q, %v, want %q", c.text, got, err, c.plain)
		}
		if got, err := Paste(c.text).bytes(InputModes{Paste: true}); err != nil || string(got) != c.bracketed {
			t.Errorf("%q in brackets: %q, %v, want %q", c.text, got, err, c.bracketed)
		}
	}
}

func TestCursor(t *testing.T) {
	for _, c := range []Cursor{{}, {1, 0}, {4294967295, 1<<64 - 1}} {
		if got, err := ParseCursor(c.String()); err != nil || got != c {
			t.Errorf("%v: %v, %v", c, got, err)
		}
	}
	for _, s := range []string{"", "7", ":", "1:", ":1", "1:-1", "1:2:3", "x:1", "4294967296:0"} {
		if got, err := ParseCursor(s); err == nil {
			t.Errorf("%q was taken as %v", s, got)
		}
	}
}
