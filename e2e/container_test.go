package e2e

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/muxd/muxd/internal/need"
)

// makeBundle makes an OCI bundle in dir for that runtime, whose root file system has a static busybox and nothing else, and whose process
// is argv.
func makeBundle(runtime, dir, busybox string, terminal bool, argv []string) error {
	for _, d := range []string{"bin", "proc", "dev"} {
		if err := os.MkdirAll(filepath.Join(dir, "rootfs", d), 0o755); err != nil {
			return err
		}
	}
	b, err := os.ReadFile(busybox)
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(dir, "rootfs/bin/busybox"), b, 0o755); err != nil {
		return err
	}
	for _, name := range []string{"sh", "seq", "sleep", "stty", "tty", "cat"} {
		if err := os.Symlink("busybox", filepath.Join(dir, "rootfs/bin", name)); err != nil && !os.IsExist(err) {
			return err
		}
	}
	type object = map[string]any
	var namespaces []object
	for _, n := range []string{"pid", "mount", "ipc", "uts"} {
		namespaces = append(namespaces, object{"type": n})
	}
	spec := object{
		"ociVersion": "1.0.2",
		"process": object{
			"terminal": terminal, "user": object{"uid": 0, "gid": 0}, "args": argv, "cwd": "/",
			"env": []string{"PATH=/bin", "TERM=xterm"},
		},
		"root": object{"path": "rootfs"},
		"mounts": []object{
			{"destination": "/proc", "type": "proc", "source": "proc"},
			{"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": []string{"nosuid", "mode=755"}},
			{"destination": "/dev/pts", "type": "devpts", "source": "devpts", "options": []string{"newinstance", "ptmxmode=0666", "mode=0620"}},
		},
		"linux": object{"namespaces": namespaces},
	}
	if uid, gid := os.Geteuid(), os.Getegid(); uid != 0 { // rootless: root of a user namespace
		if filepath.Base(runtime) == "crun" { // which is in one already: see unified
			uid, gid = 0, 0
		}
		spec["linux"] = object{
			"namespaces":  append(namespaces, object{"type": "user"}),
			"uidMappings": []object{{"containerID": 0, "hostID": uid, "size": 1}},
			"gidMappings": []object{{"containerID": 0, "hostID": gid, "size": 1}},
		}
	}
	if b, err = json.Marshal(spec); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, "config.json"), b, 0o644)
}

// needContainers says that the test needs an OCI runtime, a path, that can run a container here, which not every machine lets it.
func needContainers(t *testing.T, runtime string) {
	t.Helper()
	busybox := need.Program(t, "busybox")
	dir := t.TempDir()
	if err := makeBundle(runtime, dir, busybox, false, []string{"sh", "-c", "exit 7"}); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(runtime, "--root", filepath.Join(dir, "state"), "run", "--bundle", dir, "muxd-"+filepath.Base(filepath.Dir(dir)))
	out, err := cmd.CombinedOutput()
	if cmd.ProcessState == nil || cmd.ProcessState.ExitCode() != 7 {
		t.Skipf("%s cannot run a container on this machine: %v: %s", runtime, err, strings.TrimSpace(string(out)))
	}
}

func bundle(ts *testscript.TestScript, neg bool, args []string) {
	terminal := len(args) > 0 && args[0] == "-terminal"
	if terminal {
		args = args[1:]
	}
	if neg || len(args) < 2 {
		ts.Fatalf("usage: bundle [-terminal] DIR COMMAND...")
	}
	ts.Check(makeBundle(ts.Getenv("RUNTIME"), ts.MkAbs(args[0]), need.Program(of(ts).t, "busybox"), terminal, args[1:]))
}
