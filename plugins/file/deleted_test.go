package file

import (
	"compress/gzip"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/muxd/muxd/sink"
)

// TestDeletedIsMadeAgain deletes a file between two chunks: the second one is in a new file, however soon it comes.
func TestDeletedIsMadeAgain(t *testing.T) {
	fs := quick()
	fs.lookAgain = time.Hour
	path := filepath.Join(t.TempDir(), "dir", "log")
	w := openStream(t, fs, settings{perm: 0o640}, sink.Stdout, path)
	w.put(noon, "one\n", false)
	if err := os.RemoveAll(filepath.Dir(path)); err != nil {
		t.Fatal(err)
	}
	w.put(noon, "two\n", false)
	w.put(noon, "", true)
	same(t, "the file", read(t, path), "two\n")
}

// TestReadsOnBehindDeleted deletes the file that is being read, once it has been: the next one follows, packed or not, also where it is
// the one that is written.
func TestReadsOnBehindDeleted(t *testing.T) {
	const first, second = "log.20260504T120000.000000000Z.done", "log.20260504T130000.000000000Z.done"
	for _, packing := range []string{"", packGzip} {
		for _, rotated := range []bool{false, true} { // since it was opened
			dir := t.TempDir()
			write := func(name, text string) {
				t.Helper()
				if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
					t.Fatal(err)
				}
				if packing != "" && name != "log" {
					gzipped(t, filepath.Join(dir, name))
				}
			}
			q := query(request(t, filepath.Join(dir, "log"), map[string]string{"format": "raw"}))
			s, err := parseSettings(&q.Request)
			if err != nil {
				t.Fatal(err)
			}
			opened := first
			if rotated {
				opened = "log"
			}
			write(opened, "1\n")
			l := newLogs(s, q, nil)[0]
			if err := l.begin(); err != nil {
				t.Fatal(err)
			}
			next := func(want string) {
				t.Helper()
				rec, err := l.next()
				if err != nil || string(rec.Text) != want {
					t.Fatalf("packed %q, rotated since %v: %q (%v), want %q", packing, rotated, rec.Text, err, want)
				}
			}
			next("1")
			all, _ := filepath.Glob(filepath.Join(dir, "log*"))
			for _, name := range all {
				os.Remove(name)
			}
			write(second, "2\n")
			write("log", "3\n")
			next("2")
			next("3")
			if _, err := l.next(); err != io.EOF {
				t.Errorf("behind the last one: %v", err)
			}
			l.close()
		}
	}
}

// TestDamagedIsTold reads a log with a damaged file: whoever writes the log tells of it.
func TestDamagedIsTold(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	name := "log.20260504T120000.000000000Z.done.gz"
	if err := os.WriteFile(filepath.Join(filepath.Dir(path), name), []byte("no gzip"), 0o600); err != nil {
		t.Fatal(err)
	}
	fs := quick()
	var told error
	q := query(request(t, path, nil))
	s, err := parseSettings(&q.Request)
	if err != nil {
		t.Fatal(err)
	}
	k, err := newFileSink(fs, s, "o", &opening{report: func(err error) { told = err }}, false)
	if err != nil {
		t.Fatal(err)
	}
	err = readLogs(t.Context(), s, q, func(sink.Record) error { return nil })
	if !errors.Is(err, errDamaged) {
		t.Fatalf("the log is read: %v", err)
	}
	fs.damaged(s, err)
	if told == nil || !strings.Contains(told.Error(), name+" is damaged") {
		t.Errorf("told: %v", told)
	}
	k.Close()
	told = nil
	if fs.damaged(s, err); told != nil {
		t.Errorf("a sink that is closed tells: %v", told)
	}
}

// TestHints says for each error of the outside what would help.
func TestHints(t *testing.T) {
	for errno, want := range map[error]string{
		unix.EIO: "the disk or its file system fails", unix.EDQUOT: "free some space", unix.ENOSPC: "free some space", unix.EROFS: "mounted read-only",
	} {
		if err := explain(&os.PathError{Op: "write", Path: "/x", Err: errno}, "/x"); !errors.Is(err, errno) || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want a hint with %q", err, want)
		}
	}
}

// gzipped packs a file, and returns its new name.
func gzipped(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	f, err := os.Create(path + "." + packGzip)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	z := gzip.NewWriter(f)
	z.Write(text)
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	os.Remove(path)
	return f.Name()
}
