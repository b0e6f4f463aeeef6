package e2e

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"

	"github.com/rogpeppe/go-internal/testscript"
)

// module builds or tests a module that is not this one, as a plugin of somebody else's is. The tree is not touched: what its go.mod
// does not say of the modules that muxd has by now is added to a copy.
func module(ts *testscript.TestScript, neg bool, args []string) {
	verb, flags := "build", []string(nil)
	if len(args) > 0 && args[0] == "-test" {
		verb, args = "test", append(args[1:], "plugin.test")
	}
	if len(args) > 1 && args[0] == "-X" {
		flags, args = []string{"-ldflags", "-X " + args[1]}, args[2:]
	}
	if neg || len(args) != 2 {
		ts.Fatalf("usage: module [-X NAME=VALUE] DIR EXECUTABLE, or module -test DIR")
	}
	dir, out := ts.MkAbs(args[0]), ts.MkAbs(args[1])
	scratch, err := os.MkdirTemp("", "module")
	ts.Check(err)
	defer os.RemoveAll(scratch)
	env := "GOFLAGS="
	if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
		env += "-mod=mod -modfile=" + filepath.Join(scratch, "go.mod")
	}
	for _, name := range []string{"go.mod", "go.sum"} {
		b, err := os.ReadFile(filepath.Join(dir, name))
		if os.IsNotExist(err) {
			continue
		}
		ts.Check(err)
		ts.Check(os.WriteFile(filepath.Join(scratch, name), b, 0o600))
	}
	c := exec.Command("go", slices.Concat([]string{verb, "-o", out}, flags, []string{"."})...)
	c.Dir = dir
	c.Env = append(os.Environ(), "CGO_ENABLED=0", "GOWORK=off", env)
	if text, err := c.CombinedOutput(); err != nil {
		ts.Fatalf("%s %s: %v\n%s", verb, dir, err, text)
	}
}
