package file

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/muxd/muxd/internal/need"
	"github.com/muxd/muxd/sink"
)

// readDocker reads what Docker's json-file log driver writes, by its published structure: a text without a newline
// goes on in the stream's next record.
func readDocker(t *testing.T, log []byte) map[string][]string {
	t.Helper()
	var entry struct {
		Log    string    `json:"log"`
		Stream string    `json:"stream"`
		Time   time.Time `json:"time"`
	}
	lines, open := map[string][]string{}, map[string]string{}
	for d := json.NewDecoder(bytes.NewReader(log)); d.More(); {
		if err := d.Decode(&entry); err != nil {
			t.Fatalf("%v in %.300q", err, log)
		}
		if !entry.Time.Equal(noon) {
			t.Fatalf("time %v", entry.Time)
		}
		text, ends := strings.CutSuffix(open[entry.Stream]+entry.Log, "\n")
		if open[entry.Stream] = text; ends {
			lines[entry.Stream] = append(lines[entry.Stream], text)
			open[entry.Stream] = ""
		}
	}
	for s, text := range open {
		if text != "" {
			t.Fatalf("the last record of %s is not the end of its line", s)
		}
	}
	return lines
}

// render puts input through a format in random chunks and pieces.
func render(t *testing.T, f format, most int, input []byte, rnd *rand.Rand) (log []byte) {
	t.Helper()
	var state []byte
	for rest := input; ; {
		n := rnd.IntN(min(len(rest), 100) + 1)
		r := records{format: f, stamp: f.stamp(nil, noon, sink.Stderr), most: most, carry: state, data: rest[:n]}
		for {
			had := len(log)
			if log = r.next(log, 1+rnd.IntN(200)); len(log) == had {
				break
			}
		}
		if state = bytes.Clone(r.rest()); len(state) > most {
			t.Fatalf("%d bytes are carried, the most is %d", len(state), most)
		}
		if rest = rest[n:]; len(rest) == 0 {
			end := records{format: f, stamp: f.stamp(nil, noon, sink.Stderr), most: most, carry: state, last: true}
			return end.next(log, 1<<20)
		}
	}
}

// TestAnyChunkingIsTheSame writes random bytes in random chunks, and reads the lines back with readers of others.
func TestAnyChunkingIsTheSame(t *testing.T) {
	readers := map[string]func(t *testing.T, log []byte, most int) []string{
		formatCRI:  func(t *testing.T, log []byte, most int) []string { return readPublished(t, log, most)["stderr"] },
		formatJSON: func(t *testing.T, log []byte, _ int) []string { return readDocker(t, log)["stderr"] },
	}
	for name, reader := range readers {
		for seed := range uint64(300) {
			rnd := rand.New(rand.NewPCG(seed, 1))
			most := 1 + rnd.IntN(40)
			input := make([]byte, rnd.IntN(2000))
			alphabet := []string{"a", "b", "\n", "\r", "\x00", "\xff", "\xc3", " ", "é", "\n", `"`, `\`, "<", "\t", "\x1b", "€", "𝄞"}
			if seed%3 == 0 {
				alphabet = []string{"a", "b", "c", "d", "e", "f", "g", "h", "€"}
			}
			var b []byte
			for len(b) < len(input) {
				b = append(b, alphabet[rnd.IntN(len(alphabet))]...)
			}
			want := linesOf(b)
			if name == formatJSON {
				if most < utf8.UTFMax { // a character has to fit
					continue
				}
				for i := range want {
					want[i] = strings.ToValidUTF8(eachByte(want[i]), "")
				}
			}
			got := reader(t, render(t, formats[name], most, b, rnd), most)
			if fmt.Sprintf("%q", got) != fmt.Sprintf("%q", want) {
				t.Fatalf("%s, seed %d, most %d:\n got %q\nwant %q", name, seed, most, got, want)
			}
		}
	}
}

// eachByte puts U+FFFD for each byte that is no part of a character.
func eachByte(s string) string {
	var b strings.Builder
	for _, r := range s {
		b.WriteRune(r)
	}
	return b.String()
}

// TestEveryFormatReadsItself parses what it has rendered.
func TestEveryFormatReadsItself(t *testing.T) {
	for name, f := range formats {
		if f == nil {
			continue
		}
		for _, text := range []string{"", "hello", " a  b ", "tab\there", "x\x00y", "x\r", `{"log":"x"}`, "@4000", "é€"} {
			for _, full := range []bool{true, false} {
				line := f.record(nil, f.stamp(nil, noon, sink.Stderr), []byte(text), full)
				if len(line) > f.most(len(text)) {
					t.Errorf("%s: a record of %d bytes, the most is %d", name, len(line), f.most(len(text)))
				}
				rec, ok := f.parse(bytes.TrimSuffix(line, []byte("\n")))
				if !ok || string(rec.Text) != text || !rec.Time.Equal(noon) {
					t.Errorf("%s: %q is read as %v %v", name, line, rec, ok)
				}
				if says := name == formatCRI || name == formatJSON; says && (rec.Stream != sink.Stderr || rec.Partial == full) {
					t.Errorf("%s: %q is read as stream %v, partial %v", name, line, rec.Stream, rec.Partial)
				}
			}
		}
		for _, line := range []string{"", "text", "@4000", "{", "{}", `{"log":1}`, "2026-05-04", "2026-05-04T12:00:00.000000123Z"} {
			if rec, ok := f.parse([]byte(line)); ok {
				t.Errorf("%s: %q is taken for %v", name, line, rec)
			}
		}
	}
}

// TestWorstRecord is the longest record that there can be.
func TestWorstRecord(t *testing.T) {
	text := bytes.Repeat([]byte{1}, sink.StateMost)
	for name, f := range formats {
		if f == nil {
			continue
		}
		if n := len(f.record(nil, f.stamp(nil, noon, sink.Stderr), text, true)); n > f.most(len(text)) || n > recordMost || n > lineMost {
			t.Errorf("%s: %d bytes, the most is %d, %d, %d", name, n, f.most(len(text)), recordMost, lineMost)
		}
	}
}

// TestS6 has s6-tai64nlocal read tai64n, and compares both formats with what s6-log writes.
func TestS6(t *testing.T) {
	need.Program(t, "s6-tai64nlocal")
	need.Program(t, "s6-log")
	now := time.Now()
	for text, want := range map[string]string{"hello": "hello", "a\x00b\r": "a\x00b\r", "\xff": "\xff", "": ""} {
		log := tai64n{}.record(nil, tai64n{}.stamp(nil, now, sink.Stdout), []byte(text), true)
		c := exec.Command("s6-tai64nlocal")
		c.Env = append(os.Environ(), "TZ=UTC")
		c.Stdin = bytes.NewReader(log)
		out, err := c.Output()
		if err != nil {
			t.Fatal(err)
		}
		same(t, "s6-tai64nlocal", string(out), now.UTC().Format(isoTime)+" "+want+"\n")
	}
	for script, f := range map[string]format{"t": tai64n{}, "T": iso{}} {
		before := time.Now()
		c := exec.Command("s6-log", script, "1")
		c.Env = append(os.Environ(), "TZ=UTC")
		c.Stdin = strings.NewReader("hello\n")
		out, err := c.Output()
		if err != nil {
			t.Fatal(err)
		}
		rec, ok := f.parse(bytes.TrimSuffix(out, []byte("\n")))
		if !ok || string(rec.Text) != "hello" || rec.Time.Before(before) || rec.Time.After(time.Now()) {
			t.Errorf("s6-log %s: %q is read as %v %v", script, out, rec, ok)
		}
		same(t, "s6-log "+script, string(f.record(nil, f.stamp(nil, rec.Time, 0), []byte("hello"), true)), string(out))
	}
}

// TestLongLines keeps the limit, in all formats.
func TestLongLines(t *testing.T) {
	for name, want := range map[string]string{
		formatCRI:    "stdout P 0123456789\nstdout P abcdefghij\nstdout F k",
		formatJSON:   `{"log":"0123456789",` + "\n" + `{"log":"abcdefghij",` + "\n" + `{"log":"k\n",`,
		formatTAI64N: "0123456789\nabcdefghij\nk",
		formatISO:    "0123456789\nabcdefghij\nk",
	} {
		path := temp(t)
		w := openStream(t, quick(), settings{format: formats[name], perm: 0o600, maxLine: 10}, sink.Stdout, path)
		w.put(noon, "0123456789abcdefghijk", false)
		w.put(noon, "", true)
		got := regexp.MustCompile(`(?m)^(2026-\S+ |@\S+ |2026-\S+ \S+  )|"stream.*$`).ReplaceAllString(read(t, path), "")
		if name == formatISO {
			got = strings.ReplaceAll(got, "12:00:00.000000123  ", "")
		}
		same(t, name, strings.TrimSuffix(got, "\n"), want)
	}
}

// BenchmarkRender is what rendering costs without any file.
func BenchmarkRender(b *testing.B) {
	data := bytes.Repeat([]byte(strings.Repeat("x", 99)+"\n"), 10<<10)
	for name, f := range formats {
		if f == nil {
			continue
		}
		b.Run(name, func(b *testing.B) {
			buf := make([]byte, 0, pieceSize+recordMost)
			stamp := f.stamp(nil, noon, sink.Stdout)
			b.SetBytes(int64(len(data)))
			for b.Loop() {
				r := records{format: f, stamp: stamp, most: 16 << 10, data: data}
				for len(r.next(buf, pieceSize)) > 0 {
				}
			}
		})
	}
}

// TestAllFormatsAreOffered compares the formats that there are with those that a spec may name.
func TestAllFormatsAreOffered(t *testing.T) {
	for _, o := range Plugin().Options {
		if o.Name != "format" {
			continue
		}
		for _, v := range o.Values {
			if _, ok := formats[v]; !ok {
				t.Errorf("format %s is offered, and is none", v)
			}
			s, err := parseSettings(request(t, filepath.Join("/x", v), map[string]string{"format": v}))
			if err != nil || s.format != formats[v] {
				t.Errorf("format=%s: %v %v", v, s.format, err)
			}
		}
		if len(o.Values) != len(formats) {
			t.Errorf("%d formats are offered, there are %d", len(o.Values), len(formats))
		}
	}
}

// TestAllPlain puts every byte at each of eight places.
func TestAllPlain(t *testing.T) {
	for c := range 256 {
		for i := range 8 {
			for _, beside := range []byte("a ~\x7f!") {
				b := bytes.Repeat([]byte{beside}, 8)
				b[i] = byte(c)
				if got := allPlain(binary.LittleEndian.Uint64(b)); got != plain[c] {
					t.Fatalf("%q: %v", b, got)
				}
			}
		}
	}
}
