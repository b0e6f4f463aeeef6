// Package need lets a test say what it needs of the machine. Where that is missing the test is skipped, by name; with
// CI=true it fails, since a machine that checks for others has everything.
package need

import (
	"os"
	"os/exec"
	"testing"
)

// debian names the Debian packages of programs that have another name than their package.
var debian = map[string]string{
	"protoc":  "protobuf-compiler",
	"busybox": "busybox-static",
	"ctr":     "containerd",
	"gcc":     "gcc libc6-dev",
}

// Program returns the path of an executable that the test needs.
func Program(t testing.TB, name string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		for _, dir := range []string{"/usr/sbin/", "/sbin/"} { // not in the PATH of Debian's ordinary users
			if path, err := exec.LookPath(dir + name); err == nil {
				return path
			}
		}
		missing(t, "%s is missing (Debian package %s)", name, packageOf(name))
	}
	return path
}

// Python says that the test needs modules of Debian's own Python, from the packages of that name.
func Python(t testing.TB, modules, packages string) {
	t.Helper()
	if out, err := exec.Command("/usr/bin/python3", "-c", "import "+modules).CombinedOutput(); err != nil {
		missing(t, "Python's %s is missing (Debian packages %s): %v %s", modules, packages, err, out)
	}
}

func packageOf(program string) string {
	if p, ok := debian[program]; ok {
		return p
	}
	return program
}

// Root says that the test needs to be run by root.
func Root(t testing.TB) {
	t.Helper()
	if os.Geteuid() != 0 {
		missing(t, "it needs root")
	}
}

// missing ends the test.
func missing(t testing.TB, format string, args ...any) {
	t.Helper()
	if os.Getenv("CI") == "true" {
		t.Fatalf("with CI=true nothing may be missing: "+format, args...)
	}
	t.Skipf(format, args...)
}
