package file

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/muxd/muxd/sink"
)

// whatStands is what all files of a series hold, from the oldest on, and their names.
func whatStands(t *testing.T, path string) (text string, names []string) {
	t.Helper()
	all, err := seriesOf(path).members()
	if err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	for _, m := range whole(all) {
		f, err := os.Open(filepath.Join(filepath.Dir(path), m.name))
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		var r io.Reader = f
		if m.packed != "" {
			if r, err = unpacker(f, m.packed); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := io.Copy(&b, r); err != nil {
			t.Fatalf("%s: %v", m.name, err)
		}
		names = append(names, m.name)
	}
	return b.String(), names
}

func rotating(f format, size int64, pack string) settings {
	return settings{format: f, perm: 0o640, maxLine: 10, rotation: rotation{size: size}, retention: retention{pack: pack}}
}

// TestRotationBySize keeps every record whole and in order, in files that are not larger than they may be.
func TestRotationBySize(t *testing.T) {
	for _, s := range []settings{rotating(cri{}, 150, ""), rotating(cri{}, 10, ""), rotating(nil, 100, packZstd), rotating(nil, 40, packGzip)} {
		path := temp(t)
		fs := quick()
		out, errs := openStream(t, fs, s, sink.Stdout, path), openStream(t, fs, s, sink.Stderr, path)
		plain := s
		plain.rotation, plain.retention = rotation{}, retention{}
		one := temp(t)
		once := quick()
		outOnce, errsOnce := openStream(t, once, plain, sink.Stdout, one), openStream(t, once, plain, sink.Stderr, one)
		for i := range 40 {
			text := strings.Repeat(fmt.Sprintf("line %d\n", i), 1+i%3*7)
			for _, w := range []*testStream{out, outOnce} {
				w.put(at(i), text, false)
			}
			for _, w := range []*testStream{errs, errsOnce} {
				w.put(at(i), "a long line of stderr\n", false)
			}
		}
		fs.jobs.Wait()
		got, names := whatStands(t, path)
		same(t, fmt.Sprint(s.rotation.size), got, read(t, one))
		if len(names) < 10 || names[len(names)-1] != "log" {
			t.Fatalf("%d files, %v", len(names), names)
		}
		for i, name := range names[:len(names)-1] {
			if i > 0 && name <= names[i-1] {
				t.Fatalf("%s comes after %s", name, names[i-1])
			}
			if want := ".done"; s.retention.pack == "" && !strings.HasSuffix(name, want) || !strings.Contains(name, want) {
				t.Fatalf("a file is called %s", name)
			}
			if s.retention.pack == "" {
				text := read(t, filepath.Join(filepath.Dir(path), name))
				if int64(len(text)) > s.rotation.size && strings.Count(text, "\n") > 1 || !strings.HasSuffix(text, "\n") {
					t.Fatalf("%s has %d bytes: %q", name, len(text), text)
				}
			} else if !strings.HasSuffix(name, "."+s.retention.pack) {
				t.Fatalf("%s is not compressed", name)
			}
		}
	}
}

// TestRotationByTime rotates with the first output of another period, also when that was of an earlier process.
func TestRotationByTime(t *testing.T) {
	day := func(h int) time.Time { return time.Date(2026, 5, 4, h, 30, 0, 0, time.Local) }
	for _, c := range []struct {
		name  string
		r     rotation
		hours []int
		want  string
	}{
		{"daily", rotation{daily: true}, []int{0, 5, 23, 24, 25, 48}, "0 5 23|24 25|48"},
		{"hourly", rotation{every: time.Hour}, []int{0, 0, 1, 3, 3}, "0 0|1|3 3"},
		{"6h", rotation{every: 6 * time.Hour}, []int{4, 5, 6, 11, 12}, "4 5|6 11|12"},
		{"backwards", rotation{every: time.Hour}, []int{4, 3, 5}, "4 3|5"},
		{"never", rotation{}, []int{0, 100}, "0 100"},
	} {
		for _, restarts := range []bool{false, true} {
			path := temp(t)
			s := settings{perm: 0o600, rotation: c.r}
			w := openStream(t, quick(), s, sink.Stdout, path)
			for _, h := range c.hours {
				if restarts {
					w.w.close()
					w = openStream(t, quick(), s, sink.Stdout, path)
				}
				w.put(day(h), fmt.Sprintln(h), false)
				if err := os.Chtimes(path, day(h), day(h)); err != nil { // the clock of this test is its own
					t.Fatal(err)
				}
			}
			_, names := whatStands(t, path)
			var got []string
			for _, name := range names {
				got = append(got, strings.Join(strings.Fields(read(t, filepath.Join(filepath.Dir(path), name))), " "))
			}
			same(t, fmt.Sprintf("%s, restarts %v", c.name, restarts), strings.Join(got, "|"), c.want)
		}
	}
}

// TestRotationNames are unique and in order when the clock is set back, and a file that was found torn says so.
func TestRotationNames(t *testing.T) {
	path := temp(t)
	if err := appendTo(path, "2026-05-04T12:00:00.000000123Z stdout F tor"); err != nil {
		t.Fatal(err)
	}
	s := rotating(cri{}, 60, "")
	w := openStream(t, quick(), s, sink.Stdout, path)
	for _, at := range []int{10, 9, 0, 9, 20} {
		w.put(noon.Add(time.Duration(at)*time.Second), "0123456789\n", false)
	}
	_, names := whatStands(t, path)
	want := []string{
		"log.20260504T120010.000000123Z.torn", "log.20260504T120010.000000124Z.done", "log.20260504T120010.000000125Z.done",
		"log.20260504T120010.000000126Z.done", "log.20260504T120020.000000123Z.done", "log",
	}
	if !slices.Equal(names, want) && !slices.Equal(names[1:], want[1:]) {
		t.Errorf("files\n%s\nwant\n%s", strings.Join(names, "\n"), strings.Join(want, "\n"))
	}
}

// TestRotationOnDemand rotates a file that has something in it, and nothing is lost to a stream that has it open.
func TestRotationOnDemand(t *testing.T) {
	path := temp(t)
	fs := quick()
	fs.lookAgain = time.Hour // nobody finds out by looking
	w, other := openStream(t, fs, criSettings(), sink.Stdout, path), openStream(t, fs, criSettings(), sink.Stderr, path)
	if err := w.w.rotate(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, names := whatStands(t, path); len(names) != 1 {
		t.Errorf("an empty file was rotated: %v", names)
	}
	w.put(noon, "one\n", false)
	other.put(noon, "two\n", false)
	if err := w.w.rotate(t.Context()); err != nil {
		t.Fatal(err)
	}
	other.put(noon, "three\n", false)
	w.put(noon, "four\n", false)
	const head = "2026-05-04T12:00:00.000000123Z "
	same(t, "the new file", read(t, path), head+"stderr F three\n"+head+"stdout F four\n")
	text, names := whatStands(t, path)
	if len(names) != 2 || strings.Count(text, "\n") != 4 {
		t.Errorf("%v: %q", names, text)
	}
}

// TestRotationOfALink rotates what a symbolic link points to, and not the link.
func TestRotationOfALink(t *testing.T) {
	dir := t.TempDir()
	path, link := filepath.Join(dir, "log"), filepath.Join(dir, "link")
	if err := os.Symlink("log", link); err != nil {
		t.Fatal(err)
	}
	w := openStream(t, quick(), rotating(nil, 5, ""), sink.Stdout, link)
	for _, text := range []string{"one\n", "two\n", "three\n"} {
		w.put(noon, text, false)
	}
	same(t, "the new file", read(t, link), "\n")
	if info, err := os.Lstat(link); err != nil || info.Mode()&os.ModeSymlink == 0 {
		t.Errorf("the link is %v, %v", info, err)
	}
	if text, names := whatStands(t, path); len(names) != 4 || text != "one\ntwo\nthree\n" {
		t.Errorf("files %v: %q", names, text)
	}
}

// TestRotationFails writes on where a file cannot be rotated.
func TestRotationFails(t *testing.T) {
	path := filepath.Join(t.TempDir(), strings.Repeat("x", 240)) // with a time behind it the name is too long
	w := openStream(t, quick(), rotating(nil, 5, ""), sink.Stdout, path)
	for _, text := range []string{"one\n", "two\n", "three\n"} {
		w.put(noon, text, false)
	}
	same(t, "the file", read(t, path), "one\ntwo\nthree\n")
}

// TestKeeping deletes what is too much, the oldest first, and nothing that is somebody else's.
func TestKeeping(t *testing.T) {
	now := time.Now().UTC()
	name := func(hours int) string { return rotatedName("log", now.Add(-time.Duration(hours)*time.Hour), false) }
	foreign := []string{"log.1", "log.gz", "log.20260504T120000.000000123Z.donut", "other." + name(5), "log.zst.part"}
	for _, c := range []struct {
		name string
		r    retention
		want []int // hours
	}{
		{"all", retention{age: 1000 * time.Hour}, []int{9, 5, 3, 1}},
		{"two", retention{keep: 2}, []int{3, 1}},
		{"four hours", retention{age: 4 * time.Hour}, []int{3, 1}},
		{"all of 350 bytes", retention{total: 350}, []int{3, 1}},
		{"none", retention{total: 50}, nil},
		{"one, and all of 350 bytes", retention{keep: 1, total: 350}, []int{1}},
	} {
		dir := t.TempDir()
		for _, h := range []int{9, 5, 3, 1} {
			if err := appendTo(filepath.Join(dir, name(h)), strings.Repeat("x", 100)); err != nil {
				t.Fatal(err)
			}
		}
		for _, f := range append(foreign, "log") {
			if err := appendTo(filepath.Join(dir, f), strings.Repeat("x", 100)); err != nil {
				t.Fatal(err)
			}
		}
		fs := quick()
		fs.tidy(seriesOf(filepath.Join(dir, "log")), settings{retention: c.r})
		fs.jobs.Wait()
		var want, got []string
		for _, h := range c.want {
			want = append(want, name(h))
		}
		want = append(want, "log")
		for _, f := range foreign {
			if _, err := os.Stat(filepath.Join(dir, f)); err != nil {
				t.Errorf("%s: %v", c.name, err)
			}
		}
		all, err := seriesOf(filepath.Join(dir, "log")).members()
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range all {
			got = append(got, m.name)
		}
		if !slices.Equal(got, want) {
			t.Errorf("%s: left are %v, want %v", c.name, got, want)
		}
	}
}

// TestDateInPath goes on in another file with another day, and compresses those of former days.
func TestDateInPath(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "log-{date}.txt")
	s := settings{format: cri{}, perm: 0o600, maxLine: 100, retention: retention{pack: packZstd, keep: 2}}
	fs := quick()
	w := openStream(t, fs, s, sink.Stdout, path)
	for day := range 4 {
		w.put(noon.AddDate(0, 0, day), "before "+fmt.Sprint(day)+"\nacross", false)
	}
	w.put(noon.AddDate(0, 0, 4), "\n", true)
	fs.tidy(seriesOf(path), s)
	fs.jobs.Wait()
	text, names := whatStands(t, path)
	want := []string{"log-2026-05-06.txt.zst", "log-2026-05-07.txt.zst", "log-2026-05-08.txt", filepath.Base(pathAt(path, time.Now()))}
	if time.Now().Before(noon.AddDate(0, 0, 5)) || strings.Count(text, "\n") != 3 {
		t.Errorf("%q", text)
	}
	if !slices.Equal(names, want) {
		t.Errorf("files %v, want %v", names, want)
	}
}

// dying is a process that takes no step after the n-th of a kind.
type dying struct {
	at   string
	n    int // 0: it lives
	mu   sync.Mutex
	seen int
}

func (d *dying) step(s string) {
	if s != d.at {
		return
	}
	d.mu.Lock()
	d.seen++
	over := d.n > 0 && d.seen >= d.n
	d.mu.Unlock()
	if over {
		runtime.Goexit()
	}
}

// lives runs one process: it puts out the chunks of input from the one on that the slot says. It returns when it is done, or
// dead. The slot is what outlives it.
func lives(t *testing.T, s settings, path string, chunks []string, next int, slot *slot, d *dying, again bool) int {
	fs := quick()
	fs.step = d.step
	ended := make(chan struct{})
	var w *stream
	go func() {
		defer close(ended)
		if mark := slot.earlier; again && mark != nil {
			fs.recovered([]sink.Pending{{Opening: "o", Stream: sink.Stdout, Intent: mark}})
		}
		var err error
		if w, err = newStream(fs, &s, target{sink.Stdout, path}, quiet(t)); err != nil {
			t.Error(err)
			return
		}
		w.claim, w.fresh = claim{"o", sink.Stdout}, !again
		for ; next < len(chunks); next++ {
			p := part{data: []byte(chunks[next]), state: bytes.Clone(slot.state), time: at(next), again: again}
			if err := w.put(context.Background(), p, slot); err != nil {
				t.Errorf("put: %v", err)
				return
			}
			slot.commit()
			again = false
		}
	}()
	<-ended
	fs.jobs.Wait() // the process ends as a whole, but a step that was not the last may be anybody's
	if w != nil {
		w.close()
	}
	slot.restart()
	return next
}

// TestKilledAtEveryStepOfARotation ends a process at every step of rotating and of compressing, and its successor again.
// The files together hold every record once and in order.
func TestKilledAtEveryStepOfARotation(t *testing.T) {
	var chunks []string
	n := 0
	for i := range 12 {
		var b strings.Builder
		for range 1 + i%5*4 {
			n++
			fmt.Fprintf(&b, "%d\n", n)
		}
		chunks = append(chunks, b.String())
	}
	steps := []string{stepSynced, stepRenamed, stepMade, stepIntent, stepPacking, stepPacked, stepNamed, stepRemoved}
	for _, s := range []settings{rotating(cri{}, 200, packZstd), rotating(nil, 20, packGzip)} {
		for _, first := range steps {
			for count := range 2 {
				for _, second := range steps {
					path := temp(t)
					var slot slot
					what := fmt.Sprintf("records %v, killed when %s for the %d. time, and when %s", s.format != nil, first, count+1, second)
					next := lives(t, s, path, chunks, 0, &slot, &dying{at: first, n: count + 1}, false)
					next = lives(t, s, path, chunks, next, &slot, &dying{at: second, n: 1}, true)
					if next = lives(t, s, path, chunks, next, &slot, &dying{}, true); next != len(chunks) {
						t.Fatalf("%s: it does not end", what)
					}
					got, names := whatStands(t, path)
					if s.format != nil {
						got = strings.Join(readPublished(t, []byte(got), 10)["stdout"], "\n") + "\n"
					}
					same(t, what, got, strings.Join(chunks, ""))
					for _, name := range names[:len(names)-1] {
						if !strings.HasSuffix(name, s.retention.pack) {
							t.Errorf("%s: %s is not compressed", what, name)
						}
					}
					if left, _ := filepath.Glob(path + "*.part"); len(left) > 0 {
						t.Errorf("%s: left are %v", what, left)
					}
				}
			}
		}
	}
}

// TestKilledAndTheNumberUsedAgain looks for a chunk whose file was compressed, and whose number is another file's since.
func TestKilledAndTheNumberUsedAgain(t *testing.T) {
	s := rotating(cri{}, 1000, packZstd)
	path := temp(t)
	dead := killAt(t, s, path, "first\n", "one\ntwo\n", 2*len("2026-05-04T12:00:01.000000123Z stdout F one\n"))
	was, ok := decodeIntent(dead.slot.earlier)
	if !ok || was.birth == 0 {
		t.Skip("the file system does not tell when a file was made")
	}
	fs := quick()
	w := openStream(t, fs, s, sink.Stdout, path)
	if err := w.w.rotate(t.Context()); err != nil {
		t.Fatal(err)
	}
	w.w.close()
	fs.jobs.Wait()
	if err := appendTo(path, "2026-05-04T12:00:02.000000123Z stdout F of the other file\n"); err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	was.id = identityOf(info)
	var mark [intentSize]byte
	dead.slot.earlier = was.encode(&mark)
	next := quick()
	dead.run(t, openStream(t, next, s, sink.Stdout, path))
	next.jobs.Wait()
	text, _ := whatStands(t, path)
	got := readPublished(t, []byte(text), 1000)["stdout"]
	same(t, "lines", strings.Join(got, "|"), "first|one|two|of the other file")
}
