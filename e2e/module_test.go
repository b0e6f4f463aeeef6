package e2e

import (
	"os"
	"os/exec"
	"path/filepath"

	"github.com/rogpeppe/go-internal/testscript"
)

// module builds a module that is not this one, as a plugin of somebody else's is. The tree is not touched: what its go.mod
// does not say of the modules that muxd has by now is added to a copy.
func module(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: module DIR EXECUTABLE")
	}
	dir, out := ts.MkAbs(args[0]), ts.MkAbs(args[1])
	scratch, err := os.MkdirTemp("", "module")
	ts.Check(err)
	defer os.RemoveAll(scratch)
	for _, name := range []string{"go.mod", "go.sum"} {
		b, err := os.ReadFile(filepath.Join(dir, name))
		if name == "go.sum" && os.IsNotExist(err) {
			continue
		}
		ts.Check(err)
		ts.Check(os.WriteFile(filepath.Join(scratch, name), b, 0o600))
	}
	c := exec.Command("go", "build", "-mod=mod", "-modfile="+filepath.Join(scratch, "go.mod"), "-o", out, ".")
	c.Dir = dir
	c.Env = append(os.Environ(), "CGO_ENABLED=0", "GOWORK=off", "GOFLAGS=")
	if text, err := c.CombinedOutput(); err != nil {
		ts.Fatalf("build %s: %v\n%s", dir, err, text)
	}
}
