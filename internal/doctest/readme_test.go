package doctest

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/muxd/muxd/internal/need"
)

// absolute is the module's top directory.
func absolute(t testing.TB) string {
	t.Helper()
	dir, err := filepath.Abs(root)
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

func TestCommands(t *testing.T) {
	need.Program(t, "bash")
	need.Program(t, "socat")
	s := newSession(t, filepath.Join(absolute(t), "config.toml"))
	n := 0
	for _, b := range blocks(t, document(t, "README.md")) {
		if b.info == "console" {
			s.run(b)
			n++
		}
	}
	if n == 0 {
		t.Error("README.md has no commands")
	}
}

// TestPlugin builds the plugin that README.md shows, by the commands that it shows, and runs what it shows of it.
func TestPlugin(t *testing.T) {
	need.Program(t, "bash")
	var source, build, settings string
	var shown []block
	for _, b := range blocks(t, document(t, "README.md")) {
		switch {
		case b.info == "go" && source != "":
			t.Fatalf("README.md:%d: a second Go program", b.line)
		case b.info == "go":
			source = b.text
		case b.info == "sh" && strings.Contains(b.text, "go mod init"):
			build = b.text
		case b.info == "toml plugin":
			settings = b.text
		case b.info == "console plugin":
			shown = append(shown, b)
		}
	}
	if source == "" || build == "" || settings == "" || len(shown) == 0 {
		t.Fatal("README.md shows no plugin, or not how it is built, configured or used")
	}
	module, plugins := t.TempDir(), t.TempDir()
	if err := os.WriteFile(filepath.Join(module, "main.go"), []byte(source), 0o600); err != nil {
		t.Fatal(err)
	}
	words := strings.NewReplacer("MUXD", absolute(t), "DIR", plugins, "DATA", os.TempDir())
	c := exec.Command("bash", "-euc", words.Replace(build))
	c.Dir = module
	c.Env = append(os.Environ(), "CGO_ENABLED=0", "GOWORK=off", "GOFLAGS=")
	if out, err := c.CombinedOutput(); err != nil {
		t.Fatalf("build the plugin: %v\n%s", err, out)
	}
	if out, err := exec.Command("gofmt", "-l", module).CombinedOutput(); err != nil || len(out) > 0 {
		t.Errorf("README.md's plugin is not formatted with gofmt: %v %s", err, out)
	}
	config := filepath.Join(t.TempDir(), "config.toml")
	if err := os.WriteFile(config, []byte(words.Replace(settings)), 0o600); err != nil {
		t.Fatal(err)
	}
	s := newSession(t, config)
	for _, b := range shown {
		s.run(b)
	}
}

// TestConfigurations: muxd takes every configuration that README.md shows.
func TestConfigurations(t *testing.T) {
	bin, err := binaries()
	if err != nil {
		t.Fatal(err)
	}
	for _, b := range blocks(t, document(t, "README.md")) {
		if b.info != "toml" {
			continue
		}
		path := filepath.Join(t.TempDir(), "config.toml")
		if err := os.WriteFile(path, []byte(b.text), 0o600); err != nil {
			t.Fatal(err)
		}
		c := exec.Command(filepath.Join(bin, "muxd"), "--config", path, "--check-config", "--runtime-dir", "/tmp/muxd")
		if out, err := c.CombinedOutput(); err != nil {
			t.Errorf("README.md:%d: %v\n%s", b.line, err, out)
		}
	}
}
