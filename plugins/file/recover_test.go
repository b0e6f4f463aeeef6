package file

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
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
	w.w.files.jobs.Wait() // what it had begun does not outlive a process
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
	records := settings{format: cri{}, perm: 0o640, maxLine: 10}
	dir := t.TempDir()
	for _, s := range []settings{records, rawSettings} {
		for _, c := range killedChunks {
			first, whole := rendered(t, s, c.before, c.text)
			length := len(whole) - len(first)
			if length == 0 {
				continue
			}
			for k := -1; k <= length; k++ {
				path := filepath.Join(dir, fmt.Sprint(s.format != nil, c.name, k))
				dead := killAt(t, s, path, c.before, c.text, k)
				w := openStream(t, quick(), s, sink.Stdout, path)
				dead.run(t, w)
				same(t, fmt.Sprintf("records %v, %s, killed at %d of %d", s.format != nil, c.name, k, length), read(t, path), whole)

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
					same(t, fmt.Sprintf("records %v, %s, killed at %d and %d", s.format != nil, c.name, k, k2), read(t, path), whole)
					same(t, "state", string(w.slot.state), string(state))
					w.w.close()
				}
			}
		}
	}
}

// TestKilledComesFirst lets another stream of the file have output before the chunk comes again: it waits, and the
// chunk stands before it.
func TestKilledComesFirst(t *testing.T) {
	for _, s := range []settings{{format: cri{}, perm: 0o640, maxLine: 10}, rawSettings} {
		for _, c := range killedChunks[:3] {
			first, whole := rendered(t, s, c.before, c.text)
			for k := 1; k < len(whole)-len(first); k += 3 {
				if s.format != nil && whole[len(first)+k-1] == '\n' {
					continue // nothing is torn, and the others need not wait
				}
				what := fmt.Sprintf("records %v, %s, killed at %d", s.format != nil, c.name, k)
				path := temp(t)
				dead := killAt(t, s, path, c.before, c.text, k)
				synctest.Test(t, func(t *testing.T) {
					before := read(t, path)
					fs := quick()
					mine, other := openStream(t, fs, s, sink.Stdout, path), openStream(t, fs, s, sink.Stderr, path)
					mine.w.claim, mine.w.fresh = claim{"o", sink.Stdout}, false
					fs.recovered([]sink.Pending{{Opening: "o", Stream: sink.Stdout, Intent: dead.slot.earlier}})
					var done sync.WaitGroup
					done.Go(func() { other.put(noon.Add(2*time.Second), "other\n", false) })
					synctest.Wait()
					same(t, what+": before the chunk came again", read(t, path), before)
					dead.run(t, mine)
					done.Wait()
				})
				want := "other\n"
				if s.format != nil {
					want = "2026-05-04T12:00:02.000000123Z stderr F other\n"
				}
				same(t, what, read(t, path), whole+want)
			}
		}
	}
}

// TestKilledNeverComes does not hold others up for ever.
func TestKilledNeverComes(t *testing.T) {
	path := temp(t)
	dead := killAt(t, rawSettings, path, "first\n", "lost\n", 2)
	synctest.Test(t, func(t *testing.T) {
		fs := quick()
		other := openStream(t, fs, rawSettings, sink.Stderr, path)
		fs.recovered([]sink.Pending{{Opening: "o", Stream: sink.Stdout, Intent: dead.slot.earlier}})
		start := time.Now()
		other.put(noon, "other\n", false)
		if waited := time.Since(start); waited != pendingMost {
			t.Errorf("it waited for %v", waited)
		}
	})
	same(t, "file", read(t, path), "first\nloother\n")
}

// TestKilledAndRenamed rotates the file from outside before the chunk comes again: what was begun is finished in the old
// one.
func TestKilledAndRenamed(t *testing.T) {
	for _, s := range []settings{{format: cri{}, perm: 0o640, maxLine: 10}, rawSettings} {
		first, whole := rendered(t, s, "first\n", "one\ntwo\n")
		for k := 0; k <= len(whole)-len(first); k++ {
			path := temp(t)
			dead := killAt(t, s, path, "first\n", "one\ntwo\n", k)
			if err := os.Rename(path, path+".1"); err != nil {
				t.Fatal(err)
			}
			w := openStream(t, quick(), s, sink.Stdout, path)
			dead.run(t, w)
			old := read(t, path+".1")
			same(t, fmt.Sprintf("killed at %d", k), old+read(t, path), whole)
			if k > 0 && s.format != nil && !strings.HasSuffix(old, "\n") {
				t.Fatalf("killed at %d: a record is torn: %q", k, old)
			}
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
		r := rendering{records: records{format: cri{}, stamp: cri{}.stamp(nil, noon, sink.Stdout), most: 9, data: []byte("a\nb\n")}}
		done, torn, err := writtenRecords(strings.NewReader(c.file), &r, uint64(c.from), nil)
		if err != nil || done != uint64(c.done) || torn != c.torn {
			t.Errorf("%s: %d %v %v, want %d %v", c.name, done, torn, err, c.done, c.torn)
		}
	}
}

func TestIntentIsGolden(t *testing.T) {
	var b [intentSize]byte
	was := intent{identity{1, 2}, 6, time.Unix(0, 5), 3, 4}
	golden := make([]byte, 0, intentSize)
	for _, n := range []uint64{1, 2, 3, 4, 5, 6} {
		golden = binary.LittleEndian.AppendUint64(golden, n)
	}
	if got := was.encode(&b); !slices.Equal(got, golden) {
		t.Errorf("encoded as %v", got)
	}
	if got, ok := decodeIntent(golden); !ok || got != was {
		t.Errorf("decoded as %v %v", got, ok)
	}
	if got, ok := decodeIntent(make([]byte, intentSize)); !ok || got != (intent{}) {
		t.Errorf("zeros are decoded as %v %v", got, ok)
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
