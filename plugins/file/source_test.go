package file

import (
	"errors"
	"io"
	"io/fs"
	"path/filepath"
	"strings"
	"testing"

	"github.com/muxd/muxd/sink"
)

func TestSource(t *testing.T) {
	path := filepath.Join(t.TempDir(), "web.in")
	if err := appendTo(path, "what is read\n"); err != nil {
		t.Fatal(err)
	}
	r := request(t, filepath.Join(filepath.Dir(path), "{name}.in"), nil, sink.Stdin)
	wiring, err := Plugin().Check(r)
	if err != nil || wiring != sink.Direct || r.Location != path {
		t.Fatalf("wiring %v, location %q, %v", wiring, r.Location, err)
	}
	files, err := Plugin().OpenDirect(t.Context(), r)
	if err != nil || len(files) != 1 {
		t.Fatal(files, err)
	}
	defer files[0].Close()
	b, err := io.ReadAll(files[0])
	if err != nil || string(b) != "what is read\n" {
		t.Errorf("%q, %v", b, err)
	}
	if _, err := files[0].WriteString("x"); err == nil {
		t.Error("it can be written")
	}
}

func TestSourceRefused(t *testing.T) {
	dir := t.TempDir()
	for _, r := range []*sink.Request{
		request(t, dir, nil, sink.Stdin, sink.Stdout),
		request(t, dir, map[string]string{"format": "cri"}, sink.Stdin),
		request(t, dir, map[string]string{"max-size": "1MiB"}, sink.Stdin),
		request(t, dir+"/{nam}", nil, sink.Stdin),
	} {
		if _, err := Plugin().Check(r); err == nil {
			t.Errorf("%v %v is accepted", r.Streams, r.Options)
		}
	}
	_, err := Plugin().OpenDirect(t.Context(), request(t, filepath.Join(dir, "none"), nil, sink.Stdin))
	if !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no file: %v", err)
	}
	if _, err = Plugin().OpenDirect(t.Context(), request(t, dir, nil, sink.Stdin)); err == nil || !strings.Contains(err.Error(), "is a directory") {
		t.Errorf("a directory: %v", err)
	}
}
