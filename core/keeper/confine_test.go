package keeper

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/muxd/muxd/core/keeper/keeperpb"
)

// systemPaths are what /bin/sh and its programs need.
var systemPaths = []string{"/usr", "/bin", "/lib", "/lib64", "/etc/ld.so.cache", "/no/such/path"}

func TestConfine(t *testing.T) {
	if LandlockABI() == 0 {
		t.Skip("this kernel has no Landlock")
	}
	k, a := ready(t, setup{})
	dir := t.TempDir()
	for _, name := range []string{"read", "write", "other"} {
		if err := os.Mkdir(filepath.Join(dir, name), 0o777); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name, "file"), []byte("text\n"), 0o666); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct {
		do      string
		allowed bool
	}{
		{"cat read/file", true},
		{"cat write/file", true},
		{"cat other/file", false},
		{"ls other", false},
		{"echo >>read/file", false},
		{"echo >>other/new", false},
		{"echo >>write/file", true},
		{"mkdir write/dir && mv write/file write/dir/file && rm -r write/dir", true},
		{fmt.Sprintf("cat /proc/%d/environ", k.pid()), false},
		{fmt.Sprintf("ls -l /proc/%d/fd", k.pid()), false},
		{fmt.Sprintf("kill -0 %d", k.pid()), LandlockABI() < 6},
	} {
		s := sh(c.do, fmt.Sprintf("cd %s; if %s; then echo allowed; else echo denied; fi", dir, c.do))
		s.Confine = &keeperpb.Confine{
			Read:  append([]string{filepath.Join(dir, "read")}, systemPaths...),
			Write: []string{filepath.Join(dir, "write"), "/dev/null"},
		}
		out, _ := a.output(s)
		if got := strings.HasSuffix(out, "allowed\n"); got != c.allowed || !got && !strings.HasSuffix(out, "denied\n") {
			t.Errorf("%s: %q; allowed %v", c.do, out, c.allowed)
		}
	}
}

// TestProgramFromDescriptor executes what a descriptor is, whatever the path says, and also where the process can see nothing else.
func TestProgramFromDescriptor(t *testing.T) {
	_, a := ready(t, setup{})
	script := filepath.Join(t.TempDir(), "script")
	if err := os.WriteFile(script, []byte("#!/bin/sh\necho I am the script\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	for name, confine := range map[string]*keeperpb.Confine{"plain": nil, "confined": {Read: append([]string{script}, systemPaths...)}} {
		f, err := os.Open(script)
		if err != nil {
			t.Fatal(err)
		}
		s := command(name, script)
		s.Path, s.Confine = []byte("/no/such/program"), confine
		n := uint32(7)
		s.Program = &n
		s.Fds = append(s.Fds, n)
		out, _ := a.output(s, fdOf(t, f))
		f.Close()
		if out != "I am the script\n" {
			t.Errorf("%s: %q", name, out)
		}
	}
	s := command("absent", script)
	n := uint32(9)
	s.Program = &n
	if _, _, err := a.launch(s); err == nil || !strings.Contains(err.Error(), "descriptor 9") {
		t.Errorf("a program that is no descriptor of the process: %v", err)
	}
}

// fdOf is f's number, and leaves f as it is.
func fdOf(t *testing.T, f *os.File) (n int) {
	t.Helper()
	raw, err := f.SyscallConn()
	if err == nil {
		err = raw.Control(func(u uintptr) { n = int(u) })
	}
	if err != nil {
		t.Fatal(err)
	}
	return n
}
