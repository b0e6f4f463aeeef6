package file

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/gzip"

	"github.com/muxd/muxd/sink"
)

// rotated writes n numbered lines, a second apart, in files that are rotated and compressed, and returns what asks for them.
func rotated(t *testing.T, path string, n int, options map[string]string) (*sink.Request, *testStream) {
	t.Helper()
	r := request(t, path, options, sink.Stdout)
	s, err := parseSettings(r)
	if err != nil {
		t.Fatal(err)
	}
	fs := quick()
	w := openStream(t, fs, s, sink.Stdout, path)
	for i := range n {
		w.put(at(i), fmt.Sprintf("line %d\n", i), false)
	}
	fs.jobs.Wait()
	return r, w
}

func line(i int) string { return fmt.Sprintf("stdout:line %d", i) }

// TestLogsAcrossFiles reads all, the last lines, and what is of a time, in every format and compression.
func TestLogsAcrossFiles(t *testing.T) {
	const n = 60
	for _, options := range []map[string]string{
		{"max-size": "300"},
		{"max-size": "300", "compress": "zstd"},
		{"max-size": "300", "compress": "gzip", "format": "json-file"},
		{"max-size": "300", "compress": "zstd", "format": "tai64n"},
		{"max-size": "100", "compress": "zstd", "format": "raw"},
		{"rotate": "10s", "compress": "gzip", "format": "iso"},
	} {
		path := filepath.Join(t.TempDir(), "log")
		r, _ := rotated(t, path, n, options)
		if _, names := whatStands(t, path); len(names) < 3 {
			t.Fatalf("%v: only %v", options, names)
		}
		of := func(i int) string {
			if f := options["format"]; f == "" || f == "json-file" {
				return line(i)
			}
			return strings.TrimPrefix(line(i), "stdout")
		}
		check := func(what string, q *sink.LogQuery, from, to int) {
			t.Helper()
			var want []string
			for i := from; i < to; i++ {
				want = append(want, of(i))
			}
			same(t, fmt.Sprint(options, " ", what), strings.Join(logged(t, q), "\n"), strings.Join(want, "\n"))
		}
		check("all", query(r), 0, n)
		for _, tail := range []int{0, 1, 2, 5, 17, n - 1, n, n + 7} {
			q := query(r)
			q.Tail = tail
			check(fmt.Sprint("tail ", tail), q, max(0, n-tail), n)
		}
		if options["format"] != "raw" {
			q := query(r)
			q.Since, q.Until = at(23), at(41)
			check("since and until", q, 23, 42)
		}
	}
}

// TestCursor goes on behind each record, in one series and in two, while the files are rotated and compressed.
func TestCursor(t *testing.T) {
	for _, name := range []string{"log", "{stream}.log"} {
		path := filepath.Join(t.TempDir(), name)
		r := request(t, path, map[string]string{"max-size": "200", "compress": "zstd"})
		s, err := parseSettings(r)
		if err != nil {
			t.Fatal(err)
		}
		fs := quick()
		writers := []*testStream{
			openStream(t, fs, s, sink.Stdout, s.targets[0].path), openStream(t, fs, s, sink.Stderr, s.targets[1].path),
		}
		rnd := rand.New(rand.NewPCG(1, 2))
		var written, got []string
		cursor := ""
		for i := range 200 {
			which := rnd.IntN(2)
			writers[which].put(at(i), fmt.Sprintf("%d\n", i), false)
			written = append(written, fmt.Sprintf("%v:%d", []sink.Stream{sink.Stdout, sink.Stderr}[which], i))
			if rnd.IntN(5) > 0 {
				continue
			}
			if rnd.IntN(2) == 0 {
				fs.jobs.Wait()
			}
			// Some of what has come is taken, and then the reader goes away.
			q := query(r)
			q.Cursor = cursor
			most := rnd.IntN(9)
			gone := fmt.Errorf("enough")
			err := readLogs(t.Context(), s, q, func(rec sink.Record) error {
				if most--; most < 0 {
					return gone
				}
				got, cursor = append(got, show(rec)), rec.Cursor
				return nil
			})
			if err != nil && err != gone {
				t.Fatalf("%s, cursor %q: %v", name, q.Cursor, err)
			}
		}
		fs.jobs.Wait()
		q := query(r)
		q.Cursor = cursor
		got = append(got, logged(t, q)...)
		same(t, name, strings.Join(got, " "), strings.Join(written, " "))
	}
}

// TestCursorOfSomethingElse is refused.
func TestCursorOfSomethingElse(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	r, _ := rotated(t, path, 30, map[string]string{"max-size": "300"})
	var cursors []string
	q := query(r)
	if err := Plugin().Logs(t.Context(), q, func(rec sink.Record) error { cursors = append(cursors, rec.Cursor); return nil }); err != nil {
		t.Fatal(err)
	}
	for _, c := range []string{"x", "1.2.3", "1.2.z-.", cursors[3] + "+" + cursors[3], "0.-1.0."} {
		q.Cursor = c
		if err := Plugin().Logs(t.Context(), q, nil); err == nil || !strings.Contains(err.Error(), "no cursor of this log") {
			t.Errorf("cursor %s: %v", c, err)
		}
	}
	all, err := seriesOf(path).members()
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(filepath.Join(filepath.Dir(path), all[0].name)); err != nil {
		t.Fatal(err)
	}
	q.Cursor = cursors[0]
	if err := Plugin().Logs(t.Context(), q, nil); err == nil || !strings.Contains(err.Error(), "gone") {
		t.Errorf("the file is deleted: %v", err)
	}
}

// TestFollowAcrossRotation tells every line once while the file is rotated, and compressed, under it.
func TestFollowAcrossRotation(t *testing.T) {
	for _, options := range []map[string]string{{"max-size": "150"}, {"max-size": "150", "compress": "gzip"}, {"max-size": "60", "format": "raw"}} {
		path := filepath.Join(t.TempDir(), "log")
		r, w := rotated(t, path, 10, options)
		f := startFollow(t, r)
		of := func(i int) string {
			if options["format"] == "raw" {
				return fmt.Sprintf(":line %d", i)
			}
			return line(i)
		}
		for i := range 10 {
			f.want(of(i))
		}
		for i := 10; i < 100; i++ {
			w.put(at(i), fmt.Sprintf("line %d\n", i), false)
			if i%7 == 0 {
				w.w.files.jobs.Wait()
			}
			if i%3 == 0 {
				for k := i - 2; k <= i; k++ {
					if k >= 10 {
						f.want(of(k))
					}
				}
			}
		}
		f.end()
	}
}

// TestLogsOfDates reads the files of all days.
func TestLogsOfDates(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log-{date}")
	r := request(t, path, map[string]string{"compress": "zstd"}, sink.Stdout)
	s, err := parseSettings(r)
	if err != nil {
		t.Fatal(err)
	}
	fs := quick()
	w := openStream(t, fs, s, sink.Stdout, path)
	var want []string
	for day := range 4 {
		for i := range 3 {
			w.put(noon.AddDate(0, 0, day), fmt.Sprintf("line %d\n", day*3+i), false)
			want = append(want, line(day*3+i))
		}
	}
	fs.jobs.Wait()
	same(t, "all", strings.Join(logged(t, query(r)), " "), strings.Join(want, " "))
	q := query(r)
	q.Tail = 4
	same(t, "the last four", strings.Join(logged(t, q), " "), strings.Join(want[8:], " "))
}

// TestDamagedFile reads what can be read, says where something is missing, and names the file.
func TestDamagedFile(t *testing.T) {
	for _, how := range []string{"zstd", "gzip"} {
		for what, left := range map[string]int64{"half": 2, "nothing": 0} {
			path := filepath.Join(t.TempDir(), "log")
			r, _ := rotated(t, path, 30, map[string]string{"max-size": "300", "compress": how})
			all, err := seriesOf(path).members()
			if err != nil {
				t.Fatal(err)
			}
			name := filepath.Join(filepath.Dir(path), all[1].name)
			if info, err := os.Stat(name); err != nil || os.Truncate(name, info.Size()*left/4) != nil {
				t.Fatal(err)
			}
			stamp := ":[muxd: " + name + " is damaged: "
			for _, q := range []*sink.LogQuery{query(r), {Request: *r, Tail: 24}, {Request: *r, Tail: -1, Follow: true}} {
				ctx, cancel := context.WithCancel(t.Context())
				cancel() // what is followed has ended
				var got []string
				err = Plugin().Logs(ctx, q, func(rec sink.Record) error {
					got = append(got, show(rec))
					return nil
				})
				if err == nil || !strings.HasPrefix(err.Error(), name+" is damaged: ") {
					t.Errorf("%s, %s: %v", how, what, err)
				}
				i := slices.IndexFunc(got, func(s string) bool { return strings.HasPrefix(s, stamp) })
				if i < 0 || !strings.HasSuffix(got[i], "; what stood behind this is missing]") {
					t.Fatalf("%s, %s: %q", how, what, got)
				}
				j := slices.Index(got, line(20))
				same(t, how+", "+what, strings.Join(got[j:], " "), strings.Join(lines(20, 30), " "))
				if q.Tail < 0 {
					same(t, how+", "+what, strings.Join(got[:5], " "), strings.Join(lines(0, 5), " "))
				}
			}
		}
	}
}

func lines(from, to int) (out []string) {
	for i := from; i < to; i++ {
		out = append(out, line(i))
	}
	return out
}

// TestDamageEndsALine that its file has cut.
func TestDamageEndsALine(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	b := &bytes.Buffer{}
	z := gzip.NewWriter(b)
	fmt.Fprintf(z, "2026-05-04T12:00:00.000000000Z stdout P begun\n")
	z.Flush()
	if err := os.WriteFile(path+".20260504T120000.000000000Z.done.gz", b.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := appendTo(path, "2026-05-04T12:00:01.000000000Z stdout F last\n"); err != nil {
		t.Fatal(err)
	}
	var got []string
	err := Plugin().Logs(t.Context(), query(request(t, path, nil, sink.Stdout)), func(rec sink.Record) error {
		got = append(got, show(rec))
		return nil
	})
	if err == nil || len(got) != 4 || got[0] != "stdout:begun…" || got[1] != "stdout:" || !strings.HasPrefix(got[2], ":[muxd: ") ||
		got[3] != "stdout:last" {
		t.Errorf("%q, %v", got, err)
	}
}

// TestOnlyAPackedDay is read once, although nothing comes behind it.
func TestOnlyAPackedDay(t *testing.T) {
	dir := t.TempDir()
	b := &bytes.Buffer{}
	z := gzip.NewWriter(b)
	fmt.Fprintf(z, "2026-05-04T12:00:00.000000000Z stdout F one\n")
	z.Close()
	if err := os.WriteFile(filepath.Join(dir, "log-2026-05-04.gz"), b.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	same(t, "a day", strings.Join(logged(t, query(request(t, filepath.Join(dir, "log-{date}"), nil, sink.Stdout))), " "), "stdout:one")
}

func TestMembers(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{
		"a.log", "a.log.20260504T120000.000000001Z.done", "a.log.20260504T120000.000000000Z.torn.zst",
		"a.log.20260504T120000.000000001Z.done.gz", "a.log.20260504T120000.000000001Z.done.zst.part",
		"a.log.gz", "a.log.1", "xa.log", "a.log.20260504T120000.000000001Z", "a.log.20261304T120000.000000001Z.done",
	} {
		if err := appendTo(filepath.Join(dir, name), "x"); err != nil {
			t.Fatal(err)
		}
	}
	all, err := seriesOf(filepath.Join(dir, "a.log")).members()
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, m := range whole(all) {
		names = append(names, m.name)
	}
	same(t, "whole", strings.Join(names, " "),
		"a.log.20260504T120000.000000000Z.torn.zst a.log.20260504T120000.000000001Z.done a.log")
	if len(all) != 5 || !all[0].torn || all[0].packed != packZstd || !all[3].part || !all[4].closed.IsZero() {
		t.Errorf("%+v", all)
	}
	if got, err := seriesOf(filepath.Join(dir, "none", "log")).members(); err != nil || got != nil {
		t.Errorf("no directory: %v %v", got, err)
	}
	at := time.Date(2026, 5, 4, 12, 0, 0, 7, time.FixedZone("", 3600))
	same(t, "name", rotatedName("log", at, true), "log.20260504T110000.000000007Z.torn")
}
