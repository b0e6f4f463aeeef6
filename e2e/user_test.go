package e2e

import (
	"bytes"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/muxd/muxd/internal/need"
)

// ordinaryUser is nobody: a user without rights of its own.
const ordinaryUser = 65534

// TestOrdinaryUser runs this test again, without root's rights, for the scripts that every user's muxd must pass.
func TestOrdinaryUser(t *testing.T) {
	t.Parallel()
	need.Root(t)
	dir, err := os.MkdirTemp("/tmp", "mxuser") // not of this test: its directories are closed to others
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	testdata, tmp := filepath.Join(dir, "testdata"), filepath.Join(dir, "tmp")
	for _, d := range []string{testdata, tmp} {
		if err := os.Mkdir(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	copyFile(t, self, filepath.Join(dir, "e2e.test"), 0o755)
	scripts := []string{"core", "denied", "adopt-console", "consolesocket"}
	if err := os.Mkdir(filepath.Join(testdata, "rootless"), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, name := range append([]string{"rootless/rootless"}, scripts...) {
		copyFile(t, filepath.Join("testdata", name+".txtar"), filepath.Join(testdata, name+".txtar"), 0o644)
	}
	if err := os.Chown(tmp, ordinaryUser, ordinaryUser); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(filepath.Join(dir, "e2e.test"), "-test.run", "^(TestScripts|TestRootless)$", "-test.v", "-test.timeout", "3m")
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), binEnv+"="+bin, "TMPDIR="+tmp, "GOTMPDIR="+tmp, "HOME="+tmp, "GOCOVERDIR="+tmp)
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: ordinaryUser, Gid: ordinaryUser}}
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("as user %d: %v\n%s", ordinaryUser, err, out)
	}
	for _, runtime := range []string{"runc", "crun"} {
		name := "TestRootless/" + runtime
		switch {
		case bytes.Contains(out, []byte("--- SKIP: "+name)):
			t.Logf("%s cannot run a container of user %d on this machine", runtime, ordinaryUser)
		case !bytes.Contains(out, []byte("--- PASS: "+name)):
			t.Errorf("as user %d, %s has not passed:\n%s", ordinaryUser, name, out)
		}
	}
	for _, name := range scripts {
		if !bytes.Contains(out, []byte("--- PASS: TestScripts/"+name)) {
			t.Errorf("as user %d, %s has not passed:\n%s", ordinaryUser, name, out)
		}
	}
}

func copyFile(t *testing.T, from, to string, perm os.FileMode) {
	t.Helper()
	in, err := os.Open(from)
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_CREATE|os.O_WRONLY, perm)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(out, in); err != nil {
		t.Fatal(err)
	}
	if err := out.Close(); err != nil {
		t.Fatal(err)
	}
}
