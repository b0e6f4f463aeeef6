package main

import (
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/muxd/muxd/sink/sinktest"
)

func TestPlugin(t *testing.T) {
	plugin := filepath.Join(t.TempDir(), "muxd-sink-minimal")
	if out, err := exec.Command("go", "build", "-o", plugin, ".").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	sinktest.Run(t, sinktest.Options{
		Command: []string{plugin},
		Specs:   []string{"minimal:{out}"},
		Read:    "cat {out}.stdout",
	})
}
