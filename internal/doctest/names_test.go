package doctest

import (
	"encoding/hex"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// documents are those whose names are checked. CHANGELOG.md tells of what was, too.
var documents = []string{"README.md", "ARCHITECTURE.md", "PROTOCOL.md"}

// all returns what re's first group matches in text, each once.
func all(re, text string) (out []string) {
	for _, m := range regexp.MustCompile(re).FindAllStringSubmatch(text, -1) {
		out = append(out, m[1])
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// helpOf returns what a binary says of itself.
func helpOf(t *testing.T, name string, args ...string) string {
	t.Helper()
	bin, err := binaries()
	if err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command(filepath.Join(bin, name), append(args, "--help")...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s --help: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return string(out)
}

// commandsOf returns the sub-commands that a help text lists.
func commandsOf(help string) []string {
	_, list, _ := strings.Cut(help, "Available Commands:\n")
	list, _, _ = strings.Cut(list, "\n\n")
	return all(`(?m)^  ([a-z]+) `, list)
}

// TestMuxctl: the documents name no command and no flag that there is not, and README.md names every command.
func TestMuxctl(t *testing.T) {
	rootHelp := helpOf(t, "muxctl")
	help := helpOf(t, "muxd") + rootHelp
	var commands []string
	for _, c := range commandsOf(rootHelp) {
		h := helpOf(t, "muxctl", c)
		commands = append(commands, c)
		help += h
		if c == "completion" {
			continue // of the shells
		}
		for _, sub := range commandsOf(h) {
			commands = append(commands, c+" "+sub)
			help += helpOf(t, "muxctl", c, sub)
		}
	}
	flags := append(all(`(?m)^\s+(?:-\w, )?(--[a-z-]+)`, help), "--log-uri", "--console-socket", "--pid-file") // ctr's, and runc's
	for _, name := range documents {
		text := document(t, name)
		for _, flag := range all("(?:^|[\\s`\"(])(--[a-z][a-z-]+)", text) {
			if !slices.Contains(flags, flag) {
				t.Errorf("%s: there is no flag %s", name, flag)
			}
		}
		for _, c := range all("(?:^|[\\s`(])muxctl ((?:agent |plugin )?[a-z]+)[` ]", strings.Join(code(text), "\n")) {
			if !slices.Contains(commands, c) {
				t.Errorf("%s: there is no muxctl %s", name, c)
			}
		}
	}
	text := document(t, "README.md")
	for _, c := range commands {
		if c == "help" || c == "agent" || c == "plugin" {
			continue
		}
		if !strings.Contains(text, "`muxctl "+c) {
			t.Errorf("README.md does not name muxctl %s", c)
		}
	}
}

// code returns the inline code of a document and the commands of its console blocks.
func code(text string) (out []string) {
	out = all("(`[^`\n]+`)", text)
	for _, s := range all(`(?m)^\$ (.*)$`, text) {
		out = append(out, s+" ")
	}
	return out
}

// TestMake: the documents name no target that the Makefile has not.
func TestMake(t *testing.T) {
	targets := all(`(?m)^([a-z]+):`, document(t, "Makefile"))
	for _, name := range documents {
		for _, target := range all("(?:^|[\n`])make ([a-z]+)", document(t, name)) {
			if !slices.Contains(targets, target) {
				t.Errorf("%s: there is no make %s", name, target)
			}
		}
	}
	for _, target := range []string{"run", "test"} {
		if !strings.Contains(document(t, "README.md"), "\nmake "+target) {
			t.Errorf("README.md does not name make %s", target)
		}
	}
	c := exec.Command("make", "-n", "run")
	c.Dir = root
	if out, err := c.CombinedOutput(); err != nil || !strings.Contains(string(out), "bin/muxd --config config.toml") {
		t.Errorf("make run does not run bin/muxd --config config.toml: %v\n%s", err, out)
	}
}

// TestLinks: what the documents point to exists.
func TestLinks(t *testing.T) {
	for _, name := range append([]string{"CHANGELOG.md"}, documents...) {
		text := document(t, name)
		for _, to := range append(all(`\]\(([^)#:]+)\)`, text), all("`((?:cmd|control|core|sink|plugins|internal|tools)/[a-z./_-]*)`", text)...) {
			if _, err := os.Stat(filepath.Join(root, to)); err != nil {
				t.Errorf("%s: it names %s: %v", name, to, err)
			}
		}
	}
}

// TestProtocol: PROTOCOL.md names every call of both services, shows every golden byte sequence, and gives the handshake's
// words as both sides have them.
func TestProtocol(t *testing.T) {
	text := document(t, "PROTOCOL.md")
	for _, proto := range []string{"sink/sinkpb/sink.proto", "control/controlpb/control.proto"} {
		for _, call := range all(`(?m)^  rpc (\w+)`, document(t, proto)) {
			if !strings.Contains(text, "`"+call+"`") {
				t.Errorf("PROTOCOL.md does not name %s of %s", call, proto)
			}
		}
	}
	for _, dir := range []string{"internal/fdchan/testdata", "internal/viewer/testdata", "internal/gaps/testdata", "sink/sinktest/testdata"} {
		files, _ := filepath.Glob(filepath.Join(root, dir, "*.hex"))
		if len(files) == 0 {
			t.Errorf("there are no golden bytes in %s", dir)
		}
		for _, f := range files {
			name := strings.TrimSuffix(filepath.Base(f), ".hex")
			if strings.HasPrefix(name, "malformed-") {
				continue
			}
			b, err := os.ReadFile(f)
			if err != nil {
				t.Fatal(err)
			}
			line := goldenLine(text, filepath.Base(filepath.Dir(dir))+"/"+name)
			want := digits(regexp.MustCompile(`(?m)^#.*$`).ReplaceAllString(string(b), ""))
			if want != digits(line) {
				t.Errorf("PROTOCOL.md does not show %s/%s.hex as it is: %q, want %s", dir, name, line, want)
			}
		}
	}
	for _, source := range []string{"sink/serve.go", "core/host/goplugin.go"} {
		for _, word := range all(`cookie\w+\s+= "([^"]+)"`, document(t, source)) {
			if !strings.Contains(text, word) {
				t.Errorf("PROTOCOL.md does not have %s of %s", word, source)
			}
		}
	}
}

// goldenLine is what PROTOCOL.md shows as the bytes of NAME.hex.
func goldenLine(text, name string) string {
	m := regexp.MustCompile(`(?m)^`+regexp.QuoteMeta(name)+`\.hex\s+([0-9a-f ]+)$`).FindAllStringSubmatch(text, -1)
	var lines []string
	for _, l := range m {
		lines = append(lines, l[1])
	}
	return strings.Join(lines, "|")
}

func digits(s string) string {
	s = strings.Join(strings.Fields(s), "")
	if _, err := hex.DecodeString(s); err != nil {
		return "no hexadecimal digits: " + s
	}
	return s
}
