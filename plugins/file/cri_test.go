package file

import (
	"bytes"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/muxd/muxd/sink"
)

// readPublished is a reader written from the format's description alone: "<RFC 3339 time> <stream> <tag[:tag]> <text>", P
// means that the text goes on in the stream's next record, and F that it ends there.
func readPublished(t *testing.T, log []byte, most int) map[string][]string {
	t.Helper()
	record := regexp.MustCompile(`(?s)^(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}Z) (stdout|stderr) ([PF]) (.*)$`)
	lines, open := map[string][]string{}, map[string]*strings.Builder{}
	for i, r := range bytes.SplitAfter(log, []byte("\n")) {
		if len(r) == 0 {
			continue
		}
		m := record.FindSubmatch(bytes.TrimSuffix(r, []byte("\n")))
		if m == nil || r[len(r)-1] != '\n' {
			t.Fatalf("record %d is malformed: %q", i, r)
		}
		if _, err := time.Parse(time.RFC3339Nano, string(m[1])); err != nil {
			t.Fatalf("record %d: %v", i, err)
		}
		if len(m[4]) > most {
			t.Fatalf("record %d has %d bytes of text, the most is %d", i, len(m[4]), most)
		}
		s := string(m[2])
		if open[s] == nil {
			open[s] = &strings.Builder{}
		}
		open[s].Write(m[4])
		if string(m[3]) == "F" {
			lines[s] = append(lines[s], open[s].String())
			delete(open, s)
		}
	}
	for s := range open {
		t.Fatalf("the last record of %s is a P", s)
	}
	return lines
}

func linesOf(b []byte) []string {
	lines := strings.Split(string(b), "\n")
	if last := len(lines) - 1; lines[last] == "" {
		lines = lines[:last]
	}
	return lines
}

func TestCRIRecords(t *testing.T) {
	const f, p = "2026-05-04T12:00:00.000000123Z stdout F ", "2026-05-04T12:00:00.000000123Z stdout P "
	for _, c := range []struct {
		name, carry, data string
		last              bool
		want, rest        string
	}{
		{"nothing", "", "", false, "", ""},
		{"nothing at the end", "", "", true, "", ""},
		{"a line", "", "ab\n", false, f + "ab\n", ""},
		{"empty lines", "", "\n\n", false, f + "\n" + f + "\n", ""},
		{"unfinished", "", "ab", false, "", "ab"},
		{"unfinished at the end", "ab", "", true, f + "ab\n", ""},
		{"finished later", "ab", "c\nd", false, f + "abc\n", "d"},
		{"just the longest", "", "abcd", false, "", "abcd"},
		{"just the longest, finished", "abcd", "\n", false, f + "abcd\n", ""},
		{"one too long", "", "abcde", false, p + "abcd\n", "e"},
		{"one too long, carried", "abcd", "e", false, p + "abcd\n", "e"},
		{"long", "a", "bcdefghi\nj\n", false, p + "abcd\n" + p + "efgh\n" + f + "i\n" + f + "j\n", ""},
		{"carry of a longer limit", "abcdefghij", "k\n", false, p + "abcd\n" + p + "efgh\n" + f + "ijk\n", ""},
		{"binary", "", "\r\x00\xff\r\n", false, f + "\r\x00\xff\r\n", ""},
	} {
		r := records{format: cri{}, stamp: cri{}.stamp(nil, noon, sink.Stdout), most: 4, carry: []byte(c.carry), data: []byte(c.data), last: c.last}
		got := r.next(nil, 1<<20)
		same(t, c.name, string(got), c.want)
		same(t, c.name+": rest", string(r.rest()), c.rest)
	}
}

func TestParseCRI(t *testing.T) {
	for line, want := range map[string]sink.Record{
		"2026-05-04T12:00:00.000000123Z stdout F hello":     {Time: noon, Stream: sink.Stdout, Text: []byte("hello")},
		"2026-05-04T14:00:00.000000123+02:00 stderr P ":     {Time: noon, Stream: sink.Stderr, Partial: true},
		"2026-05-04T12:00:00.000000123Z stdout P:x:y a b c": {Time: noon, Stream: sink.Stdout, Text: []byte("a b c"), Partial: true},
	} {
		got, ok := (cri{}).parse([]byte(line))
		if !ok || !got.Time.Equal(want.Time) || got.Stream != want.Stream || !bytes.Equal(got.Text, want.Text) || got.Partial != want.Partial {
			t.Errorf("%q: %v %v, want %v", line, got, ok, want)
		}
	}
	for _, line := range []string{"", "text", "a b F c", "2026-05-04T12:00:00Z stdin F c", "2026-05-04T12:00:00Z stdout X c",
		"2026-05-04T12:00:00Z stdout F", "2026-05-04T12:00:00Z"} {
		if rec, ok := (cri{}).parse([]byte(line)); ok {
			t.Errorf("%q is taken for %v", line, rec)
		}
	}
}
