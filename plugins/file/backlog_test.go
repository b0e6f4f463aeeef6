package file

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/muxd/muxd/sink"
)

// spoil puts a file into the place of the directory of path, so that path cannot be opened, and mend undoes that.
func spoil(t *testing.T, path string) {
	t.Helper()
	if err := os.WriteFile(filepath.Dir(path)+".away", nil, 0o600); err != nil {
		t.Fatal(err)
	}
	exchange(t, path)
}

func mend(t *testing.T, path string) {
	t.Helper()
	exchange(t, path)
	if err := os.Remove(filepath.Dir(path) + ".away"); err != nil {
		t.Fatal(err)
	}
}

// exchange does it in one step, so that nobody makes a directory there meanwhile.
func exchange(t *testing.T, path string) {
	t.Helper()
	dir := filepath.Dir(path)
	if err := unix.Renameat2(unix.AT_FDCWD, dir, unix.AT_FDCWD, dir+".away", unix.RENAME_EXCHANGE); err != nil {
		t.Fatal(err)
	}
}

// expectGaps reads a log, and says what of input was dropped where the log does not say so, or what else is wrong. What it
// counts as dropped it returns.
func expectGaps(f format, log []byte, input [2]string) (dropped [2]uint64, err error) {
	var at [2]int
	closed := [2]bool{}
	for _, line := range bytes.SplitAfter(log, []byte{'\n'}) {
		if len(line) == 0 {
			break
		}
		rec, ok := f.parse(bytes.TrimSuffix(line, []byte{'\n'}))
		if !ok {
			return dropped, fmt.Errorf("no record: %q", line)
		}
		i := numberOf(rec.Stream)
		var n int
		if _, err := fmt.Sscanf(string(rec.Text), "[muxd: %d bytes of "+outputs[i].String()+" were dropped here]", &n); err == nil {
			at[i] += n
			dropped[i] += uint64(n)
			closed[i] = false
			continue
		}
		if closed[i] {
			return dropped, fmt.Errorf("a line of %v was ended without a reason", rec.Stream)
		}
		rest := input[i][min(at[i], len(input[i])):]
		if !strings.HasPrefix(rest, string(rec.Text)) {
			return dropped, fmt.Errorf("%v at %d is %q, and the log has %q", rec.Stream, at[i], rest[:min(len(rest), 40)], rec.Text)
		}
		at[i] += len(rec.Text)
		rest = rest[len(rec.Text):]
		switch ends := rest == "" || rest[0] == '\n'; {
		case rec.Partial || !f.goesOn() && !ends:
		case ends:
			at[i] += min(1, len(rest))
		case len(rec.Text) == 0:
			closed[i] = true // the end of a line that goes on in what was dropped
		default:
			return dropped, fmt.Errorf("%v at %d: the line does not end here: %q", rec.Stream, at[i], line)
		}
	}
	for i := range at {
		if at[i] != len(input[i]) {
			return dropped, fmt.Errorf("%v ends at %d of %d", outputs[i], at[i], len(input[i]))
		}
	}
	return dropped, nil
}

// queueWorld is what outlives the processes of a queue: the memory, the file, and which chunks are committed.
type queueWorld struct {
	s        settings
	path     string
	mu       sync.Mutex // of the rest, for what looks at it from beside
	page     []byte
	ring     []byte
	next     int
	state    [2][]byte
	file     []byte // in an image
	at       string // its step
	spoiled  bool
	dropped  [2]uint64
	chunks   []queueChunk
	breaks   int // before which chunk the file cannot be written any more
	mends    int // and can again
	pictures []*queueWorld
	most     int // pictures
}

type queueChunk struct {
	stream int
	text   string
	last   bool
}

// input is what the streams say in all.
func (w *queueWorld) input() (in [2]string) {
	for _, c := range w.chunks {
		in[c.stream] += c.text
	}
	return in
}

// image is the world as a process leaves it that is killed now.
func (w *queueWorld) image(step string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.pictures) >= w.most {
		return
	}
	path := w.path
	if w.spoiled {
		path = filepath.Join(filepath.Dir(path)+".away", filepath.Base(path))
	}
	file, err := os.ReadFile(path)
	if err != nil {
		panic(err)
	}
	p := w.copy(step)
	p.file = file
	w.pictures = append(w.pictures, p)
}

func (w *queueWorld) copy(step string) *queueWorld {
	return &queueWorld{
		s: w.s, path: w.path, page: bytes.Clone(w.page), ring: bytes.Clone(w.ring), next: w.next, state: w.state,
		at: step, spoiled: w.spoiled, chunks: w.chunks, breaks: w.breaks, mends: w.mends,
	}
}

// live is a process that goes on with the world until all is put out.
func (w *queueWorld) live(t *testing.T, again bool) {
	t.Helper()
	fs := quick()
	ended := &troubles{report: func(error) {}}
	target := target{sink.Stdout, w.path}
	writer := bareStream(fs, &w.s, target, ended)
	if !again {
		var err error
		if writer, err = newStream(fs, &w.s, target, ended); err != nil {
			t.Fatal(err)
		}
	}
	writer.carried, writer.fresh, writer.claim = outputs[:], !again, claim{"o", sink.Stdout}
	label(w.page, 1, sink.Stdout)
	if again {
		fs.recovered([]sink.Pending{{Opening: "o", Memory: w.page}})
	}
	q := newBacklog(w.page, w.ring, w.s, writer, func(st sink.Stream, n uint64) { w.dropped[numberOf(st)] = n }, ended)
	q.area = q.area[:250]
	q.step = w.image
	q.resume()
	for w.next < len(w.chunks) {
		if w.next >= w.breaks && w.next < w.mends && !w.spoiled {
			w.set(t, true)
		}
		if w.next >= w.mends && w.spoiled {
			w.set(t, false)
		}
		c := w.chunks[w.next]
		offset := 0
		for _, before := range w.chunks[:w.next] {
			if before.stream == c.stream {
				offset += len(before.text)
			}
		}
		p := part{offset: uint64(offset), data: []byte(c.text), state: w.state[c.stream], time: at(w.next), last: c.last, again: again}
		again = false
		var s slot
		if err := q.put(context.Background(), outputs[c.stream], p, &s); err != nil {
			t.Fatal(err)
		}
		w.mu.Lock()
		w.state[c.stream] = s.next
		w.next++
		w.mu.Unlock()
	}
	q.halt()
	q.end()
	if err := writer.close(); err != nil {
		t.Fatal(err)
	}
}

func (w *queueWorld) set(t *testing.T, spoiled bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.spoiled = spoiled; spoiled {
		spoil(t, w.path)
	} else {
		mend(t, w.path)
	}
}

// restore makes the file what it is in an image. It stays the same file.
func (w *queueWorld) restore(t *testing.T) {
	t.Helper()
	if err := os.WriteFile(w.path, w.file, 0); err != nil {
		t.Fatal(err)
	}
	if w.spoiled {
		spoil(t, w.path)
	}
}

func (w *queueWorld) check(t *testing.T, what string) {
	t.Helper()
	log := []byte(read(t, w.path))
	in := w.input()
	if w.s.format == nil {
		if w.dropped == ([2]uint64{}) && string(log) != in[0] {
			t.Fatalf("%s:\n%q\nis not\n%q", what, log, in[0])
		}
		return
	}
	dropped, err := expectGaps(w.s.format, log, in)
	if err != nil {
		t.Fatalf("%s: %v in\n%s", what, err, log)
	}
	if dropped != [2]uint64{w.dropped[0], w.dropped[1]} {
		t.Fatalf("%s: %d bytes are told as dropped, and the log says %d:\n%s", what, w.dropped, dropped, log)
	}
}

func queueChunks(f format) (all []queueChunk) {
	for i := range 24 {
		text := fmt.Sprintf("line %d\n", i)
		switch i % 4 {
		case 1:
			text = fmt.Sprintf("this line %d is longer than a record\nand an unfinished ", i)
		case 2:
			text = fmt.Sprintf("one %d\n\n", i)
		}
		stream := 0
		if f != nil && i%3 == 0 {
			stream = 1
		}
		all = append(all, queueChunk{stream: stream, text: text})
	}
	return append(all, queueChunk{stream: 1, last: true}, queueChunk{last: true})
}

// TestQueueKilledAtEveryStep looks at what a process leaves at every step of its queue, with a file that can be written, then cannot,
// and then can, and has a successor go on from there; and successors of some of these. Every record stands in the log once, in order,
// or is counted and told of where it is missing.
func TestQueueKilledAtEveryStep(t *testing.T) {
	for _, c := range []struct {
		name   string
		format format
		policy policy
		ring   int
	}{
		{"cri, drop-oldest", cri{}, dropOldest, 700},
		{"cri, drop-newest", cri{}, dropNewest, 700},
		{"json-file, drop-newest", jsonFile{}, dropNewest, 900},
		{"json-file, spill", jsonFile{}, spill, 900},
		{"cri, with room for all", cri{}, spill, 8 << 10},
		{"raw, with room for all", nil, dropOldest, 8 << 10},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			w := &queueWorld{
				s:    settings{format: c.format, perm: 0o640, maxLine: 20, policy: c.policy},
				path: filepath.Join(t.TempDir(), "dir", "log"),
				page: make([]byte, pageSize), ring: make([]byte, c.ring), chunks: queueChunks(c.format), breaks: 6, mends: 19, most: 1 << 20,
			}
			w.live(t, false)
			w.check(t, "without a death")
			if loses := c.ring < 1000; loses != (w.dropped[0] > 0) {
				t.Fatalf("%d bytes were dropped", w.dropped)
			}
			runs := 0
			for _, first := range torn(w.pictures) {
				first.most = 3
				what := fmt.Sprintf("killed over chunk %d when %s", first.next, first.at)
				first.restore(t)
				first.live(t, true)
				first.check(t, what)
				runs++
				for _, second := range first.pictures {
					second.restore(t)
					second.live(t, true)
					second.check(t, fmt.Sprintf("%s, and over chunk %d when %s", what, second.next, second.at))
					runs++
				}
			}
			t.Logf("%d deaths", runs)
		})
	}
}

// torn adds, to the images of what was written, some in which only a part of it was.
func torn(all []*queueWorld) (out []*queueWorld) {
	for _, w := range all {
		out = append(out, w)
		if w.at != stepWritten {
			continue
		}
		f := booksIn(w.page).read().flight
		i, ok := decodeIntent(f.intent[:])
		if !ok || f.intended == 0 {
			continue
		}
		for _, k := range []int{1, 2, 3} {
			size := int(i.end) + (len(w.file)-int(i.end))*k/4
			part := w.copy(fmt.Sprintf("%d of its %d bytes are written", size-int(i.end), len(w.file)-int(i.end)))
			part.file = w.file[:size]
			out = append(out, part)
		}
	}
	return out
}
