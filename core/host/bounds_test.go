package host

import (
	"os"
	"path/filepath"
	"testing"
)

func TestReach(t *testing.T) {
	dir, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range []string{"logs", "logs-of-others", "conf"} {
		if err := os.Mkdir(filepath.Join(dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for link, to := range map[string]string{"alias": "logs", "logs/out": "../logs-of-others", "root": "logs"} {
		if err := os.Symlink(to, filepath.Join(dir, link)); err != nil {
			t.Fatal(err)
		}
	}
	b := &Bounds{Read: []string{filepath.Join(dir, "conf")}, Write: []string{filepath.Join(dir, "root")}}
	for path, want := range map[string]bool{
		"logs":                true,
		"logs/a/b":            true, // to be made
		"logs/../logs/a":      true,
		"alias/a":             true,
		"logs/{name}/{x}.log": true,
		"logs/{name}":         true,
		"conf/ca.pem":         true,
		"logs-of-others/a":    false,
		"logs/out/a":          false, // the link leads out
		"logs/../conf/../a":   false,
		"{name}/logs":         false,
		"":                    false,
	} {
		if got := b.Reach(dir + "/" + path); got != want {
			t.Errorf("%s: %v", path, got)
		}
	}
	if !b.Reach("/dev/null") || b.Reach("/dev/tty") || b.Reach("/") {
		t.Error("devices, or the root")
	}
	if !(*Bounds)(nil).Reach("/anywhere") {
		t.Error("who has no bounds is bounded")
	}
	if !(&Bounds{Write: []string{"/"}}).Reach("/anywhere") {
		t.Error("the root is not all")
	}
}
