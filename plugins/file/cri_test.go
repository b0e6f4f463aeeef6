package file

import (
	"bytes"
	"fmt"
	"math/rand/v2"
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

// TestAnyChunkingIsTheSame writes random bytes in random chunks, and reads the lines back.
func TestAnyChunkingIsTheSame(t *testing.T) {
	for seed := range uint64(300) {
		rnd := rand.New(rand.NewPCG(seed, 1))
		most := 1 + rnd.IntN(40)
		input := make([]byte, rnd.IntN(2000))
		alphabet := []byte("ab\n\r\x00\xff\xc3 é\n")
		if seed%3 == 0 {
			alphabet = []byte("abcdefghijklmnopq")
		}
		for i := range input {
			input[i] = alphabet[rnd.IntN(len(alphabet))]
		}
		var log, state []byte
		for rest := input; ; {
			n := rnd.IntN(min(len(rest), 100) + 1)
			r := records{head: criHead(nil, noon, sink.Stderr), most: most, carry: state, data: rest[:n]}
			for {
				had := len(log)
				if log = r.next(log, 1+rnd.IntN(200)); len(log) == had {
					break
				}
			}
			if state = bytes.Clone(r.rest(nil)); len(state) > most {
				t.Fatalf("seed %d: %d bytes are carried, the most is %d", seed, len(state), most)
			}
			if rest = rest[n:]; len(rest) == 0 {
				end := records{head: criHead(nil, noon, sink.Stderr), most: most, carry: state, last: true}
				log = end.next(log, 1<<20)
				break
			}
		}
		got, want := readPublished(t, log, most)["stderr"], linesOf(input)
		if fmt.Sprintf("%q", got) != fmt.Sprintf("%q", want) {
			t.Fatalf("seed %d, most %d:\n got %q\nwant %q", seed, most, got, want)
		}
	}
}

func TestRecords(t *testing.T) {
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
		r := records{head: criHead(nil, noon, sink.Stdout), most: 4, carry: []byte(c.carry), data: []byte(c.data), last: c.last}
		got := r.next(nil, 1<<20)
		same(t, c.name, string(got), c.want)
		same(t, c.name+": rest", string(r.rest(nil)), c.rest)
	}
}

func TestRenderingAllocatesNothing(t *testing.T) {
	data := bytes.Repeat([]byte("a line of some length\n"), 3000)
	head := criHead(nil, noon, sink.Stdout)
	buf := make([]byte, 0, pieceSize+recordMost)
	allocs := testing.AllocsPerRun(10, func() {
		r := records{head: head, most: 16 << 10, data: data}
		for len(r.next(buf, pieceSize)) > 0 {
		}
	})
	if allocs != 0 {
		t.Errorf("%v allocations for a chunk", allocs)
	}
}

func TestParseRecord(t *testing.T) {
	for line, want := range map[string]sink.Record{
		"2026-05-04T12:00:00.000000123Z stdout F hello":     {Time: noon, Stream: sink.Stdout, Text: []byte("hello")},
		"2026-05-04T14:00:00.000000123+02:00 stderr P ":     {Time: noon, Stream: sink.Stderr, Partial: true},
		"2026-05-04T12:00:00.000000123Z stdout P:x:y a b c": {Time: noon, Stream: sink.Stdout, Text: []byte("a b c"), Partial: true},
	} {
		got, ok := parseRecord([]byte(line))
		if !ok || !got.Time.Equal(want.Time) || got.Stream != want.Stream || !bytes.Equal(got.Text, want.Text) || got.Partial != want.Partial {
			t.Errorf("%q: %v %v, want %v", line, got, ok, want)
		}
	}
	for _, line := range []string{"", "text", "a b F c", "2026-05-04T12:00:00Z stdin F c", "2026-05-04T12:00:00Z stdout X c",
		"2026-05-04T12:00:00Z stdout F", "2026-05-04T12:00:00Z"} {
		if rec, ok := parseRecord([]byte(line)); ok {
			t.Errorf("%q is taken for %v", line, rec)
		}
	}
}
