package cast

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// slot plays the SDK: it is what survives a process.
type slot struct{ intended, state, next []byte }

func (s *slot) Intent() []byte    { return s.intended }
func (s *slot) Intend(b []byte)   { s.intended = bytes.Clone(b) }
func (s *slot) State() []byte     { return s.state }
func (s *slot) SetState(b []byte) { s.next = bytes.Clone(b) }
func (s *slot) commit()           { s.state, s.intended, s.next = s.next, nil, nil }

var header = Header{Rows: 24, Cols: 80, Title: "web", Command: "sh"}

func open(t *testing.T, path string, version int) *Recording {
	t.Helper()
	r, err := Open(path, version, header, func(error) {})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func closed(t *testing.T, r *Recording) {
	t.Helper()
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
}

func read(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// parsed is a recording's events, with absolute times. It fails where a line is no JSON.
func parsed(t *testing.T, path string) (h map[string]any, events []string) {
	t.Helper()
	at := 0.0
	for i, line := range strings.Split(strings.TrimSuffix(read(t, path), "\n"), "\n") {
		if i == 0 {
			if err := json.Unmarshal([]byte(line), &h); err != nil {
				t.Fatalf("%s: %v", line, err)
			}
			continue
		}
		var e [3]any
		if err := json.Unmarshal([]byte(line), &e); err != nil {
			t.Fatalf("%s: %v", line, err)
		}
		number := e[0].(float64)
		if h["version"].(float64) == 3 {
			at += number
		} else {
			at = number
		}
		events = append(events, fmt.Sprintf("%.3f %s %s", at, e[1], e[2]))
	}
	return h, events
}

// shown is the output in a recording.
func shown(t *testing.T, path string) string {
	t.Helper()
	_, events := parsed(t, path)
	var b strings.Builder
	for _, e := range events {
		if kind, text, _ := strings.Cut(e[strings.IndexByte(e, ' ')+1:], " "); kind == output {
			b.WriteString(text)
		}
	}
	return b.String()
}

func TestRecording(t *testing.T) {
	for _, version := range []int{V2, V3} {
		path := filepath.Join(t.TempDir(), "new", "a.cast")
		r := open(t, path, version)
		start := r.file.start
		var s slot
		ctx := context.Background()
		for i, text := range []string{"$ ls\r\n", "caf\xc3", "\xa9 \"\\\x1b[m\x00\x7f\n", "bad \xff\xfe", "tail \xe4\xb8"} {
			if err := r.Output(ctx, []byte(text), start.Add(time.Duration(i+1)*1500*time.Millisecond), &s); err != nil {
				t.Fatal(err)
			}
			s.commit()
		}
		if err := r.End(ctx, "3", start.Add(10*time.Second), &s); err != nil {
			t.Fatal(err)
		}
		closed(t, r)
		h, events := parsed(t, path)
		want := []string{"1.500 o $ ls\r\n", "3.000 o caf", "4.500 o é \"\\\x1b[m\x00\x7f\n", "6.000 o bad \ufffd\ufffd", "7.500 o tail ",
			"10.000 o \ufffd\ufffd"}
		if version == V3 {
			want = append(want, "10.000 x 3")
		}
		if strings.Join(events, "|") != strings.Join(want, "|") {
			t.Errorf("version %d: %q, want %q", version, events, want)
		}
		if h["version"].(float64) != float64(version) || h["timestamp"].(float64) != float64(start.Unix()) || h["title"] != "web" || h["command"] != "sh" {
			t.Errorf("header %v", h)
		}
		size := h
		if version == V3 {
			size = h["term"].(map[string]any)
		}
		if fmt.Sprint(size["width"], size["height"], size["cols"], size["rows"]) != map[int]string{V2: "80 24 <nil> <nil>", V3: "<nil> <nil> 80 24"}[version] {
			t.Errorf("header %v", h)
		}
	}
}

// A process is killed at every byte of the line that it writes, and its successor at every byte again; a marker is set in between.
func TestKilledAtEveryByte(t *testing.T) {
	ctx := context.Background()
	for _, version := range []int{V2, V3} {
		dir := t.TempDir()
		base := filepath.Join(dir, "base")
		r := open(t, base, version)
		start := r.file.start
		var first slot
		if err := r.Output(ctx, []byte("first\n\xc3"), start.Add(time.Second), &first); err != nil {
			t.Fatal(err)
		}
		first.commit()
		closed(t, r)
		before := read(t, base)

		// chunk writes the chunk to a recording that looks like before and the beginning of what is written, up to byte k.
		chunk := func(path string, last bool, s *slot) error {
			r := open(t, path, version)
			defer closed(t, r)
			if last {
				return r.End(ctx, "7", start.Add(2*time.Second), s)
			}
			return r.Output(ctx, []byte("\xa9second\n"), start.Add(2*time.Second), s)
		}
		for _, last := range []bool{false, true} {
			whole := filepath.Join(dir, fmt.Sprint("whole", last))
			os.WriteFile(whole, []byte(before), 0o600)
			s := first
			if err := chunk(whole, last, &s); err != nil {
				t.Fatal(err)
			}
			want, added := shown(t, whole), len(read(t, whole))-len(before)
			for k := range added + 1 {
				for k2 := range added + 1 {
					path := filepath.Join(dir, fmt.Sprint(last, k, "-", k2))
					os.WriteFile(path, []byte(before), 0o600)
					s := first
					if err := chunk(path, last, &s); err != nil {
						t.Fatal(err)
					}
					os.Truncate(path, int64(len(before)+k))
					s.next = nil
					if k2 >= k { // the successor dies too
						if err := chunk(path, last, &s); err != nil {
							t.Fatal(err)
						}
						os.Truncate(path, int64(len(before)+k2))
						s.next = nil
					}
					r := open(t, path, version)
					if err := r.Mark(ctx, "here"); err != nil {
						t.Fatal(err)
					}
					closed(t, r)
					if err := chunk(path, last, &s); err != nil {
						t.Fatal(err)
					}
					_, events := parsed(t, path)
					exits := strings.Count(strings.Join(events, "|"), " x 7")
					if got := shown(t, path); got != want || version == V3 && last && exits != 1 {
						t.Fatalf("version %d, last %v, killed at %d and %d of %d: %q, want %q", version, last, k, k2, added, events, want)
					}
					os.Remove(path)
				}
			}
		}
	}
}

// The file is renamed under a process that is killed; what it began is finished in the new one, and whole in the old one.
func TestKilledAndRenamed(t *testing.T) {
	ctx := context.Background()
	path := filepath.Join(t.TempDir(), "a.cast")
	r := open(t, path, V2)
	var s slot
	at := r.file.start.Add(time.Second)
	r.Output(ctx, []byte("one\n"), at, &s)
	s.commit()
	length := len(read(t, path))
	r.Output(ctx, []byte("two\n"), at, &s)
	closed(t, r)
	for k := length; k <= length+len("[1.000000, \"o\", \"two\\n\"]\n"); k += 5 {
		s := slot{intended: s.intended}
		whole := read(t, path)
		old := path + ".1"
		os.WriteFile(old, nil, 0o600)
		os.Rename(path, old)
		os.Truncate(old, int64(k))
		r := open(t, path, V2)
		if err := r.Output(ctx, []byte("two\n"), at, &s); err != nil {
			t.Fatal(err)
		}
		closed(t, r)
		if got := shown(t, old) + shown(t, path); got != "one\ntwo\n" {
			t.Errorf("killed at %d: %q and %q", k, read(t, old), read(t, path))
		}
		os.WriteFile(old, []byte(whole), 0o600)
		os.Rename(old, path)
	}
}

func TestRotated(t *testing.T) {
	ctx := context.Background()
	path := filepath.Join(t.TempDir(), "a.cast")
	r := open(t, path, V3)
	var s slot
	r.Output(ctx, []byte("one\n"), time.Now(), &s)
	s.commit()
	r.Resize(30, 100)
	r.Mark(ctx, "before")
	os.Rename(path, path+".1")
	r.looked = time.Time{}
	r.Output(ctx, []byte("two\n"), time.Now(), &s)
	closed(t, r)
	h, _ := parsed(t, path)
	if size := h["term"].(map[string]any); shown(t, path+".1") != "one\n" || shown(t, path) != "two\n" || size["rows"].(float64) != 30 {
		t.Errorf("%q and %q", read(t, path+".1"), read(t, path))
	}
}

// A recording that is there already is continued, in its own time.
func TestContinued(t *testing.T) {
	ctx := context.Background()
	for _, version := range []int{V2, V3} {
		path := filepath.Join(t.TempDir(), "a.cast")
		r := open(t, path, version)
		start := r.file.start
		for i := range 3 {
			var s slot
			if err := r.Output(ctx, []byte("x"), start.Add(time.Duration(i+1)*time.Second), &s); err != nil {
				t.Fatal(err)
			}
			closed(t, r)
			r = open(t, path, version)
		}
		var s slot
		r.Output(ctx, []byte("y"), start, &s) // a clock that was set back
		closed(t, r)
		if _, events := parsed(t, path); strings.Join(events, "|") != "1.000 o x|2.000 o x|3.000 o x|3.000 o y" {
			t.Errorf("version %d: %q", version, events)
		}
	}
}

func TestEvents(t *testing.T) {
	ctx := context.Background()
	path := filepath.Join(t.TempDir(), "a.cast")
	r := open(t, path, V2)
	r.Resize(40, 120)
	r.Input([]byte("ls\r"))
	if err := r.Mark(ctx, "here \"it\" is"); err != nil {
		t.Fatal(err)
	}
	r.Input([]byte("q"))
	closed(t, r)
	_, events := parsed(t, path)
	var got []string
	for _, e := range events {
		got = append(got, e[strings.IndexByte(e, ' ')+1:])
	}
	if strings.Join(got, "|") != "r 120x40|i ls\r|m here \"it\" is|i q" {
		t.Errorf("%q", events)
	}
}

func TestRefused(t *testing.T) {
	dir := t.TempDir()
	for name, c := range map[string]struct{ text, want string }{
		"text":    {"some text\nof mine\n", "something else"},
		"short":   {"x", "something else"},
		"json":    {"{\"a\": 1}\n", "something else"},
		"version": {"{\"version\": 3, \"timestamp\": 1}\n", "asciicast of version 3"},
	} {
		path := filepath.Join(dir, name)
		os.WriteFile(path, []byte(c.text), 0o600)
		if _, err := Open(path, V2, header, nil); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
		if got := read(t, path); got != c.text {
			t.Errorf("%s was changed: %q", name, got)
		}
	}
	if _, err := Open(dir, V2, header, nil); err == nil || !strings.Contains(err.Error(), "directory") {
		t.Errorf("a directory: %v", err)
	}
	if _, err := Open("/dev/null", V2, header, nil); err == nil || !strings.Contains(err.Error(), "regular file") {
		t.Errorf("a device: %v", err)
	}
	path := filepath.Join(dir, "busy")
	r := open(t, path, V2)
	if _, err := Open(path, V2, header, nil); err == nil || !strings.Contains(err.Error(), "another console") {
		t.Errorf("two consoles: %v", err)
	}
	closed(t, r)
	torn := filepath.Join(dir, "torn")
	os.WriteFile(torn, []byte(`{"version":2,"wid`), 0o600)
	closed(t, open(t, torn, V2))
	if h, _ := parsed(t, torn); h["width"].(float64) != 80 {
		t.Errorf("a header that was not finished: %v", h)
	}
}

// What cannot be written is tried again; what is wrong is told once, and that it is over.
func TestRetry(t *testing.T) {
	var said []error
	r := &Recording{trouble: func(err error) { said = append(said, err) }}
	failures := 2
	try := func() error {
		if failures--; failures >= 0 {
			return os.ErrPermission
		}
		return nil
	}
	if err := r.retry(context.Background(), try); err != nil || failures != -1 {
		t.Errorf("%v, %d failures left", err, failures)
	}
	if len(said) != 2 || !errors.Is(said[0], os.ErrPermission) || said[1] != nil {
		t.Errorf("told: %v", said)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	failures = 1
	if err := r.retry(ctx, try); !errors.Is(err, context.Canceled) {
		t.Errorf("given up: %v", err)
	}
}

func TestWhole(t *testing.T) {
	for text, want := range map[string]int{
		"": 0, "a": 1, "é": 2, "a\xc3": 1, "\xe4\xb8": 0, "a\xf0\x9f\x98": 1, "\xf0\x9f\x98\x80": 4, "a\xff": 2, "\x80\x80\x80\x80": 4,
	} {
		if got := whole([]byte(text)); got != want {
			t.Errorf("%q: %d, want %d", text, got, want)
		}
	}
}
