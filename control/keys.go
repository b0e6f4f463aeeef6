package control

import (
	"fmt"
	"slices"
	"sort"
	"strings"
	"unicode/utf8"
)

// InputModes are what a program has asked its terminal to send: the same key is other bytes in another mode.
type InputModes struct {
	CursorKeys bool // the application's cursor keys (DECCKM)
	Keypad     bool // the application's keypad (DECKPAM, DECNKM)
	Paste      bool // brackets around what is pasted (mode 2004)
}

// inputModes are those of a console whose modes have these names, as ScreenResponse gives them.
func inputModes(names []string) InputModes {
	has := func(name string) bool { return slices.Contains(names, name) }
	return InputModes{CursorKeys: has("cursor-keys"), Keypad: has("keypad"), Paste: has("paste")}
}

// Typed is something that Send types into a console.
type Typed interface {
	bytes(InputModes) ([]byte, error)
}

// Text is typed as the bytes that it is.
type Text string

// Key is a key by its name, as tmux's send-keys takes it: one character, or Enter, Escape, Tab, Space, BSpace, Up, Down, Left, Right, Home,
// End, PageUp, PageDown, IC, DC, F1 to F12, or KP0 to KP9, KP+, KP-, KP*, KP/, KP. and KPEnter of the keypad, with C-, M- and S- before it
// for control, meta and shift.
type Key string

// Paste is text as a terminal gives it to a program when somebody pastes it: its newlines are carriage returns, and it is
// in brackets where the program wants that.
type Paste string

func (t Text) bytes(InputModes) ([]byte, error) { return []byte(t), nil }

// The brackets of a paste. What is pasted cannot end them (xterm, allowPasteControls).
const (
	pasteBegin = "\x1b[200~"
	pasteEnd   = "\x1b[201~"
)

func (p Paste) bytes(m InputModes) ([]byte, error) {
	s := strings.ReplaceAll(strings.ReplaceAll(string(p), "\r\n", "\r"), "\n", "\r")
	if m.Paste {
		for strings.Contains(s, pasteEnd) { // what is left after one is taken out can be another
			s = strings.ReplaceAll(s, pasteEnd, "")
		}
		s = pasteBegin + s + pasteEnd
	}
	return []byte(s), nil
}

// special is what a key that is no character sends, as xterm has it: CSI number ~, or CSI letter, or SS3 letter.
type special struct {
	number int
	letter byte
	ss3    bool // SS3 where no modifier is held
	cursor bool // SS3 where the application wants that of cursor keys
}

var specials = map[string]special{
	"Up": {letter: 'A', cursor: true}, "Down": {letter: 'B', cursor: true}, "Right": {letter: 'C', cursor: true},
	"Left": {letter: 'D', cursor: true}, "Home": {letter: 'H', cursor: true}, "End": {letter: 'F', cursor: true},
	"IC": {number: 2}, "DC": {number: 3}, "PageUp": {number: 5}, "PageDown": {number: 6},
	"F1": {letter: 'P', ss3: true}, "F2": {letter: 'Q', ss3: true}, "F3": {letter: 'R', ss3: true}, "F4": {letter: 'S', ss3: true},
	"F5": {number: 15}, "F6": {number: 17}, "F7": {number: 18}, "F8": {number: 19}, "F9": {number: 20}, "F10": {number: 21},
	"F11": {number: 23}, "F12": {number: 24},
}

// keypad are the keys of the keypad: what they send, and behind SS3 where the application wants the keypad's own.
var keypad = map[string][2]byte{
	"KP0": {'0', 'p'}, "KP1": {'1', 'q'}, "KP2": {'2', 'r'}, "KP3": {'3', 's'}, "KP4": {'4', 't'}, "KP5": {'5', 'u'}, "KP6": {'6', 'v'},
	"KP7": {'7', 'w'}, "KP8": {'8', 'x'}, "KP9": {'9', 'y'}, "KP+": {'+', 'k'}, "KP-": {'-', 'm'}, "KP*": {'*', 'j'}, "KP/": {'/', 'o'},
	"KP.": {'.', 'n'}, "KPEnter": {'\r', 'M'},
}

// named are the keys with a name that send a character.
var named = map[string]rune{"Enter": '\r', "Escape": 0x1b, "Tab": '\t', "Space": ' ', "BSpace": 0x7f}

// otherNames are other names of the same keys; those of tmux among them.
var otherNames = map[string]string{
	"Return": "Enter", "Esc": "Escape", "Backspace": "BSpace", "Insert": "IC", "Delete": "DC", "PgUp": "PageUp", "PPage": "PageUp",
	"PgDn": "PageDown", "NPage": "PageDown", "BTab": "S-Tab",
}

// modifiers that are held: xterm's parameter is one more than their sum.
const (
	shift = 1
	meta  = 2
	ctrl  = 4
)

// Check says what is wrong with the key's name.
func (k Key) Check() error {
	_, err := k.bytes(InputModes{})
	return err
}

func (k Key) bytes(m InputModes) ([]byte, error) {
	name, held := modified(string(k))
	if other, ok := otherNames[name]; ok {
		more := 0
		name, more = modified(other)
		held |= more
	}
	if s, ok := specials[name]; ok {
		return s.bytes(held, m), nil
	}
	pad, ok := keypad[name]
	if ok && m.Keypad && held == 0 {
		return []byte{0x1b, 'O', pad[1]}, nil
	}
	r := rune(pad[0])
	if !ok {
		r, ok = named[name]
	}
	if !ok {
		var size int
		if r, size = utf8.DecodeRuneInString(name); size != len(name) || r == utf8.RuneError {
			return nil, fmt.Errorf("key %q: no such key; a key is one character, or one of %s, with C-, M- or S- before it", string(k), keyNames())
		}
	}
	if name == "Tab" && held&shift != 0 {
		return special{letter: 'Z'}.bytes(held&^shift, m), nil
	}
	var out []byte
	if held&meta != 0 {
		out = append(out, 0x1b)
	}
	if held&ctrl != 0 {
		if r, ok = control(r); !ok {
			return nil, fmt.Errorf("key %q: there is no such control character", string(k))
		}
	}
	if held&shift != 0 && len(name) == 1 {
		r = []rune(strings.ToUpper(string(r)))[0]
	}
	return utf8.AppendRune(out, r), nil
}

// modified takes the modifiers off a key's name.
func modified(name string) (key string, held int) {
	if len(name) == 2 && name[0] == '^' {
		return name[1:], ctrl
	}
	for len(name) > 2 && name[1] == '-' {
		switch name[0] {
		case 'S':
			held |= shift
		case 'M':
			held |= meta
		case 'C':
			held |= ctrl
		default:
			return name, held
		}
		name = name[2:]
	}
	return name, held
}

// control is the control character of r.
func control(r rune) (rune, bool) {
	switch {
	case 'a' <= r && r <= 'z':
		return r - 'a' + 1, true
	case '@' <= r && r <= '_':
		return r - '@', true
	case r == ' ':
		return 0, true
	case r == '?':
		return 0x7f, true
	case r < 0x20 || r == 0x7f: // Enter and Tab are control characters already
		return r, true
	}
	return 0, false
}

func (s special) bytes(held int, m InputModes) []byte {
	switch {
	case s.number > 0 && held == 0:
		return fmt.Appendf(nil, "\x1b[%d~", s.number)
	case s.number > 0:
		return fmt.Appendf(nil, "\x1b[%d;%d~", s.number, held+1)
	case held != 0:
		return fmt.Appendf(nil, "\x1b[1;%d%c", held+1, s.letter)
	case s.ss3 || s.cursor && m.CursorKeys:
		return fmt.Appendf(nil, "\x1bO%c", s.letter)
	}
	return fmt.Appendf(nil, "\x1b[%c", s.letter)
}

// keyNames are the names of all keys that have one.
func keyNames() string {
	var all []string
	for name := range specials {
		all = append(all, name)
	}
	for name := range named {
		all = append(all, name)
	}
	for name := range keypad {
		all = append(all, name)
	}
	sort.Strings(all)
	return strings.Join(all, ", ")
}
