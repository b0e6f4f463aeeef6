package screen

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/muxd/muxd/internal/need"
)

// tmux is a terminal to compare with: a pane of a tmux server of the test's own.
type tmux struct {
	t      *testing.T
	socket string
	shown  int
}

func newTmux(t *testing.T) *tmux {
	need.Program(t, "tmux")
	x := &tmux{t: t, socket: filepath.Join(t.TempDir(), "s")}
	// What is to be shown comes by the names of files, one a line, maybe behind what tmux has answered.
	x.run("-f", os.DevNull, "new-session", "-d", "-x", "80", "-y", "24", "stty raw -echo; while read f; do cat /${f#*/}; done")
	t.Cleanup(func() { x.run("kill-server") })
	return x
}

func (x *tmux) run(args ...string) string {
	x.t.Helper()
	cmd := exec.Command("tmux", append([]string{"-u", "-S", x.socket}, args...)...)
	cmd.Env = append(os.Environ(), "TMUX=", "LC_ALL=C.UTF-8")
	out, err := cmd.CombinedOutput()
	if err != nil {
		x.t.Fatalf("tmux %q: %v: %s", args, err, out)
	}
	return string(out)
}

// show has tmux show out on an empty screen, and returns what it shows then: a model of it, whose lines do not wrap.
func (x *tmux) show(out []byte) *Model {
	x.t.Helper()
	x.shown++
	name := filepath.Join(x.t.TempDir(), "out")
	mark := fmt.Sprintf("shown-%d", x.shown)
	out = append([]byte("\x1b[?1049l\x1bc"), out...)
	out = append(out, "\x1b\\\x18\x1b]2;"+mark+"\x07"...)
	if err := os.WriteFile(name, out, 0o600); err != nil {
		x.t.Fatal(err)
	}
	x.run("send-keys", "-l", name+"\n")
	deadline := time.Now().Add(30 * time.Second)
	var at []string
	for {
		at = strings.Fields(x.run("display-message", "-p", "#{pane_title} #{cursor_x} #{cursor_y} #{alternate_on}"))
		if at[0] == mark {
			break
		}
		if time.Now().After(deadline) {
			x.t.Fatalf("tmux does not come to the end of it: %q", at)
		}
	}
	m := New(24, 80)
	m.Write([]byte("\x1b)0\x1b[?7l"))
	for y, line := range strings.Split(strings.TrimSuffix(x.run("capture-pane", "-p", "-e", "-N"), "\n"), "\n") {
		m.Write(fmt.Appendf(nil, "\x1b[%dH%s", y+1, line))
	}
	m.cur = cursor{}
	m.cur.x, _ = strconv.Atoi(at[1])
	m.cur.y, _ = strconv.Atoi(at[2])
	return m
}

// looks is what a person sees of m, with the cursor's place: a cursor behind the last column is in it.
func looks(m *Model) string {
	var b strings.Builder
	for i := range m.styles { // SGR 53 and 58 are shown by tmux, but capture-pane does not tell of them
		m.styles[i].Attr &^= Overline | protected
		m.styles[i].Under, m.styles[i].Link = 0, ""
	}
	for y := range m.rows { // nor does tmux have the background in all that is erased
		for x, c := range m.shown.row(y) {
			if c.char == 0 || c.char == ' ' {
				m.shown.row(y)[x].style = 0
			}
		}
	}
	gridState(&b, m, "screen", m.shown)
	_, text, _ := strings.Cut(b.String(), "\n")
	return fmt.Sprintf("cursor %d,%d\n%s", m.cur.y, min(m.cur.x, m.cols-1), strings.ReplaceAll(text, "\\\n", "\n"))
}

func compareWithTmux(t *testing.T, x *tmux, name string, out []byte) {
	t.Helper()
	m := New(24, 80)
	m.Write(out)
	got, want := strings.Split(looks(m), "\n"), strings.Split(looks(x.show(out)), "\n")
	for i := range got {
		if got[i] != at(want, i) {
			t.Errorf("%s: line %d:\n got %s\ntmux %s", name, i-1, got[i], at(want, i))
			return
		}
	}
}

// tmuxDiffers are pieces of output with which tmux is another terminal than xterm, of which this model is one:
var tmuxDiffers = []string{
	"\x1b[?7l",        // it prints nothing beyond the last column, and xterm over it
	"\x1b[?6h",        // it does not keep DECOM with DECSC as it was set
	"\x1b[?6l",        //
	"\x1b[u",          // where nothing was saved it stays
	"\x1b8",           //
	"\x1b[?1049l",     // it goes to where the cursor was at its own switch, whatever DECSC saved since
	"\b",              // it goes back into a line that was wrapped
	"\x1b7", "\x1b[s", //
	"\u200d", "\u0301", // it has tables of widths of its own
	"👩\u200d🚀", //
	"\x1b[?7h", //
	"53",       // capture-pane writes overlining as 5:3, which is blinking
}

// Random output looks as in tmux. Behind the last column, where tmux has its cursor one place further right than xterm has,
// only what moves the cursor anywhere is compared.
func TestAgainstTmux(t *testing.T) {
	x := newTmux(t)
	for seed := range uint64(60) {
		g := newGenerator(seed)
		m := New(24, 80)
		var out []byte
		for range 60 {
			piece := g.some(false)
			if differs(piece) {
				continue
			}
			out = append(out, piece...)
			if m.Write([]byte(piece)); m.cur.pending {
				out = append(out, "\x1b[7;7H"...)
				m.Write([]byte("\x1b[7;7H"))
			}
		}
		if compareWithTmux(t, x, fmt.Sprint("seed ", seed), out); t.Failed() {
			t.Fatalf("%q", out)
		}
	}
}

// tmuxLacks are the sequences that it does not know, HPR, VPR and CHT, and IL and DL, with which its cursor keeps its column.
var tmuxLacks = regexp.MustCompile(`^\x1b\[\d*[aeILM]$`)

func differs(piece string) bool {
	if tmuxLacks.MatchString(piece) {
		return true
	}
	for _, d := range tmuxDiffers {
		if strings.Contains(piece, d) {
			return true
		}
	}
	return false
}

// Recorded output of programs looks as in tmux.
func TestRecordedAgainstTmux(t *testing.T) {
	x := newTmux(t)
	files, err := filepath.Glob("testdata/*.out")
	if err != nil || len(files) == 0 {
		t.Fatalf("no recordings: %v", err)
	}
	for _, name := range files {
		out, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		compareWithTmux(t, x, name, out)
	}
}

// vttestScreens are the prefixes of the recording of vttest at which it asks for the return key.
func vttestScreens(t *testing.T) (at [][]byte) {
	t.Helper()
	out, err := os.ReadFile("testdata/vttest.out")
	if err != nil {
		t.Fatal(err)
	}
	const asks = "Push <RETURN>"
	for n := 0; ; {
		i := bytes.Index(out[n:], []byte(asks))
		if i < 0 {
			return at
		}
		n += i + len(asks)
		at = append(at, out[:n])
	}
}

// vttestInTmux are the screens of vttest, by their number in the recording, that look differently in tmux, and why.
var vttestInTmux = map[int]string{
	2:  "behind the last column its cursor is one place further right than xterm's, and so a backspace goes one place less far",
	3:  "the same, which mixes up letters at the margins in this test of wrapping",
	4:  "the same, and it has no 132 columns",
	17: "DECSTBM goes to the screen's first line with DECOM too, in place of the region's",
	36: "it has no British characters",
}

// The screens of vttest look as in tmux, each as it is when it asks for the return key.
func TestVttestAgainstTmux(t *testing.T) {
	x := newTmux(t)
	for i, out := range vttestScreens(t) {
		if why := vttestInTmux[i+1]; why != "" {
			t.Logf("screen %d is another one in tmux: %s", i+1, why)
			continue
		}
		compareWithTmux(t, x, fmt.Sprint("screen ", i+1, " of vttest"), out)
	}
}

// Those that do not are what vttest says that they shall be.
func TestVttestByItsWord(t *testing.T) {
	screens := vttestScreens(t)
	lines := func(n int) []string {
		m := New(24, 80)
		m.Write(screens[n-1])
		var text []string
		for y := range m.rows {
			var b []byte
			for _, c := range m.shown.row(y) {
				b = m.appendText(b, c)
			}
			text = append(text, strings.TrimRight(string(b), " "))
		}
		return text
	}
	for y, l := range lines(2)[2:8] { // a frame of * and +
		if want := "*+" + strings.Repeat(" ", 76) + "+*"; l != want {
			t.Errorf("screen 2, line %d: %q, want %q", y+2, l, want)
		}
	}
	for _, n := range []int{3, 4} { // "The left/right margins should have letters in order:"
		for y, l := range lines(n)[2:20] {
			if want := string(rune('I'+y)) + strings.Repeat(" ", 78) + string(rune('i'+y)); l != want {
				t.Errorf("screen %d, line %d: %q, want %q", n, y+2, l, want)
			}
		}
	}
	last := lines(17)
	for y, want := range map[int]string{22: "This line should be the one above the bottom of the screen. Push <RETURN>", 23: "Origin mode test. This line should be at the bottom of the screen."} {
		if last[y] != want {
			t.Errorf("screen 17, line %d: %q, want %q", y, last[y], want)
		}
	}
	if l := lines(36)[7]; strings.Count(l, `!"£$%`) != 2 {
		t.Errorf("screen 36: the British characters are %q", l)
	}
}
