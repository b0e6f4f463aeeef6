package file

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/muxd/muxd/sink"
)

// killed is a stream whose process was killed when it had written k bytes of a chunk, in the state that it leaves.
type killed struct {
	slot slot
	part part
}

// killAt writes before to path, and then the chunk text, of which only the first k bytes get into the file. k is -1
// for a process that was killed before it recorded an intent.
func killAt(t *testing.T, s settings, path, before, text string, k int) killed {
	t.Helper()
	w := openStream(t, quick(), s, sink.Stdout, path)
	if before != "" {
		w.put(noon, before, false)
	}
	size := len(read(t, path))
	p := part{data: []byte(text), state: bytes.Clone(w.slot.state), time: noon.Add(time.Second)}
	intended := w.slot
	if k >= 0 {
		if err := w.w.put(context.Background(), p, &intended); err != nil {
			t.Fatal(err)
		}
		if err := os.Truncate(path, int64(size+k)); err != nil {
			t.Fatal(err)
		}
	}
	intended.restart()
	w.w.close()
	p.again = true
	return killed{slot: intended, part: p}
}

// run is the successor, which gets the same chunk.
func (k *killed) run(t *testing.T, w *testStream) {
	t.Helper()
	w.slot = k.slot
	if err := w.w.put(context.Background(), k.part, &w.slot); err != nil {
		t.Fatal(err)
	}
	w.slot.commit()
}

var rawSettings = settings{perm: 0o640, maxLine: 1}

// rendered is what the chunk adds to an empty file.
func rendered(t *testing.T, s settings, before, text string) (first, whole string) {
	t.Helper()
	path := temp(t)
	w := openStream(t, quick(), s, sink.Stdout, path)
	w.put(noon, before, false)
	first = read(t, path)
	w.put(noon.Add(time.Second), text, false)
	return first, read(t, path)
}

var killedChunks = []struct{ name, before, text string }{
	{"lines", "first\n", "one\ntwo\n\n\nthree\n"},
	{"carry", "first\nbegin", "ning\nmore\nunfinished"},
	{"same lines", "y\n", "y\ny\ny\ny\n"},
	{"unfinished only", "first\n", "begin"},
	{"long", "", strings.Repeat("x", 23) + "\n" + strings.Repeat("z", 9)},
}

// TestKilledAtEveryByte kills a writer before the intent, after it, and behind every byte; and its successor again
// behind every byte that it adds.
func TestKilledAtEveryByte(t *testing.T) {
	cri := settings{cri: true, perm: 0o640, maxLine: 10}
	dir := t.TempDir()
	for _, s := range []settings{cri, rawSettings} {
		for _, c := range killedChunks {
			first, whole := rendered(t, s, c.before, c.text)
			length := len(whole) - len(first)
			if length == 0 {
				continue
			}
			for k := -1; k <= length; k++ {
				path := filepath.Join(dir, fmt.Sprint(s.cri, c.name, k))
				dead := killAt(t, s, path, c.before, c.text, k)
				w := openStream(t, quick(), s, sink.Stdout, path)
				dead.run(t, w)
				same(t, fmt.Sprintf("cri %v, %s, killed at %d of %d", s.cri, c.name, k, length), read(t, path), whole)

				w.w.close()
				state := bytes.Clone(w.slot.state)
				for k2 := max(k, 0); k2 <= length; k2 += 7 {
					second := dead
					w := openStream(t, quick(), s, sink.Stdout, path)
					if err := os.Truncate(path, int64(len(first)+max(k, 0))); err != nil {
						t.Fatal(err)
					}
					w.slot = second.slot
					if err := w.w.put(context.Background(), second.part, &w.slot); err != nil {
						t.Fatal(err)
					}
					w.w.close()
					second.slot = w.slot
					second.slot.restart()
					if err := os.Truncate(path, int64(len(first)+k2)); err != nil {
						t.Fatal(err)
					}
					w = openStream(t, quick(), s, sink.Stdout, path)
					second.run(t, w)
					same(t, fmt.Sprintf("cri %v, %s, killed at %d and %d", s.cri, c.name, k, k2), read(t, path), whole)
					same(t, "state", string(w.slot.state), string(state))
					w.w.close()
				}
			}
		}
	}
}

// TestKilledAndOthersWriteFirst lets another stream, and a stranger, append before the chunk comes again.
func TestKilledAndOthersWriteFirst(t *testing.T) {
	s := settings{cri: true, perm: 0o640, maxLine: 10}
	for _, c := range killedChunks[:3] {
		first, whole := rendered(t, s, c.before, c.text)
		for k := -1; k <= len(whole)-len(first); k++ {
			path := temp(t)
			dead := killAt(t, s, path, c.before, c.text, k)
			fs := quick()
			other := openStream(t, fs, s, sink.Stderr, path)
			other.put(noon.Add(2*time.Second), "other\n", false)
			if err := appendTo(path, "a stranger's text\n"); err != nil {
				t.Fatal(err)
			}
			dead.run(t, openStream(t, fs, s, sink.Stdout, path))
			var mine []string
			for _, line := range strings.SplitAfter(read(t, path), "\n") {
				if !strings.Contains(line, "stderr F other") && !strings.Contains(line, "stranger") {
					mine = append(mine, line)
				}
			}
			same(t, fmt.Sprintf("%s, killed at %d", c.name, k), strings.Join(mine, ""), whole)
			if n := strings.Count(read(t, path), " stderr F other\n"); n != 1 {
				t.Fatalf("%s, killed at %d: the other's record is there %d times", c.name, k, n)
			}
		}
	}
}

// TestKilledAndRenamed rotates the file from outside before the chunk comes again: it is finished in the old one.
func TestKilledAndRenamed(t *testing.T) {
	for _, s := range []settings{{cri: true, perm: 0o640, maxLine: 10}, rawSettings} {
		first, whole := rendered(t, s, "first\n", "one\ntwo\n")
		for k := 0; k <= len(whole)-len(first); k++ {
			path := temp(t)
			dead := killAt(t, s, path, "first\n", "one\ntwo\n", k)
			if err := os.Rename(path, path+".1"); err != nil {
				t.Fatal(err)
			}
			w := openStream(t, quick(), s, sink.Stdout, path)
			dead.run(t, w)
			same(t, fmt.Sprintf("killed at %d: old file", k), read(t, path+".1"), whole)
			same(t, fmt.Sprintf("killed at %d: new file", k), read(t, path), "")
			w.put(noon, "next\n", false)
			if got := read(t, path); !strings.HasSuffix(got, "next\n") {
				t.Fatalf("the next chunk is not in the new file: %q", got)
			}
		}
	}
}

// TestKilledAndGone writes the chunk again where its file was deleted or truncated.
func TestKilledAndGone(t *testing.T) {
	s := criSettings()
	first, whole := rendered(t, s, "first\n", "one\ntwo\n")
	for name, spoil := range map[string]func(string) error{
		"deleted":   os.Remove,
		"truncated": func(path string) error { return os.Truncate(path, 0) },
		"truncated before a little was written": func(path string) error {
			return os.WriteFile(path, []byte(whole[len(first):len(first)+30]), 0)
		},
		"truncated before more was written": func(path string) error {
			return os.WriteFile(path, []byte(whole[len(first):len(first)+60]), 0)
		},
	} {
		path := temp(t)
		dead := killAt(t, s, path, "first\n", "one\ntwo\n", 10)
		if err := spoil(path); err != nil {
			t.Fatal(err)
		}
		dead.run(t, openStream(t, quick(), s, sink.Stdout, path))
		same(t, name, read(t, path), strings.TrimPrefix(whole, first))
	}
}

func TestWrittenRecords(t *testing.T) {
	const a, b = "2026-05-04T12:00:00.000000123Z stdout F a\n", "2026-05-04T12:00:00.000000123Z stdout F b\n"
	for _, c := range []struct {
		name, file string
		from, done int
		torn       bool
	}{
		{"nothing", "", 0, 0, false},
		{"all", a + b, 0, len(a + b), false},
		{"one", a, 0, len(a), false},
		{"one and a torn one", a + b[:20], 0, len(a) + 20, true},
		{"others between", "x\n" + a + "\ny\n" + b + "z", 0, len(a + b), false},
		{"another's torn tail", a + "text", 0, len(a), false},
		{"a long line before", strings.Repeat("x", 100<<10) + a + "\n" + a, 0, len(a), false},
		{"a torn one with another's behind", a + b[:20] + "text\n", 0, len(a), false},
		{"wrong order", b + a, 0, len(a), false},
		{"the first is elsewhere", b[:5], len(a), len(a) + 5, true},
	} {
		r := records{head: criHead(nil, noon, sink.Stdout), most: 9, data: []byte("a\nb\n")}
		done, torn, err := writtenRecords(strings.NewReader(c.file), &r, uint64(c.from), nil)
		if err != nil || done != uint64(c.done) || torn != c.torn {
			t.Errorf("%s: %d %v %v, want %d %v", c.name, done, torn, err, c.done, c.torn)
		}
	}
}

// TestTornTail begins to write to a file that does not end in a newline.
func TestTornTail(t *testing.T) {
	record := "2026-05-04T12:00:00.000000123Z stdout F new\n"
	for _, c := range []struct{ name, before, want string }{
		{"empty", "", record},
		{"whole", "text\n", "text\n" + record},
		{"somebody else's", "text\nmore", "text\nmore\n" + record},
		{"a record of ours", "text\n2026-05-04T11:00:00.000000000Z stdout F cu", "text\n" + record},
		{"the beginning of a time", "text\n2026-05", "text\n" + record},
		{"a time and something else", "2026-05-04 11:00:00 x", "2026-05-04 11:00:00 x\n" + record},
		{"very long", strings.Repeat("x", 3*recordMost), strings.Repeat("x", 3*recordMost) + "\n" + record},
	} {
		path := temp(t)
		if err := appendTo(path, c.before); err != nil {
			t.Fatal(err)
		}
		openStream(t, quick(), criSettings(), sink.Stdout, path).put(noon, "new\n", false)
		same(t, c.name, read(t, path), c.want)
	}
}

func TestIntentIsGolden(t *testing.T) {
	var b [intentSize]byte
	was := intent{identity{1, 2}, 3, 4}
	golden := []byte{1, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0}
	if got := was.encode(&b); !slices.Equal(got, golden) {
		t.Errorf("encoded as %v", got)
	}
	if got, ok := decodeIntent(golden); !ok || got != was {
		t.Errorf("decoded as %v %v", got, ok)
	}
	if _, ok := decodeIntent(nil); ok {
		t.Error("nothing is taken for an intent")
	}
}

func appendTo(path, text string) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o644)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = f.WriteString(text)
	return err
}
