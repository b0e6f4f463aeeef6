package sinktest_test

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"
)

// A kit that is killed leaves nothing.
func TestKilledKit(t *testing.T) {
	t.Parallel()
	bin, tmp := build(t), t.TempDir()
	kit := exec.Command(bin+"/muxctl", "plugin", "check", bin+"/plain", "plain", "--spec", "plain:{out}", "--only", "streams,fds.leak", "--full")
	kit.Env = append(os.Environ(), "TMPDIR="+tmp)
	if err := kit.Start(); err != nil {
		t.Fatal(err)
	}
	within := func(what string, cond func() bool) {
		t.Helper()
		for end := time.Now().Add(30 * time.Second); !cond(); <-time.After(10 * time.Millisecond) {
			if time.Now().After(end) {
				kit.Process.Kill()
				t.Fatal(what)
			}
		}
	}
	within("no plugin was started", func() bool { return having(tmp) > 1 })
	kit.Process.Kill()
	kit.Wait()
	within("plugins go on", func() bool { return having(tmp) == 0 })
	within("its directory stays", func() bool {
		left, _ := filepath.Glob(tmp + "/*")
		return len(left) == 0
	})
}

// having is how many processes have dir in their environment.
func having(dir string) (n int) {
	all, _ := filepath.Glob("/proc/[0-9]*/environ")
	for _, file := range all {
		if b, _ := os.ReadFile(file); bytes.Contains(b, []byte("="+dir)) {
			n++
		}
	}
	return n
}
