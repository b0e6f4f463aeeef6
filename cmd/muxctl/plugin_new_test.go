package main

import (
	"flag"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write examples/minimal anew")

// The template is the tutorial: examples/minimal is what muxctl plugin new writes, but for what go mod tidy adds to it.
func TestMinimal(t *testing.T) {
	dir := filepath.Join("..", "..", "examples", "minimal")
	files, err := newPlugin{name: "minimal", replace: "../.."}.files()
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range files {
		path := filepath.Join(dir, name)
		if *update {
			if err := os.WriteFile(path, []byte(want), 0o666); err != nil {
				t.Fatal(err)
			}
			continue
		}
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		got := string(b)
		if name == "go.mod" {
			got = regexp.MustCompile(`(?s)\nrequire \([^)]*// indirect\n\)\n`).ReplaceAllString(got, "")
		}
		if got != want {
			t.Errorf("%s is not what the template says; go test ./cmd/muxctl -run TestMinimal -args -update, and go mod tidy there:\n%s", path, got)
		}
	}
	lines := 0
	for line := range strings.Lines(files["main.go"]) {
		if strings.TrimSpace(line) != "" {
			lines++
		}
	}
	if lines >= 60 {
		t.Errorf("main.go has %d lines; a tutorial has less than 60", lines)
	}
}

// The README of a new plugin shows main.go, line by line, and all of it but the imports.
func TestTutorial(t *testing.T) {
	files, err := newPlugin{name: "web"}.files()
	if err != nil {
		t.Fatal(err)
	}
	var shown strings.Builder
	for _, m := range regexp.MustCompile("(?s)```go\n(.*?)```").FindAllStringSubmatch(files["README.md"], -1) {
		shown.WriteString(m[1])
	}
	_, code, _ := strings.Cut(files["main.go"], ")\n")
	squeeze := func(s string) string { return regexp.MustCompile(`\s+`).ReplaceAllString(s, " ") }
	// The two braces that end the literal and main are shown with nothing.
	want := strings.Replace(squeeze(code), "Open: open, }) } ", "Open: open, ", 1)
	if got := " " + squeeze(shown.String()); got != want {
		t.Errorf("README.md shows\n%s\nand main.go has\n%s", got, want)
	}
}

// A new module asks for the Go that muxd itself asks for.
func TestGoVersion(t *testing.T) {
	b, err := os.ReadFile(filepath.Join("..", "..", "go.mod"))
	if err != nil {
		t.Fatal(err)
	}
	files, err := newPlugin{name: "web", version: "v1.2.3"}.files()
	if err != nil {
		t.Fatal(err)
	}
	line := regexp.MustCompile(`(?m)^go .*$`)
	if got, want := line.FindString(files["go.mod"]), line.FindString(string(b)); got != want {
		t.Errorf("%s, and muxd has %s", got, want)
	}
	if !strings.Contains(files["go.mod"], "require github.com/muxd/muxd v1.2.3\n") {
		t.Errorf("go.mod:\n%s", files["go.mod"])
	}
}
