package file

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/muxd/muxd/sink"
)

// policed is a sink with a policy.
type policed struct {
	t      *testing.T
	k      *fileSink
	fs     *files
	s      settings
	o      *opening
	told   told
	states [2][]byte
	sent   [2]int
	n      atomic.Int64
}

func openPoliced(t *testing.T, path string, options map[string]string) *policed {
	t.Helper()
	p := &policed{t: t, told: make(told, 100), fs: quick()}
	p.o = &opening{report: func(err error) { p.told <- err }}
	var err error
	if p.s, err = parseSettings(request(t, path, options)); err != nil {
		t.Fatal(err)
	}
	p.open(false)
	t.Cleanup(func() { p.k.Close() })
	return p
}

func (p *policed) open(again bool) {
	p.t.Helper()
	var err error
	if p.k, err = newFileSink(p.fs, p.s, "o", p.o, again); err != nil {
		p.t.Fatal(err)
	}
}

// put puts out a chunk, or the end, and returns how long that took.
func (p *policed) put(ctx context.Context, st sink.Stream, text string, last bool) (time.Duration, error) {
	i := numberOf(st)
	var s slot
	begun := time.Now()
	err := p.k.queues[st].put(ctx, st, part{
		offset: uint64(p.sent[i]), data: []byte(text), state: p.states[i], time: at(int(p.n.Add(1))), last: last,
	}, &s)
	if err == nil {
		p.states[i] = bytes.Clone(s.next)
		p.sent[i] += len(text)
	}
	return time.Since(begun), err
}

func (p *policed) must(st sink.Stream, text string, last bool) {
	p.t.Helper()
	if _, err := p.put(context.Background(), st, text, last); err != nil {
		p.t.Fatal(err)
	}
}

// written waits until everything is.
func (p *policed) written() {
	for _, q := range p.k.queues {
		q.mu.Lock()
		for !q.idle() {
			q.change.Wait()
		}
		q.mu.Unlock()
	}
}

// TestPolicies has the file fail under a stream that writes four times what the queue holds, and looks at what is kept.
func TestPolicies(t *testing.T) {
	line := func(i int) string { return fmt.Sprintf("%05d %s\n", i, strings.Repeat("x", 993)) }
	for _, c := range []struct {
		policy      string
		first, last bool // whether what came first, and what came last, is kept
	}{
		{"drop-oldest", false, true}, {"drop-newest", true, false}, {"spill", false, true},
	} {
		t.Run(c.policy, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "dir", "log")
			p := openPoliced(t, path, map[string]string{"policy": c.policy, "queue": "256KiB", "spill-dir": t.TempDir()})
			p.must(sink.Stdout, line(0), false)
			if got := read(t, path); !strings.HasSuffix(got, line(0)) {
				t.Fatalf("a line counts, and the file has %q", got)
			}
			spoil(t, path)
			for i := 1; i <= 1000; i++ {
				took, err := p.put(context.Background(), sink.Stdout, line(i), false)
				if err != nil {
					t.Fatal(err)
				}
				if i > 1 && took > patience { // the first one finds out
					t.Fatalf("line %d was held up for %v", i, took)
				}
			}
			if err := p.told.next(t); err == nil || !strings.Contains(err.Error(), "one of its parents is a file") {
				t.Errorf("told %v", err)
			}
			which := map[bool]string{true: "oldest", false: "newest"}[c.last]
			if err := p.told.next(t); err == nil || !strings.HasSuffix(err.Error(), "one of its parents is a file; the queue is full, and the "+
				which+" output is dropped") {
				t.Errorf("told %v", err)
			}
			dropped := p.o.dropped[0].Load()
			if dropped < 700<<10 || dropped > 800<<10 {
				t.Errorf("%d bytes were dropped", dropped)
			}
			mend(t, path)
			p.written()
			if err := p.told.next(t); err != nil {
				t.Errorf("told %v when it was over", err)
			}
			p.must(sink.Stdout, "after\n", false)
			p.must(sink.Stderr, "", true)
			p.must(sink.Stdout, "", true)
			var in [2]string
			for i := range 1001 {
				in[0] += line(i)
			}
			in[0] += "after\n"
			log := read(t, path)
			noted, err := expectGaps(cri{}, []byte(log), in)
			if err != nil {
				t.Fatal(err)
			}
			if noted[0] != dropped {
				t.Errorf("the log says that %d bytes were dropped, and it is told of %d", noted[0], dropped)
			}
			if strings.Contains(log, line(3)) != c.first || strings.Contains(log, line(1000)) != c.last || !strings.Contains(log, "after\n") {
				t.Errorf("of the first and the last there is %v %v", strings.Contains(log, line(3)), strings.Contains(log, line(1000)))
			}
		})
	}
}

// TestGapInEveryFormat ends a line that goes on before the log says what is missing, and says that by itself, without more output.
func TestGapInEveryFormat(t *testing.T) {
	for format, want := range map[string]string{
		"cri": "2026-05-04T12:00:00.000000123Z stderr P 0123456789\n2026-05-04T12:00:00.000000123Z stderr F \n" +
			"2026-05-04T12:00:00.000000123Z stderr F [muxd: 7 bytes of stderr were dropped here]\n" +
			"2026-05-04T12:00:00.000000123Z stderr F next\n",
		"json-file": `{"log":"0123456789","stream":"stderr","time":"2026-05-04T12:00:00.000000123Z"}` + "\n" +
			`{"log":"\n","stream":"stderr","time":"2026-05-04T12:00:00.000000123Z"}` + "\n" +
			`{"log":"[muxd: 7 bytes of stderr were dropped here]\n","stream":"stderr","time":"2026-05-04T12:00:00.000000123Z"}` + "\n" +
			`{"log":"next\n","stream":"stderr","time":"2026-05-04T12:00:00.000000123Z"}` + "\n",
		"iso": "2026-05-04 12:00:00.000000123  0123456789\n2026-05-04 12:00:00.000000123  [muxd: 7 bytes of stderr were dropped here]\n" +
			"2026-05-04 12:00:00.000000123  next\n",
		"raw": "0123456789next\n",
	} {
		path := temp(t)
		p := openPoliced(t, path, map[string]string{"format": format, "policy": "drop-newest", "max-line": "10"})
		q := p.k.queues[sink.Stderr]
		q.mu.Lock()
		f := p.s.format
		add := func(text string, full bool) {
			b := []byte(text)
			if f != nil {
				b = f.record(nil, f.stamp(nil, noon, sink.Stderr), b, full)
			} else if full {
				b = append(b, '\n')
			}
			q.add(entry{length: len(b), stream: 1, partial: !full && f != nil && f.goesOn(), nanos: noon.UnixNano()}, b)
		}
		add("0123456789", false)
		q.drop(entry{stream: 1, size: 7})
		add("next", true)
		q.start()
		q.mu.Unlock()
		p.written()
		same(t, format, read(t, path), want)
		<-p.told
		<-p.told
	}
}

// TestGapIsNotEarlier than what stands before it.
func TestGapIsNotEarlier(t *testing.T) {
	path := temp(t)
	p := openPoliced(t, path, map[string]string{"policy": "drop-newest"})
	q := p.k.queues[sink.Stdout]
	q.mu.Lock()
	for i := range 2 {
		b := q.settings.format.record(nil, q.settings.format.stamp(nil, at(i), sink.Stdout), []byte("line"), true)
		q.add(entry{length: len(b), nanos: at(i).UnixNano()}, b)
	}
	q.drop(entry{size: 7})
	q.start()
	q.mu.Unlock()
	p.written()
	same(t, "times", read(t, path), "2026-05-04T12:00:00.000000123Z stdout F line\n2026-05-04T12:00:01.000000123Z stdout F line\n"+
		"2026-05-04T12:00:01.000000123Z stdout F [muxd: 7 bytes of stdout were dropped here]\n")
	<-p.told
	<-p.told
}

// TestSpillOutlives has a process end with a queue in a file, and another write what is there.
func TestSpillOutlives(t *testing.T) {
	path := filepath.Join(t.TempDir(), "dir", "log")
	p := openPoliced(t, path, map[string]string{"policy": "spill", "format": "raw", "spill-dir": t.TempDir()})
	spoil(t, path)
	want := ""
	for i := range 100 {
		text := fmt.Sprintf("line %d\n", i)
		want += text
		p.must(sink.Stdout, text, false)
	}
	if err := p.k.Close(); err != nil {
		t.Fatal(err)
	}
	mend(t, path)
	p.fs = quick()
	p.open(true)
	p.written()
	same(t, "what the successor has written", read(t, path), want)
	if p.o.dropped[0].Load() != 0 {
		t.Error("something was dropped")
	}
}

// TestEndWithoutAFile ends a child whose file cannot be written: what is dropped otherwise is dropped soon, and what is spilled is kept
// as long as ctx lasts, and its bytes are named then.
func TestEndWithoutAFile(t *testing.T) {
	for _, c := range []string{"drop-oldest", "drop-newest", "spill"} {
		t.Run(c, func(t *testing.T) {
			t.Parallel()
			path := filepath.Join(t.TempDir(), "dir", "log")
			p := openPoliced(t, path, map[string]string{"policy": c, "spill-dir": t.TempDir()})
			p.must(sink.Stdout, "there\n", false)
			spoil(t, path)
			p.must(sink.Stdout, "lost\nunfinished", false)
			p.must(sink.Stderr, "lost too\n", false)
			ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
			defer cancel()
			if c == "spill" {
				cancel()
				_, err := p.put(ctx, sink.Stdout, "", true)
				if err == nil || !strings.Contains(err.Error(), "the stream was given up, and 15 bytes of it were not put out: open ") {
					t.Errorf("the end is %v", err)
				}
				return
			}
			done := make(chan error)
			begun := time.Now()
			go func() {
				_, err := p.put(ctx, sink.Stdout, "", true)
				done <- err
			}()
			select {
			case err := <-done:
				t.Fatalf("it ended at once, while stderr goes on: %v", err)
			case <-time.After(lingerTime / 4):
			}
			for _, err := range []error{p.end(ctx, sink.Stderr), <-done} {
				if err != nil {
					t.Error(err)
				}
			}
			if took := time.Since(begun); took < lingerTime || took > 5*lingerTime {
				t.Errorf("the end took %v", took)
			}
			if p.o.dropped[0].Load() != 15 || p.o.dropped[1].Load() != 9 {
				t.Errorf("dropped are %d and %d", p.o.dropped[0].Load(), p.o.dropped[1].Load())
			}
			mend(t, path)
			if got := read(t, path); !strings.HasSuffix(got, "there\n") {
				t.Errorf("the file has %q", got)
			}
		})
	}
}

func (p *policed) end(ctx context.Context, st sink.Stream) error {
	_, err := p.put(ctx, st, "", true)
	return err
}

// TestSlowFile has a FIFO whose reader does not read: the child waits for a moment, and then not any more.
func TestSlowFile(t *testing.T) {
	path := temp(t)
	if err := unix.Mkfifo(path, 0o600); err != nil {
		t.Fatal(err)
	}
	reader, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer reader.Close()
	p := openPoliced(t, path, map[string]string{"policy": "drop-oldest", "format": "iso", "queue": "256KiB"})
	text := strings.Repeat(strings.Repeat("x", 99)+"\n", 100)
	waited, want := 0, ""
	for range 100 {
		took, err := p.put(context.Background(), sink.Stdout, text, false)
		if err != nil {
			t.Fatal(err)
		}
		if took > patience {
			waited++
		}
		want += text
	}
	if waited > 1 {
		t.Errorf("the child was held up %d times", waited)
	}
	if err := p.told.next(t); err == nil || !strings.Contains(err.Error(), "log: it takes longer than 100ms; the queue is full, and the oldest") {
		t.Errorf("told %v", err)
	}
	dropped := p.o.dropped[0].Load()
	got := make(chan []byte)
	go func() {
		b, _ := io.ReadAll(reader)
		got <- b
	}()
	p.written()
	p.must(sink.Stderr, "", true)
	p.must(sink.Stdout, "", true)
	if err := p.k.Close(); err != nil {
		t.Fatal(err)
	}
	if noted, err := expectGaps(iso{}, <-got, [2]string{want}); err != nil || noted[0] != dropped {
		t.Errorf("%d bytes were dropped, the log says %d, %v", dropped, noted[0], err)
	}
}

func TestPolicyRefused(t *testing.T) {
	for _, c := range []struct {
		options map[string]string
		err     string
	}{
		{map[string]string{"queue": "1MiB"}, "queue with policy=block"},
		{map[string]string{"policy": "spill", "queue": "1KiB"}, "want 256KiB to 1GiB"},
		{map[string]string{"policy": "spill", "mode": "direct"}, "policy=spill with mode=direct"},
	} {
		if _, err := Plugin().Check(request(t, "/a", c.options)); err == nil || !strings.Contains(err.Error(), c.err) {
			t.Errorf("%v: %v, want %q", c.options, err, c.err)
		}
	}
	s, err := parseSettings(request(t, temp(t), map[string]string{"policy": "spill", "spill-dir": "/nowhere"}))
	if err != nil {
		t.Fatal(err)
	}
	_, err = newFileSink(quick(), s, "o", &opening{}, false)
	if err == nil || !strings.Contains(err.Error(), "make a spill file in /nowhere: no such file or directory; choose another directory with spill-dir=") {
		t.Errorf("a spill file: %v", err)
	}
}
