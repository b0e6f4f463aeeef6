package doctest

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// root is the top of the module.
const root = "../.."

// document reads a document of the module's top directory.
func document(t testing.TB, name string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(root, name))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// block is a fenced block of a document.
type block struct {
	line int // of the document, of its first line
	info string
	text string
}

// blocks returns the fenced blocks of a document, in their order.
func blocks(t testing.TB, text string) (out []block) {
	t.Helper()
	open := false
	for i, line := range strings.Split(text, "\n") {
		info, fence := strings.CutPrefix(line, "```")
		switch {
		case fence && !open:
			out = append(out, block{line: i + 2, info: info})
			open = true
		case fence:
			if info != "" {
				t.Fatalf("line %d: a block begins inside of another", i+1)
			}
			open = false
		case open:
			out[len(out)-1].text += line + "\n"
		}
	}
	if open {
		t.Fatal("the last block does not end")
	}
	return out
}

// step is a command and what it shall print.
type step struct {
	line    int
	command string
	want    []string
}

// steps takes a console block apart.
func steps(b block) (out []step, err error) {
	lines := strings.Split(strings.TrimSuffix(b.text, "\n"), "\n")
	for i, line := range lines {
		if command, ok := strings.CutPrefix(line, "$ "); ok {
			out = append(out, step{line: b.line + i, command: command})
			continue
		}
		if len(out) == 0 {
			return nil, fmt.Errorf("line %d: it stands before the first command", b.line+i)
		}
		s := &out[len(out)-1]
		if more, ok := strings.CutPrefix(line, "> "); ok && len(s.want) == 0 {
			s.command += "\n" + more
		} else {
			s.want = append(s.want, line)
		}
	}
	return out, nil
}

var blanks = regexp.MustCompile(`[ \t]+`)

// plain is a line in the form in which lines are compared.
func plain(line string) string { return strings.TrimRight(blanks.ReplaceAllString(line, " "), " ") }

// matches says whether a command printed what it should.
func matches(want []string, got string) bool {
	var pattern strings.Builder
	pattern.WriteString(`\A`)
	for _, line := range want {
		if line = plain(line); line == "..." {
			pattern.WriteString(`(?:[^\n]*\n)*?`)
			continue
		}
		parts := strings.Split(line, "...")
		for i := range parts {
			parts[i] = regexp.QuoteMeta(parts[i])
		}
		pattern.WriteString(strings.Join(parts, `[^\n]*`) + `\n`)
	}
	pattern.WriteString(`\z`)
	return regexp.MustCompile(pattern.String()).MatchString(got)
}

// titles are what pushes and pops the titles of the terminal's window, and shows nothing (XTWINOPS).
var titles = strings.NewReplacer("\x1b[22;0t", "", "\x1b[23;0t", "")

// printed is a terminal's output as text: without carriage returns, each line as plain makes it, and ended.
func printed(output string) string {
	output = titles.Replace(strings.ReplaceAll(output, "\r", ""))
	if output == "" {
		return ""
	}
	lines := strings.Split(strings.TrimSuffix(output, "\n"), "\n")
	for i := range lines {
		lines[i] = plain(lines[i])
	}
	return strings.Join(lines, "\n") + "\n"
}

func TestMatches(t *testing.T) {
	for _, c := range []struct {
		want string
		got  string
		ok   bool
	}{
		{"", "", true},
		{"", "x\n", false},
		{"x", "", false},
		{"a\nb", "a\r\nb\r\n", true},
		{"a\nb", "a\nc\n", false},
		{"a", "a\nb\n", false},
		{"a b", "a    b  \n", true},
		{"a b", "ab\n", false},
		{"...", "", true},
		{"...", "any\nthing\n", true},
		{"a\n...\nd", "a\nb\nc\nd\n", true},
		{"a\n...\nd", "a\nd\n", true},
		{"a\n...\nd", "a\nb\n", false},
		{"pid ... (sleep)", "pid 17 (sleep)\n", true},
		{"pid ... (sleep)", "pid 17\n(sleep)\n", false},
		{"a.c", "abc\n", false},
	} {
		var want []string
		if c.want != "" {
			want = strings.Split(c.want, "\n")
		}
		if got := matches(want, printed(c.got)); got != c.ok {
			t.Errorf("%q against %q: %v, want %v", c.want, c.got, got, c.ok)
		}
	}
}
