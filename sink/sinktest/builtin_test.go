package sinktest_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"

	"github.com/muxd/muxd/sink/sinktest"
)

var buildMuxd = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "sinktest-")
	if err != nil {
		return "", err
	}
	out, err := exec.Command("go", "build", "-o", dir, "../../cmd/muxd").CombinedOutput()
	if err != nil {
		os.Stderr.Write(out)
	}
	return filepath.Join(dir, "muxd"), err
})

func TestMain(m *testing.M) {
	if os.Getenv(plainEnv) != "" { // it was started as a plugin by one of these tests
		plainMain()
		os.Exit(0)
	}
	code := m.Run()
	if path, err := buildMuxd(); err == nil {
		os.RemoveAll(filepath.Dir(path))
	}
	os.Exit(code)
}

func TestBuiltinSinks(t *testing.T) {
	muxd, err := buildMuxd()
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"file", "socket", "pty", "fanout"} {
		t.Run(name, func(t *testing.T) {
			sinktest.Run(t, sinktest.Options{Command: []string{muxd, "plugin", name}, Size: 4 << 20})
		})
	}
}
