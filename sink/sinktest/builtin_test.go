package sinktest_test

import (
	"flag"
	"fmt"
	"os"
	"os/exec"
	"sync"
	"testing"

	"github.com/muxd/muxd/sink/sinktest"
)

// builtIn is where; empty: nothing was built.
var builtIn string

// built is a directory with muxd, muxctl and plain, as users have them: without the race detector, which is for the kit.
var built = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "sinktest-")
	if err != nil {
		return "", err
	}
	builtIn = dir
	c := exec.Command("go", "build", "-o", dir, "../../cmd/muxd", "../../cmd/muxctl", "./plain")
	c.Env = append(os.Environ(), "CGO_ENABLED=0")
	out, err := c.CombinedOutput()
	if err != nil {
		return dir, fmt.Errorf("%v: %w\n%s", c, err, out)
	}
	return dir, nil
})

func build(t *testing.T) string {
	t.Helper()
	dir, err := built()
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

// Checks wait more than they compute.
func TestMain(m *testing.M) {
	flag.Parse()
	given := false
	flag.Visit(func(f *flag.Flag) { given = given || f.Name == "test.parallel" })
	if !given {
		flag.Set("test.parallel", "12")
	}
	code := m.Run()
	if builtIn != "" {
		os.RemoveAll(builtIn)
	}
	os.Exit(code)
}

// The built-in sinks pass. Specs that differ in little are only held to where they differ.
func TestBuiltinSinks(t *testing.T) {
	t.Parallel()
	muxd := build(t) + "/muxd"
	for _, b := range []struct {
		name, plugin string
		specs        []string
		only         []string
	}{
		{"file", "file", []string{"file:{out}"}, nil},
		{"raw", "file", []string{"file:{out},format=raw"}, []string{"wiring", "bytes", "kill.random", "kill.told", "move.leave"}},
		{"fifo", "file", []string{"file:{fifo},format=raw"}, []string{"wiring", "end", "pressure", "hang", "kill.told"}},
		{"direct", "file", []string{"file:{out},mode=direct"}, []string{"wiring", "bytes", "fds"}},
		{"socket", "socket", []string{"socket:unix:{listen}"}, nil},
		{"listen", "socket", []string{"socket:listen=unix:{connect}"}, []string{"bytes.small", "end", "pressure", "kill.random", "kill.told", "move.alone", "stdin"}},
		{"policy", "socket", []string{"socket:unix:{listen},policy=drop-oldest"}, []string{"wiring", "end", "pressure", "hang"}},
		{"socket-direct", "socket", []string{"socket:unix:{listen},mode=direct"}, []string{"wiring", "bytes", "fds"}},
		{"pty", "pty", nil, nil},
		{"fanout", "fanout", nil, nil},
	} {
		t.Run(b.name, func(t *testing.T) {
			t.Parallel()
			sinktest.Run(t, sinktest.Options{Command: []string{muxd, "plugin", b.plugin}, Specs: b.specs, Only: b.only, Size: 4 << 20})
		})
	}
}
