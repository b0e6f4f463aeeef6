package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/muxd/muxd/internal/need"
)

// unified runs crun with nothing but version 2 of cgroups in its sight: it refuses a machine that has both.
const unified = `#!/bin/sh
exec unshare --mount sh -c 'mount -t cgroup2 cgroup2 /sys/fs/cgroup && exec crun "$@"' sh "$@"
`

// TestRuntimes runs containers of each OCI runtime on what muxd makes for them.
func TestRuntimes(t *testing.T) {
	for _, runtime := range []string{"runc", "crun"} {
		t.Run(runtime, func(t *testing.T) {
			t.Parallel()
			need.Root(t)
			path := need.Program(t, runtime)
			if runtime == "crun" {
				need.Program(t, "unshare")
				path = filepath.Join(t.TempDir(), "crun")
				if err := os.WriteFile(path, []byte(unified), 0o700); err != nil {
					t.Fatal(err)
				}
			}
			needContainers(t, path)
			scripts, err := filepath.Glob("testdata/oci/*.txtar")
			if err != nil || len(scripts) == 0 {
				t.Fatal("no scripts", err)
			}
			for _, script := range scripts {
				t.Run(strings.TrimSuffix(filepath.Base(script), ".txtar"), func(t *testing.T) {
					t.Parallel()
					run(t, script, "RUNTIME="+path)
				})
			}
		})
	}
}
