package file

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/muxd/muxd/sink"
)

// TestMissed puts out a chunk before which bytes are missing: the line that was begun is ended, and a record says how many. A successor
// finds out of it what stands there, wherever its predecessor was killed.
func TestMissed(t *testing.T) {
	const open, rest = "one\nbegun", "rest\nnext\n"
	for name, want := range map[string]string{
		formatCRI: "2026-05-04T12:00:00.000000123Z stdout F one\n" +
			"2026-05-04T12:00:00.000000123Z stdout F begun\n" +
			"2026-05-04T12:00:00.000000123Z stdout F [muxd: 7 bytes of stdout were dropped here]\n" +
			"2026-05-04T12:00:00.000000123Z stdout F rest\n" +
			"2026-05-04T12:00:00.000000123Z stdout F next\n",
		formatJSON: `{"log":"one\n","stream":"stdout","time":"2026-05-04T12:00:00.000000123Z"}` + "\n" +
			`{"log":"begun\n","stream":"stdout","time":"2026-05-04T12:00:00.000000123Z"}` + "\n" +
			`{"log":"[muxd: 7 bytes of stdout were dropped here]\n","stream":"stdout","time":"2026-05-04T12:00:00.000000123Z"}` + "\n" +
			`{"log":"rest\n","stream":"stdout","time":"2026-05-04T12:00:00.000000123Z"}` + "\n" +
			`{"log":"next\n","stream":"stdout","time":"2026-05-04T12:00:00.000000123Z"}` + "\n",
		formatRaw: open + rest,
	} {
		s := criSettings()
		s.format = formats[name]
		path := temp(t)
		w := openStream(t, quick(), s, sink.Stdout, path)
		w.put(noon, open, false)
		before := read(t, path)
		p := part{data: []byte(rest), state: w.slot.state, missed: 7, time: noon}
		if err := w.w.put(context.Background(), p, &w.slot); err != nil {
			t.Fatal(err)
		}
		same(t, name, read(t, path), want)
		intent := w.slot.intent
		w.w.close()
		for n := len(before); n <= len(want); n++ {
			if err := os.WriteFile(path, []byte(want[:n]), 0); err != nil {
				t.Fatal(err)
			}
			again := slot{earlier: intent}
			p.again = true
			next := openStream(t, quick(), s, sink.Stdout, path)
			if err := next.w.put(context.Background(), p, &again); err != nil {
				t.Fatal(err)
			}
			next.w.close()
			same(t, name+", killed and come again", read(t, path), want)
		}
	}
}

// TestMissedInQueue tells of it behind a queue too, together with what is dropped there where that goes.
func TestMissedInQueue(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	p := openPoliced(t, path, map[string]string{"policy": "drop-oldest"})
	q := p.k.queues[sink.Stdout]
	p.must(sink.Stdout, "begun", false)
	var s slot
	if err := q.put(context.Background(), sink.Stdout, part{offset: 5, data: []byte("rest\n"), state: p.states[0], missed: 7, time: noon}, &s); err != nil {
		t.Fatal(err)
	}
	p.written()
	var texts []string
	for line := range strings.Lines(read(t, path)) {
		texts = append(texts, line[strings.Index(line, " F ")+3:])
	}
	same(t, "the texts", strings.Join(texts, ""), "begun\n[muxd: 7 bytes of stdout were dropped here]\nrest\n")
	q.mu.Lock()
	q.enter(entry{gap: true, size: 3, nanos: noon.UnixNano()}, nil)
	q.dropTail()
	gap, dropped := q.now.stream[0].gap, q.now.stream[0].dropped
	q.now.stream[0].gap = 0
	q.mu.Unlock()
	if gap != 3 || dropped != 0 {
		t.Errorf("of an entry that is dropped and tells of 3 bytes, %d are to be told and %d count as dropped here, want 3 and 0", gap, dropped)
	}
}
