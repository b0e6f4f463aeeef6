package agent

import (
	"bytes"
	"fmt"
	"log/slog"
	"os"
	"testing"
)

// What consoles leave is bounded all together, the latest of a child counts, and an agent that takes over has it.
func TestRemains(t *testing.T) {
	dir := t.TempDir()
	r := newRemains(dir, slog.New(slog.DiscardHandler))
	if _, _, ok := r.load("a"); ok {
		t.Error("something is left of nothing")
	}
	r.keep("a", 1, []byte("first"))
	r.keep("b", 1, []byte("other"))
	r.keep("a", 2, []byte("second"))
	if run, b, ok := r.load("a"); run != 2 || string(b) != "second" || !ok {
		t.Errorf("run %d, %q, %v", run, b, ok)
	}
	r = newRemains(dir, r.log)
	if want := int64(len("other") + len("second") + 8); r.bytes != want || len(r.order) != 2 {
		t.Errorf("%d bytes of %d children, want %d of 2", r.bytes, len(r.order), want)
	}
	r.dropOthers(func(child string) bool { return child == "a" })
	if _, _, ok := r.load("b"); ok {
		t.Error("b is left, of which nobody knows")
	}
	large := bytes.Repeat([]byte{1}, 1<<20)
	for i := range 40 {
		r.keep(fmt.Sprint("large", i), 1, large)
	}
	if _, _, ok := r.load("large39"); !ok {
		t.Error("the latest is not left")
	}
	if _, _, ok := r.load("large1"); ok {
		t.Error("one of the oldest is left")
	}
	entries, err := os.ReadDir(r.dir)
	if err != nil || len(entries) != len(r.order) || r.bytes > remainsMost {
		t.Errorf("%d files of %d children with %d bytes: %v", len(entries), len(r.order), r.bytes, err)
	}
}
