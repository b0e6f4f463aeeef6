package file

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/muxd/muxd/sink"
)

// query asks for all of a log.
func query(r *sink.Request) *sink.LogQuery { return &sink.LogQuery{Request: *r, Tail: -1} }

// show is a record in one line.
func show(r sink.Record) string {
	s := fmt.Sprintf("%v:%s", r.Stream, r.Text)
	if r.Partial {
		s += "…"
	}
	return s
}

func logged(t *testing.T, q *sink.LogQuery) []string {
	t.Helper()
	var out []string
	err := Plugin().Logs(t.Context(), q, func(r sink.Record) error {
		out = append(out, show(r))
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func at(n int) time.Time { return noon.Add(time.Duration(n) * time.Second) }

// criLog writes records, each "stdout text" or "stderr text", a second apart.
func criLog(t *testing.T, path string, maxLine int, records ...string) {
	t.Helper()
	fs := quick()
	s := settings{format: cri{}, perm: 0o640, maxLine: maxLine}
	w := map[string]*testStream{}
	for name, stream := range map[string]sink.Stream{"stdout": sink.Stdout, "stderr": sink.Stderr} {
		w[name] = openStream(t, fs, s, stream, strings.ReplaceAll(path, "{stream}", name))
	}
	for i, r := range records {
		name, text, _ := strings.Cut(r, " ")
		w[name].put(at(i), text+"\n", false)
	}
	for _, w := range w {
		w.w.close()
	}
}

func TestLogsOfCRI(t *testing.T) {
	dir := t.TempDir()
	one, two := filepath.Join(dir, "log"), filepath.Join(dir, "{stream}.log")
	records := []string{"stdout a", "stderr b", "stdout cdefgh", "stderr ", "stdout i"}
	for _, path := range []string{one, two} {
		criLog(t, path, 4, records...)
		for _, c := range []struct {
			name    string
			streams []sink.Stream
			tail    int
			since   time.Time
			want    string
		}{
			{"all", nil, -1, time.Time{}, "stdout:a stderr:b stdout:cdef… stdout:gh stderr: stdout:i"},
			{"none", nil, 0, time.Time{}, ""},
			{"last", nil, 1, time.Time{}, "stdout:i"},
			{"last three", nil, 3, time.Time{}, "stdout:cdef… stdout:gh stderr: stdout:i"},
			{"more than there are", nil, 99, time.Time{}, "stdout:a stderr:b stdout:cdef… stdout:gh stderr: stdout:i"},
			{"since", nil, -1, at(3), "stderr: stdout:i"},
			{"stdout", []sink.Stream{sink.Stdout}, -1, time.Time{}, "stdout:a stdout:cdef… stdout:gh stdout:i"},
			{"last of stderr", []sink.Stream{sink.Stderr}, 1, time.Time{}, "stderr:"},
			{"last two of stderr", []sink.Stream{sink.Stderr}, 2, time.Time{}, "stderr:b stderr:"},
			{"last two since", nil, 2, at(4), "stdout:i"},
		} {
			q := query(request(t, path, map[string]string{"max-line": "4"}, c.streams...))
			q.Tail, q.Since = c.tail, c.since
			same(t, path+" "+c.name, strings.Join(logged(t, q), " "), c.want)
		}
	}
}

// TestLogsOfForeignText reads what was in the file before, and passes over a torn record.
func TestLogsOfForeignText(t *testing.T) {
	path := temp(t)
	long := strings.Repeat("y", 2*lineMost+5)
	text := "hello\n" +
		"2026-05-04T12:00:00.000000001Z stdout F x\n" +
		"2026-05-04T12:00:00.000000002Z stderr F " + long + "\n" +
		"2026-05-04T12:00:00.000000003Z stdout F tor"
	if err := appendTo(path, text); err != nil {
		t.Fatal(err)
	}
	q := query(request(t, path, nil))
	got := logged(t, q)
	if len(got) != 4 || got[0] != ":hello" || got[1] != "stdout:x" || !strings.HasSuffix(got[2], "…") ||
		strings.TrimSuffix(strings.TrimPrefix(got[2], "stderr:"), "…")+strings.TrimPrefix(got[3], "stderr:") != long {
		t.Errorf("%.60q", got)
	}
	q.Tail = 2
	if got = logged(t, q); len(got) != 3 || got[0] != "stdout:x" {
		t.Errorf("last two: %.60q", got)
	}
}

func TestLogsOfRaw(t *testing.T) {
	dir := t.TempDir()
	raw := map[string]string{"format": "raw"}
	path := filepath.Join(dir, "log")
	if err := appendTo(path, "\none\ntwo\r\n\xff\nthree"); err != nil {
		t.Fatal(err)
	}
	for tail, want := range map[int]string{-1: ": :one :two\r :\xff :three…", 0: "", 1: ":three…", 3: ":two\r :\xff :three…",
		5: ": :one :two\r :\xff :three…", 9: ": :one :two\r :\xff :three…"} {
		q := query(request(t, path, raw))
		q.Tail = tail
		got := strings.Join(logged(t, q), " ")
		if tail == 0 {
			want = ""
		}
		same(t, fmt.Sprint("tail ", tail), got, want)
	}
	for name, text := range map[string]string{"stdout": "a\nb\n", "stderr": "c\n"} {
		if err := appendTo(filepath.Join(dir, name), text); err != nil {
			t.Fatal(err)
		}
	}
	q := query(request(t, filepath.Join(dir, "{stream}"), raw))
	same(t, "apart", strings.Join(logged(t, q), " "), "stdout:a stdout:b stderr:c")
	q.Tail = 2
	same(t, "apart, last two", strings.Join(logged(t, q), " "), "stdout:b stderr:c")
}

func TestLogsFail(t *testing.T) {
	none := func(sink.Record) error { return nil }
	err := Plugin().Logs(t.Context(), query(request(t, "/nowhere/log", nil)), none)
	if !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), "/nowhere/log") {
		t.Errorf("no file: %v", err)
	}
	q := query(request(t, temp(t), map[string]string{"format": "raw"}))
	q.Since = noon
	if err := Plugin().Logs(t.Context(), q, none); err == nil || !strings.Contains(err.Error(), "no times") {
		t.Errorf("raw since: %v", err)
	}
	path := temp(t)
	if err := appendTo(path, "a\nb\n"); err != nil {
		t.Fatal(err)
	}
	stop := errors.New("nobody reads")
	if err := Plugin().Logs(t.Context(), query(request(t, path, nil)), func(sink.Record) error { return stop }); err != stop {
		t.Errorf("emit failed: %v", err)
	}
}

// counted counts what is read of a file.
type counted struct {
	*bytes.Reader
	n int
}

func (c *counted) ReadAt(p []byte, at int64) (int, error) {
	n, err := c.Reader.ReadAt(p, at)
	c.n += n
	return n, err
}

// TestTailStart compares with the plain way for random texts, and reads little of a large one.
func TestTailStart(t *testing.T) {
	all := func([]byte) bool { return true }
	for seed := range uint64(40) {
		rnd := rand.New(rand.NewPCG(seed, 2))
		text := make([]byte, rnd.IntN(300<<10))
		for i := range text {
			text[i] = 'x'
			if rnd.IntN(20000) == 0 || rnd.IntN(3) == 0 && i < 1000 || i%(64<<10) == 0 && seed%2 == 0 {
				text[i] = '\n'
			}
		}
		n := rnd.IntN(20) * rnd.IntN(20)
		lines := bytes.SplitAfter(text, []byte("\n"))
		if len(lines[len(lines)-1]) == 0 {
			lines = lines[:len(lines)-1]
		}
		want := int64(len(text) - len(bytes.Join(lines[max(0, len(lines)-n):], nil)))
		got, found, err := tailStart(bytes.NewReader(text), int64(len(text)), n, all)
		if err != nil || got != want || found != min(n, len(lines)) {
			t.Fatalf("seed %d: the last %d of %d lines begin at %d, %v, want %d", seed, n, len(lines), got, err, want)
		}
	}
	large := &counted{Reader: bytes.NewReader(bytes.Repeat([]byte("a line of text\n"), 1<<20))}
	if _, _, err := tailStart(large, large.Size(), 100, all); err != nil || large.n > 512<<10 {
		t.Errorf("read %d of %d bytes, %v", large.n, large.Size(), err)
	}
}

// following runs a follow, and gives what it tells one by one.
type following struct {
	t      *testing.T
	got    chan string
	done   chan error
	cancel context.CancelFunc
}

func startFollow(t *testing.T, r *sink.Request) *following {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	f := &following{t, make(chan string, 1000), make(chan error, 1), cancel}
	q := query(r)
	q.Follow = true
	go func() {
		f.done <- Plugin().Logs(ctx, q, func(r sink.Record) error { f.got <- show(r); return nil })
		close(f.got)
	}()
	t.Cleanup(cancel)
	return f
}

func (f *following) want(want ...string) {
	f.t.Helper()
	for _, w := range want {
		select {
		case got := <-f.got:
			same(f.t, "follow", got, w)
		case <-time.After(10 * time.Second):
			f.t.Fatalf("waited for %q in vain", w)
		}
	}
}

// end ends the follow, and wants what it still tells.
func (f *following) end(want ...string) {
	f.t.Helper()
	f.cancel()
	f.want(want...)
	if err := <-f.done; err != nil {
		f.t.Error(err)
	}
	for got := range f.got {
		f.t.Errorf("told %q at the end", got)
	}
}

func TestFollow(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "log")
	f := startFollow(t, request(t, path, nil)) // before there is a file
	fs := quick()
	out := openStream(t, fs, criSettings(), sink.Stdout, path)
	out.put(noon, "one\n", false)
	f.want("stdout:one")
	errs := openStream(t, fs, criSettings(), sink.Stderr, path)
	errs.put(noon, "two\n", false)
	f.want("stderr:two")

	// The writers come to the new file one after the other.
	if err := os.Rename(path, path+".1"); err != nil {
		t.Fatal(err)
	}
	errs.w.files.lookAgain = time.Hour
	errs.put(noon, "still in the old one\n", false)
	f.want("stderr:still in the old one")
	errs.w.files.lookAgain = 0
	out.put(noon, "three\n", false)
	f.want("stdout:three")
	if err := appendTo(path+".1", "2026-05-04T12:00:00Z stderr F late\n"); err != nil {
		t.Fatal(err)
	}
	f.want("stderr:late")

	// Truncated, and written from its beginning.
	if err := os.Truncate(path, 0); err != nil {
		t.Fatal(err)
	}
	out.put(noon, "4\n", false)
	f.want("stdout:4")
	out.put(noon, "last\n", false)
	f.end("stdout:last")
}

func TestFollowRaw(t *testing.T) {
	path := temp(t)
	if err := appendTo(path, "one\nbeg"); err != nil {
		t.Fatal(err)
	}
	f := startFollow(t, request(t, path, map[string]string{"format": "raw"}))
	f.want(":one")
	if err := appendTo(path, "in\nunfinished"); err != nil {
		t.Fatal(err)
	}
	f.want(":begin")
	f.end(":unfinished…")
}

// TestFollowTellsWhatWasUnread ends a follow at the moment of a write: what was in the file then is told.
func TestFollowTellsWhatWasUnread(t *testing.T) {
	path := filepath.Join(t.TempDir(), "{stream}")
	for i := range 50 {
		criLog(t, path, 100, "stdout x")
		f := startFollow(t, request(t, path, nil))
		f.want("stdout:x")
		criLog(t, path, 100, "stderr y", "stdout z")
		f.end(sorted(f, "stderr:y", "stdout:z")...)
		for _, name := range []string{"stdout", "stderr"} {
			if err := os.Remove(strings.ReplaceAll(path, "{stream}", name)); err != nil {
				t.Fatal(i, err)
			}
		}
	}
}

// sorted takes two records of different files, which may come in any order.
func sorted(f *following, a, b string) []string {
	f.t.Helper()
	f.cancel()
	x, y := <-f.got, <-f.got
	if x == a && y == b || x == b && y == a {
		return nil
	}
	f.t.Fatalf("told %q and %q", x, y)
	return nil
}

// TestBlindFollow is where inotify cannot be had.
func TestBlindFollow(t *testing.T) {
	path := filepath.Join(t.TempDir(), "dir", "log")
	f := startFollow(t, request(t, path, nil)) // nor is there a directory to watch
	if err := os.Mkdir(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	criLog(t, path, 100, "stdout x")
	f.want("stdout:x")
	f.end()

	ctx, cancel := context.WithCancel(context.Background())
	w := &watch{blind: true}
	cancel()
	if err := w.wait(ctx, time.Time{}); err != nil {
		t.Error(err)
	}
}
