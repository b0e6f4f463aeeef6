package need

import (
	"fmt"
	"os"
	"runtime"
	"testing"
)

// recorder is a test whose end is recorded instead of being one.
type recorder struct {
	testing.TB
	failed, skipped string
}

func (r *recorder) Helper() {}

func (r *recorder) Fatalf(format string, args ...any) {
	r.failed = fmt.Sprintf(format, args...)
	runtime.Goexit()
}

func (r *recorder) Skipf(format string, args ...any) {
	r.skipped = fmt.Sprintf(format, args...)
	runtime.Goexit()
}

func record(f func(testing.TB)) *recorder {
	r, done := &recorder{}, make(chan struct{})
	go func() {
		defer close(done)
		f(r)
	}()
	<-done
	return r
}

func TestMissingProgram(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	const text = "muxd-no-such-program is missing (Debian package muxd-no-such-program)"
	ask := func(tb testing.TB) { Program(tb, "muxd-no-such-program") }
	t.Setenv("CI", "")
	if r := record(ask); r.skipped != text || r.failed != "" {
		t.Errorf("skipped %q, failed %q", r.skipped, r.failed)
	}
	t.Setenv("CI", "true")
	if r := record(ask); r.skipped != "" || r.failed != "with CI=true nothing may be missing: "+text {
		t.Errorf("with CI=true: skipped %q, failed %q", r.skipped, r.failed)
	}
}

func TestProgram(t *testing.T) {
	var path string
	r := record(func(tb testing.TB) { path = Program(tb, "sh") })
	if path == "" || r.failed+r.skipped != "" {
		t.Errorf("sh: %q, %q, %q", path, r.failed, r.skipped)
	}
	if got := packageOf("protoc"); got != "protobuf-compiler" {
		t.Errorf("protoc is in %q", got)
	}
}

func TestRoot(t *testing.T) {
	t.Setenv("CI", "")
	r := record(func(tb testing.TB) { Root(tb) })
	if root := os.Geteuid() == 0; root != (r.skipped == "") {
		t.Errorf("as uid %d: skipped %q", os.Geteuid(), r.skipped)
	}
}
