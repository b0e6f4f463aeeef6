package socket

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/muxd/muxd/sink"
)

// queueSteps are those of a queue's protocol, where a process may die.
var queueSteps = []string{"begun", "appended", "taken", "filled", "drained", "sent a part", "sent"}

// death says where a process dies: at the n-th time that it comes to a step. The zero value lets it live.
type death struct {
	step string
	n    int
}

// world is what outlives all processes: the queue's memory, the pipe, the connection, and which chunks are committed.
type world struct {
	mem, ring []byte
	pipe      []*os.File
	conn      conn
	framing   framing
	chunks    []string
	done      int
}

// live is a process: it appends chunks and sends them, and says whether it came to the end.
func (w *world) live(t *testing.T, at death) (finished bool) {
	over := make(chan struct{})
	go func() { // so that it can end at any place
		defer close(over)
		q := newQueue(w.mem, w.ring, w.framing, block, (&sink.Retries{Report: func(error) {}}).New(), "here")
		seen := 0
		q.step = func(step string) {
			if step == at.step {
				if seen++; seen == at.n {
					runtime.Goexit()
				}
			}
		}
		var files []*os.File
		for _, f := range w.pipe {
			d, err := dupFile(f)
			if err != nil {
				t.Error(err)
				return
			}
			files = append(files, d)
		}
		var err error
		if q.pipe, err = newPipe(files); err != nil {
			t.Error(err)
			return
		}
		defer q.close()
		q.pipe.size = 1000 // a flight goes in parts
		if !q.used() {
			q.begin()
		}
		for {
			var offset uint64
			for _, c := range w.chunks[:w.done] {
				offset += uint64(len(c))
			}
			last := w.done == len(w.chunks)
			if !last {
				p := part{stream: sink.Stdout, data: []byte(w.chunks[w.done])}
				records, _ := p.records(q.framing, 100)
				if err := q.append(context.Background(), 0, offset, records); err != nil {
					t.Error(err)
					return
				}
				w.done++
			}
			for !q.sent(canceled()) {
				if err := q.take(context.Background()); err != nil {
					t.Error(err)
					return
				}
				if err := q.send(context.Background(), w.conn); err != nil {
					t.Error(err)
					return
				}
			}
			if last {
				finished = true
				return
			}
		}
	}()
	<-over
	return finished
}

func canceled() context.Context {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	return ctx
}

// Every step is a place to die, and in the recovery from there every step again. Whatever happens, the peer gets each record
// once, and in order.
func TestQueueDiesAtEveryStep(t *testing.T) {
	var deaths []death
	for _, s := range queueSteps {
		for n := 1; n <= 3; n++ {
			deaths = append(deaths, death{s, n})
		}
	}
	chunks := []string{
		strings.Repeat("a line of the first chunk\n", 100), strings.Repeat("and of the second\n", 70), "the end\n",
	}
	for name, f := range map[string]framing{"raw": rawFraming{}, "lines": linesFraming{}} {
		for _, first := range deaths {
			for _, second := range append([]death{{}}, deaths...) {
				t.Run(fmt.Sprintf("%s, %s %d, %s %d", name, first.step, first.n, second.step, second.n), func(t *testing.T) {
					a, b := connPair(t)
					r, w, err := os.Pipe()
					if err != nil {
						t.Fatal(err)
					}
					defer r.Close()
					defer w.Close()
					world := &world{
						mem: make([]byte, queueHeader), ring: make([]byte, queueLeast), pipe: []*os.File{r, w},
						conn: a, framing: f, chunks: chunks,
					}
					got := make(chan string, 1)
					go func() {
						all, _ := io.ReadAll(b)
						got <- string(all)
					}()
					if !world.live(t, first) && !world.live(t, second) && !world.live(t, death{}) {
						t.Error("it did not come to the end")
					}
					a.CloseWrite()
					if out, want := <-got, strings.Join(chunks, ""); out != want {
						t.Errorf("%d bytes came out, want %d, or not the same", len(out), len(want))
					}
				})
			}
		}
	}
}

// connPair is a connected pair of Unix stream sockets.
func connPair(t *testing.T) (a, b conn) {
	t.Helper()
	srv, at := newServer(t, "unix", temp(t))
	p := dialPeer(t, at.name)
	return srv.accept().conn, p.conn
}

// newTestQueue has a small ring.
func newTestQueue(t *testing.T, f framing, p policy) (*queue, told) {
	t.Helper()
	c := make(told, 100)
	q := newQueue(make([]byte, queueHeader), make([]byte, 1000), f, p,
		(&sink.Retries{Report: func(err error) { c <- err }}).New(), "here")
	q.begin()
	return q, c
}

// add appends lines as one chunk.
func add(t *testing.T, q *queue, offset int, lines ...string) int {
	t.Helper()
	p := part{stream: sink.Stdout, data: []byte(strings.Join(lines, "\n") + "\n")}
	records, _ := p.records(q.framing, 100)
	if err := q.append(context.Background(), 0, uint64(offset), records); err != nil {
		t.Fatal(err)
	}
	return offset + len(p.data)
}

// sentBy is what a queue sends until it is empty.
func sentBy(t *testing.T, q *queue) string {
	t.Helper()
	a, b := connPair(t)
	for !q.sent(canceled()) {
		if err := errors.Join(q.take(context.Background()), q.send(context.Background(), a)); err != nil {
			t.Fatal(err)
		}
	}
	a.CloseWrite()
	all, err := io.ReadAll(b)
	if err != nil {
		t.Fatal(err)
	}
	return string(all)
}

func TestPolicies(t *testing.T) {
	line := strings.Repeat("x", 75) // a hundred bytes in the ring: ten fit
	for _, c := range []struct {
		policy policy
		want   string
	}{
		{dropOldest, "[muxd: 82 bytes of stdout were dropped here]\n" + strings.Repeat(line+"\n", 9) + "last\n"},
		{dropNewest, "first\n" + strings.Repeat(line+"\n", 9) + "[muxd: 81 bytes of stdout were dropped here]\nafter\n"},
	} {
		q, told := newTestQueue(t, linesFraming{}, c.policy)
		at := add(t, q, 0, "first")
		lines := strings.Split(strings.Repeat(line+" ", 10), " ")[:10]
		at = add(t, q, at, lines...)
		at = add(t, q, at, "last") // does not fit with drop-newest
		dropped := q.dropped()[0]
		if err := told.next(t); err == nil || !strings.Contains(err.Error(), "the queue is full") {
			t.Errorf("%s: told %v", c.policy, err)
		}
		got := ""
		if c.policy == dropNewest {
			// What comes after the gap has the stamp before it.
			got = sentBy(t, q)
			add(t, q, at, "after")
			dropped = q.dropped()[0]
		}
		if got += sentBy(t, q); got != c.want {
			t.Errorf("%s: sent %q, want %q", c.policy, got, c.want)
		}
		if err := told.next(t); err != nil {
			t.Errorf("%s: told %v when there was room", c.policy, err)
		}
		if dropped == 0 || !strings.Contains(c.want, fmt.Sprint(dropped)) {
			t.Errorf("%s: %d bytes were dropped", c.policy, dropped)
		}
	}
}

// TestAbandon gives up what is left of a stream that has ended: the other one's is sent all the same, and what each has lost is its own.
func TestAbandon(t *testing.T) {
	q, _ := newTestQueue(t, linesFraming{}, dropOldest)
	put := func(stream int, offset uint64, text string) {
		p := part{stream: outputs[stream], data: []byte(text)}
		records, _ := p.records(q.framing, 100)
		if err := q.append(context.Background(), stream, offset, records); err != nil {
			t.Fatal(err)
		}
	}
	put(0, 0, "out of flight\n")
	if err := q.take(context.Background()); err != nil {
		t.Fatal(err)
	}
	put(1, 0, "err 1\n")
	put(0, 14, "out 1\n")
	put(1, 6, "err 2\n")
	q.abandon(1)
	if got := q.dropped(); got != [2]uint64{0, 12} {
		t.Errorf("dropped %v when stderr is given up, want 0 and 12", got)
	}
	put(0, 20, "out 2\n")
	if got, want := sentBy(t, q), "out of flight\nout 1\nout 2\n"; got != want {
		t.Errorf("sent %q, want %q", got, want)
	}
	put(0, 26, "out 3\n")
	if err := q.take(context.Background()); err != nil {
		t.Fatal(err)
	}
	put(0, 32, "out 4\n")
	q.abandon(0)
	if got := q.dropped(); got != [2]uint64{12, 12} || !q.sent(canceled()) {
		t.Errorf("dropped %v when all is given up, want 12 and 12, and nothing left", got)
	}
}

// TestMissed tells of what was missing before it came here: in its place, and with what is dropped here where that goes.
func TestMissed(t *testing.T) {
	p := part{stream: sink.Stdout, carry: []byte("begun"), data: []byte("rest\nnext\n"), missed: 7}
	for name, want := range map[string]string{
		"lines": "begun\n[muxd: 7 bytes of stdout were dropped here]\nrest\nnext\n",
		"raw":   "rest\nnext\n",
	} {
		q, _ := newTestQueue(t, newFraming(name, sink.Child{}, false, 0), dropOldest)
		records, _ := p.records(q.framing, 100)
		if err := q.append(context.Background(), 0, 0, records); err != nil {
			t.Fatal(err)
		}
		if got := sentBy(t, q); got != want {
			t.Errorf("%s: sent %q, want %q", name, got, want)
		}
	}
	q, _ := newTestQueue(t, linesFraming{}, dropOldest)
	records, _ := p.records(q.framing, 100)
	if err := q.append(context.Background(), 0, 0, records); err != nil {
		t.Fatal(err)
	}
	q.mu.Lock()
	q.dropTail() // begun
	q.dropTail() // the stamp
	q.mu.Unlock()
	if got, want := sentBy(t, q), "[muxd: 12 bytes of stdout were dropped here]\nrest\nnext\n"; got != want {
		t.Errorf("sent %q, want %q", got, want)
	}
	if got := q.dropped()[0]; got != 5 {
		t.Errorf("%d bytes were dropped here, want 5", got)
	}
}

// TestQueueBlocks has a chunk wait for room, and be given up.
func TestQueueBlocks(t *testing.T) {
	q, _ := newTestQueue(t, linesFraming{}, block)
	p := part{stream: sink.Stdout, data: bytes.Repeat([]byte("0123456789\n"), 100)}
	records, _ := p.records(q.framing, 100)
	if err := q.append(canceled(), 0, 0, records); !errors.Is(err, context.Canceled) {
		t.Errorf("a chunk that does not fit: %v", err)
	}
	// It comes again: nothing of it is there twice.
	appended := make(chan error, 1)
	go func() { appended <- q.append(context.Background(), 0, 0, records) }()
	a, b := connPair(t)
	got := make(chan string, 1)
	go func() {
		all, _ := io.ReadAll(b)
		got <- string(all)
	}()
	for n := 0; n < 100; {
		if err := q.take(context.Background()); err != nil {
			t.Fatal(err)
		}
		n += int(q.current().count)
		if err := q.send(context.Background(), a); err != nil {
			t.Fatal(err)
		}
	}
	if err := comes(t, appended); err != nil {
		t.Fatal(err)
	}
	a.CloseWrite()
	if out := <-got; out != string(p.data) {
		t.Errorf("sent %q", out)
	}
}

// TestTorn breaks the connection in the middle of a record: framings with records send it again whole, raw only the rest.
func TestTorn(t *testing.T) {
	for name, c := range map[string]struct {
		framing framing
		base    uint64
	}{"lines": {linesFraming{}, 6}, "raw": {rawFraming{}, 8}} {
		q, _ := newTestQueue(t, c.framing, block)
		add(t, q, 0, "first", "second", "third")
		if err := q.take(context.Background()); err != nil {
			t.Fatal(err)
		}
		if base := q.record(q.current(), 8); base != c.base {
			t.Errorf("%s: a record torn at byte 8 goes on at %d, want %d", name, base, c.base)
		}
	}
}

func TestGoldenFrames(t *testing.T) {
	at := time.Date(2026, 1, 2, 3, 4, 5, 6000, time.UTC)
	child := sink.Child{ID: "k3x9", Name: "we b"}
	sys := syslogFraming{octets: true, facility: 3, host: "h", app: syslogName("we b", 48)}
	out := record{stream: sink.Stdout, time: at, text: []byte("a\"\\\tb"), size: 6}
	for name, c := range map[string]struct {
		framing       framing
		want, stamped string
	}{
		"raw":    {rawFraming{}, "a\"\\\tb", ""},
		"lines":  {linesFraming{}, "a\"\\\tb\n", "[muxd: 7 bytes of stderr were dropped here]\n"},
		"docker": {dockerFraming{}, "\x01\x00\x00\x00\x00\x00\x00\x05a\"\\\tb", ""},
		"json": {newJSON(child),
			`{"time":"2026-01-02T03:04:05.000006000Z","child":"we b","stream":"stdout","text":"a\"\\\tb"}` + "\n",
			`{"time":"2026-01-02T03:04:05.000006000Z","child":"we b","stream":"stderr","dropped":7}` + "\n"},
		"syslog": {sys, "57 <30>1 2026-01-02T03:04:05.000006Z h we_b - stdout - a\"\\\tb",
			"93 <28>1 2026-01-02T03:04:05.000006Z h we_b - stderr - muxd: 7 bytes of stderr were dropped here"},
		"journald": {newJournald(child),
			"MESSAGE=a\"\\\tb\nPRIORITY=6\nSYSLOG_IDENTIFIER=we_b\nMUXD_ID=k3x9\nMUXD_STREAM=stdout\nMUXD_TIME=1767323045000006\n",
			"MESSAGE=muxd: 7 bytes of stderr were dropped here\nPRIORITY=4\nSYSLOG_IDENTIFIER=we_b\nMUXD_ID=k3x9\n" +
				"MUXD_STREAM=stderr\nMUXD_TIME=1767323045000006\nMUXD_DROPPED=7\n"},
	} {
		if got := string(c.framing.render(nil, out)); got != c.want {
			t.Errorf("%s: %q, want %q", name, got, c.want)
		}
		if got := string(c.framing.stamp(nil, sink.Stderr, at, 7)); got != c.stamped {
			t.Errorf("%s: stamp %q, want %q", name, got, c.stamped)
		}
	}
	if got := string(newJSON(child).render(nil, record{stream: sink.Stderr, time: at, text: []byte("\xff"), partial: true})); !strings.HasSuffix(got, `"stream":"stderr","base64":"/w==","partial":true}`+"\n") {
		t.Errorf("no UTF-8: %q", got)
	}
}

// TestRecords cuts a text in all ways into two chunks: the lines are the same.
func TestRecords(t *testing.T) {
	const text, most = "one\n\ntwo and three\n0123456789\n01234567890\nend", 10
	want := "one|F |F two and th|P ree|F 0123456789|F 0123456789|P 0|F end|F "
	for cut := range len(text) + 1 {
		got, size := "", 0
		var carry []byte
		for i, data := range []string{text[:cut], text[cut:]} {
			p := part{stream: sink.Stdout, carry: carry, data: []byte(data), last: i == 1}
			records, rest := p.records(linesFraming{}, most)
			for r := range records {
				tag := "F"
				if r.partial {
					tag = "P"
				}
				got += string(r.text) + "|" + tag + " "
				size += r.size
			}
			if len(rest) > most {
				t.Errorf("cut at %d: %d bytes are left", cut, len(rest))
			}
			carry = bytes.Clone(rest)
		}
		if got != want || size != len(text) {
			t.Errorf("cut at %d: %s, %d bytes; want %s, %d", cut, got, size, want, len(text))
		}
	}
}
