package screen

import (
	"fmt"
	"image/color"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	uv "github.com/charmbracelet/ultraviolet"
	"github.com/charmbracelet/x/ansi"
	"github.com/charmbracelet/x/vt"
)

// xvt is a terminal to compare with: charmbracelet's, in this process.
type xvt struct {
	*vt.Emulator
	alternate, hidden bool
	title, icon       string
	modes             map[ansi.Mode]bool
	read              chan struct{} // closed when nobody reads its answers any more
}

func newXVT(rows, cols int) *xvt {
	x := &xvt{Emulator: vt.NewEmulator(cols, rows), modes: map[ansi.Mode]bool{}, read: make(chan struct{})}
	x.SetCallbacks(vt.Callbacks{
		AltScreen:        func(on bool) { x.alternate = on },
		CursorVisibility: func(on bool) { x.hidden = !on },
		Title:            func(s string) { x.title = s },
		IconName:         func(s string) { x.icon = s },
		EnableMode:       func(m ansi.Mode) { x.modes[m] = true },
		DisableMode:      func(m ansi.Mode) { x.modes[m] = false },
	})
	go func() { // otherwise it would wait with an answer
		defer close(x.read)
		io.Copy(io.Discard, x.Emulator)
	}()
	return x
}

func (x *xvt) end() {
	x.InputPipe().(io.Closer).Close() // its own Close races with Read
	<-x.read
}

// xvtModes are the modes that both tell.
var xvtModes = []struct {
	mode   Mode
	theirs ansi.Mode
}{
	{ModeCursorKeys, ansi.ModeCursorKeys}, {ModeOrigin, ansi.ModeOrigin}, {ModeMouse, ansi.ModeMouseNormal},
	{ModeMouseDrag, ansi.ModeMouseButtonEvent}, {ModeMouseMove, ansi.ModeMouseAnyEvent}, {ModeFocus, ansi.ModeFocusEvent},
	{ModeMouseSGR, ansi.ModeMouseExtSgr}, {ModePaste, ansi.ModeBracketedPaste}, {ModeKeypad, ansi.ModeNumericKeypad},
}

// looks is what a person sees, in the same words for both.
func (x *xvt) looks() string {
	var b strings.Builder
	at := x.CursorPosition()
	fmt.Fprintf(&b, "cursor %d,%d hidden %v alternate %v title %q icon %q modes", at.Y, at.X, x.hidden, x.alternate, x.title, x.icon)
	for _, m := range xvtModes {
		fmt.Fprintf(&b, " %v", x.modes[m.theirs])
	}
	for y := range x.Height() {
		var l lookedLine
		for n := 0; n < x.Width(); {
			c := x.CellAt(n, y)
			l.cell(c.Content, Style{
				Fg: xvtColor(c.Style.Fg), Bg: xvtColor(c.Style.Bg), Under: xvtColor(c.Style.UnderlineColor),
				Attr: xvtAttr(c.Style.Attrs), Underline: Underline(c.Style.Underline),
			})
			n += max(c.Width, 1)
		}
		fmt.Fprintf(&b, "\n%3d %s", y, l.String())
	}
	return b.String()
}

func looksAsXVT(m *Model) string {
	var b strings.Builder
	y, at, _, _ := m.Cursor()
	title, icon := m.Title()
	fmt.Fprintf(&b, "cursor %d,%d hidden %v alternate %v title %q icon %q modes", y, at, m.modes&ModeCursor == 0, m.shown == &m.alt, title, icon)
	for _, k := range xvtModes {
		fmt.Fprintf(&b, " %v", m.modes&k.mode != 0)
	}
	for y := range m.rows {
		var l lookedLine
		row := m.shown.row(y)
		for x := range row {
			if row[x].rest() {
				continue
			}
			s := m.styles[row[x].style]
			s.Link = ""
			s.Attr &^= protected
			l.cell(string(m.appendText(nil, row[x])), s)
		}
		fmt.Fprintf(&b, "\n%3d %s", y, l.String())
	}
	return b.String()
}

// lookedLine is a line in words, up to the last place that shows something.
type lookedLine struct {
	b     strings.Builder
	style Style
	end   int
}

func (l *lookedLine) cell(text string, s Style) {
	if text == "" {
		text = " "
	}
	if s != l.style {
		fmt.Fprintf(&l.b, "{%x %x %x %x %d}", s.Fg, s.Bg, s.Under, s.Attr, s.Underline)
		l.style = s
	}
	l.b.WriteString(text)
	if text != " " || s != (Style{}) {
		l.end = l.b.Len()
	}
}

func (l *lookedLine) String() string { return l.b.String()[:l.end] }

func xvtColor(c color.Color) Color {
	switch c := c.(type) {
	case nil:
		return 0
	case ansi.BasicColor:
		return colorIndexed | Color(c)
	case ansi.IndexedColor:
		return colorIndexed | Color(c)
	}
	r, g, b, _ := c.RGBA()
	return colorRGB | Color(r>>8<<16|g>>8<<8|b>>8)
}

func xvtAttr(a uint8) (out Attr) {
	for theirs, ours := range map[uint8]Attr{
		uv.AttrBold: Bold, uv.AttrFaint: Faint, uv.AttrItalic: Italic, uv.AttrBlink: Blink, uv.AttrReverse: Reverse,
		uv.AttrConceal: Hidden, uv.AttrStrikethrough: Strike,
	} {
		if a&theirs != 0 {
			out |= ours
		}
	}
	return out
}

// differsFromXVT is the first line that is another one in x/vt; "" where there is none.
func differsFromXVT(out []byte) string {
	m, x := New(24, 80), newXVT(24, 80)
	defer x.end()
	m.Write(out)
	x.Write(out)
	got, want := strings.Split(looksAsXVT(m), "\n"), strings.Split(x.looks(), "\n")
	for i := range got {
		if got[i] != at(want, i) {
			return fmt.Sprintf("line %d:\n got %s\nx/vt %s", i-1, got[i], at(want, i))
		}
	}
	return ""
}

// shrink leaves out of pieces what is not needed for bad to hold.
func shrink(pieces []string, bad func(string) bool) []string {
	for n := len(pieces) / 2; n > 0; {
		left := len(pieces)
		for i := 0; i+n <= len(pieces); {
			if fewer := slices.Concat(pieces[:i], pieces[i+n:]); bad(strings.Join(fewer, "")) {
				pieces = fewer
			} else {
				i += n
			}
		}
		if len(pieces) == left || n > len(pieces) {
			n /= 2
		}
	}
	return pieces
}

type xvtDifference struct {
	piece *regexp.Regexp
	how   string
}

// xvtDiffers are pieces of output with which x/vt is another terminal than xterm, of which this model is one.
var xvtDiffers = []xvtDifference{
	{regexp.MustCompile(`\x1b\[4[hl]$`), "it does not insert (IRM)"},
	{regexp.MustCompile(`\x1b\[1J$`), "it erases all of the cursor's line"},
	{regexp.MustCompile(`\x1b\[\d*b$`), "it repeats what was printed before other sequences"},
	{regexp.MustCompile(`\x1b\[\?6[hl]$`), "DECOM does not go home"},
	{regexp.MustCompile(`\x1b\[\?1049l$`), "it restores the cursor of the alternate screen only"},
	{regexp.MustCompile(`\x1b[78]$|\x1b\[[su]$`), "where nothing was saved it restores nothing, and character sets and DECOM are not saved"},
	{regexp.MustCompile(`\x1b\[0[A-Zae]$`), "0 is not 1"},
	{regexp.MustCompile(`[\x0e\x0f]|\x1b[()][0B]`), "its set of line graphics is another one, and G1 is not kept while it is in use"},
	{regexp.MustCompile(`[\[;](21|53|55)[;m]`), "no double underlining and overlining by these numbers"},
	{regexp.MustCompile(`^\x1bE$`), "it stays in the first line"},
	{regexp.MustCompile(`^\x1b\[2J$`), "what is erased has no background"},
	{regexp.MustCompile(`^\x1b\[\d*[@P]$`), "outside of the scroll region nothing is inserted or deleted in a line"},
	{regexp.MustCompile(`^\x1b\[\d*[LM]$`), "the cursor moves to another line"},
	{regexp.MustCompile(`^\x1b\[\?1049h$`), "the cursor goes home"},
	{regexp.MustCompile(`^\x1b\[\d*[BAEF]$`), "the scroll region does not stop a cursor that comes from outside"},
	{regexp.MustCompile(`\x{200d}|\x{0301}|\x{0308}`), "it looks for clusters of characters"},
	{regexp.MustCompile(`[^\x00-\x{2fff}]`), "a wide character may hang over the last column, and one half of it be overwritten"},
}

// Random output looks as in x/vt.
func TestAgainstXVT(t *testing.T) {
	for seed := range uint64(300) {
		g := newGenerator(seed)
		var pieces []string
		m := New(24, 80)
		for range 60 {
			piece := g.some(false)
			if m.cur.pending && strings.ContainsAny(piece[len(piece)-1:], "JZ") {
				continue // what is printed next is in the next line there
			}
			if !slices.ContainsFunc(xvtDiffers, func(d xvtDifference) bool { return d.piece.MatchString(piece) }) {
				pieces = append(pieces, piece)
				m.Write([]byte(piece))
			}
		}
		bad := func(out string) bool { return differsFromXVT([]byte(out)) != "" }
		if !bad(strings.Join(pieces, "")) {
			continue
		}
		pieces = shrink(pieces, bad)
		t.Fatalf("seed %d: %q: %s", seed, pieces, differsFromXVT([]byte(strings.Join(pieces, ""))))
	}
}

// Recorded output of programs looks as in x/vt.
func TestRecordedAgainstXVT(t *testing.T) {
	files, err := filepath.Glob("testdata/*.out")
	if err != nil || len(files) == 0 {
		t.Fatalf("no recordings: %v", err)
	}
	for _, name := range files {
		out, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		if d := differsFromXVT(out); d != "" {
			t.Errorf("%s: %s", name, d)
		}
	}
}
