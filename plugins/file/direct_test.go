package file

import (
	"os/exec"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/muxd/muxd/sink"
)

func TestDirect(t *testing.T) {
	path := filepath.Join(t.TempDir(), "d", "log")
	if err := appendTo(path, ""); err == nil {
		t.Fatal("the directory is there already")
	}
	r := request(t, path, map[string]string{"mode": "direct"})
	files, err := Plugin().OpenDirect(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	if len(files) != 2 {
		t.Fatalf("%d files for two streams", len(files))
	}
	for _, f := range files {
		raw, err := f.SyscallConn()
		if err != nil {
			t.Fatal(err)
		}
		raw.Control(func(fd uintptr) {
			flags, err := unix.FcntlInt(fd, unix.F_GETFL, 0)
			if err != nil || flags&unix.O_NONBLOCK != 0 || flags&unix.O_APPEND == 0 {
				t.Errorf("flags %#o, %v", flags, err)
			}
		})
	}
	// The child is handed the files as they are, so both of its streams share one place in the file.
	cmd := exec.Command("sh", "-c", "echo one; echo two >&2; echo three")
	cmd.Stdout, cmd.Stderr = files[0], files[1]
	err = cmd.Run()
	for _, f := range files {
		f.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
	same(t, "file", read(t, path), "one\ntwo\nthree\n")
	if r.Location != path {
		t.Errorf("location %q", r.Location)
	}
}

func TestDirectApart(t *testing.T) {
	dir := t.TempDir()
	r := request(t, filepath.Join(dir, "{stream}"), map[string]string{"mode": "direct"}, sink.Stderr, sink.Stdout)
	files, err := Plugin().OpenDirect(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		f.WriteString("to " + filepath.Base(f.Name()))
		f.Close()
	}
	same(t, "stdout", read(t, filepath.Join(dir, "stdout")), "to stdout")
	same(t, "stderr", read(t, filepath.Join(dir, "stderr")), "to stderr")
	if files[0].Name() != filepath.Join(dir, "stderr") {
		t.Error("the files are not in the order of the streams")
	}
}

func TestDirectFails(t *testing.T) {
	r := request(t, t.TempDir(), map[string]string{"mode": "direct"})
	if files, err := Plugin().OpenDirect(t.Context(), r); err == nil || files != nil {
		t.Errorf("%v, %v", files, err)
	}
}
