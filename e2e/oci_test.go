package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/muxd/muxd/internal/need"
)

// unified runs crun with nothing but version 2 of cgroups in its sight: it refuses a machine that has both. Whoever is not root may do so in
// a user namespace only, and then crun cannot change cgroups.
const unified = `#!/bin/sh
if [ $(id -u) = 0 ]; then
	exec unshare --mount sh -c 'mount -t cgroup2 cgroup2 /sys/fs/cgroup && exec crun "$@"' sh "$@"
fi
exec unshare --user --map-root-user --mount --cgroup sh -c 'mount -t cgroup2 cgroup2 /sys/fs/cgroup && exec crun --cgroup-manager=disabled "$@"' sh "$@"
`

// runtimePath is the path of an OCI runtime that can run a container here; otherwise the test is skipped.
func runtimePath(t *testing.T, name string) string {
	t.Helper()
	path := need.Program(t, name)
	if name == "crun" {
		need.Program(t, "unshare")
		dir, err := os.MkdirTemp("", "crun")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { os.RemoveAll(dir) })
		path = filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(unified), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	needContainers(t, path)
	return path
}

// TestRootless runs containers of an ordinary user.
func TestRootless(t *testing.T) {
	if os.Geteuid() == 0 {
		t.Skip("for an ordinary user, as whom TestOrdinaryUser runs it")
	}
	for _, runtime := range []string{"runc", "crun"} {
		t.Run(runtime, func(t *testing.T) {
			t.Parallel()
			run(t, "testdata/rootless/rootless.txtar", "RUNTIME="+runtimePath(t, runtime))
		})
	}
}

// TestRuntimes runs containers of each OCI runtime on what muxd makes for them.
func TestRuntimes(t *testing.T) {
	for _, runtime := range []string{"runc", "crun"} {
		t.Run(runtime, func(t *testing.T) {
			t.Parallel()
			need.Root(t)
			path := runtimePath(t, runtime)
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
