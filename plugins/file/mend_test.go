package file

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"github.com/muxd/muxd/sink"
)

// TestTornTail begins to write to a file that does not end in a newline: what a machine leaves that went down over it,
// or somebody else's text.
func TestTornTail(t *testing.T) {
	told := "[muxd: " + cutOff + "]"
	const c, j = "2026-05-04T12:00:00.000000123Z stdout F ", `","stream":"stdout","time":"2026-05-04T12:00:00.000000123Z"}` + "\n"
	const old = "2026-05-04T11:00:00.000000000Z stderr P "
	const tai = "@400000006" // a year's worth of labels begins so
	for _, tc := range []struct {
		name   string
		format format
		before string
		want   string // before the new record
	}{
		{"empty", cri{}, "", ""},
		{"whole", cri{}, "text\n", "text\n"},
		{"somebody else's", cri{}, "text\nmore", "text\nmore\n"},
		{"a record", cri{}, "text\n" + old + "cu", "text\n" + old + "cu\n" + c + told + "\n"},
		{"a record without text", cri{}, "text\n" + old, "text\n" + old + "\n" + c + told + "\n"},
		{"a torn stamp", cri{}, "text\n" + old[:37], "text\n" + c + told + "\n"},
		{"the beginning of a time", cri{}, "text\n2026-05", "text\n" + c + told + "\n"},
		{"a time and something else", cri{}, "2026-05-04 11:00:00 x", "2026-05-04 11:00:00 x\n"},
		{"very long", cri{}, strings.Repeat("x", 3*recordMost), strings.Repeat("x", 3*recordMost) + "\n"},
		{"zeros", cri{}, "text\n" + strings.Repeat("\x00", 3*recordMost), "text\n" + c + told + "\n"},
		{"a record and zeros", cri{}, "text\n" + old + "cu\x00\x00\x00", "text\n" + old + "cu\n" + c + told + "\n"},
		{"a line that is not finished", cri{}, strings.Replace(c, "F", "P", 1) + "begin\n",
			strings.Replace(c, "F", "P", 1) + "begin\n" + c + told + "\n"},
		{"another's line that is not finished", cri{}, old + "begin\n", old + "begin\n"},
		{"json", jsonFile{}, `{"log":"cu`, `{"log":"cu` + j + `{"log":"` + told + `\n` + j},
		{"json, an escape", jsonFile{}, `{"log":"cu\\\u00`, `{"log":"cu\\` + j + `{"log":"` + told + `\n` + j},
		{"json, a character", jsonFile{}, `{"log":"cu` + "\xe2\x82", `{"log":"cu` + j + `{"log":"` + told + `\n` + j},
		{"json, behind the text", jsonFile{}, `{"log":"cut\n","str`, `{"log":"cut\n` + j + `{"log":"` + told + `\n` + j},
		{"json, behind the stream", jsonFile{}, `{"log":"cut\n","stream":"stderr","ti`,
			`{"log":"cut\n` + strings.Replace(j, "stdout", "stderr", 1) + `{"log":"` + told + `\n` + j},
		{"json, its beginning", jsonFile{}, `{"lo`, `{"log":"` + told + `\n` + j},
		{"json, somebody else's", jsonFile{}, `{"msg":"x"}`, `{"msg":"x"}` + "\n"},
		{"tai64n", tai64n{}, tai + "9f8c3f50000007b cu", tai + "9f8c3f50000007b cu\n" + tai + "9f88a650000007b " + told + "\n"},
		{"tai64n, its beginning", tai64n{}, tai, tai + "9f88a650000007b " + told + "\n"},
		{"iso, its beginning", iso{}, "2026-05-04 11:00:0", "2026-05-04 12:00:00.000000123  " + told + "\n"},
		{"iso", iso{}, "2026-05-04 11:00:00.000000000  cu", "2026-05-04 11:00:00.000000000  cu\n2026-05-04 12:00:00.000000123  " + told + "\n"},
		{"raw", nil, "cu", "cu"},
	} {
		path := temp(t)
		if err := appendTo(path, tc.before); err != nil {
			t.Fatal(err)
		}
		s := settings{format: tc.format, perm: 0o640, maxLine: 16 << 10}
		fs := quick()
		w := openStream(t, fs, s, sink.Stdout, path)
		w.put(noon, "new\n", false)
		record := []byte("new\n")
		if tc.format != nil {
			record = tc.format.record(nil, tc.format.stamp(nil, noon, sink.Stdout), []byte("new"), true)
		}
		same(t, tc.name, read(t, path), tc.want+string(record))

		// Another time, and by another stream, there is nothing to mend.
		openStream(t, fs, s, sink.Stdout, path).put(noon, "new\n", false)
		same(t, tc.name+", again", read(t, path), tc.want+string(bytes.Repeat(record, 2)))
	}
}

// TestCutOffInALine begins a stream behind one that was given up in the middle of a line, in the same process.
func TestCutOffInALine(t *testing.T) {
	path := temp(t)
	fs := quick()
	s := settings{format: cri{}, perm: 0o640, maxLine: 4}
	openStream(t, fs, s, sink.Stdout, path).put(noon, "toolong", false)
	openStream(t, fs, s, sink.Stdout, path).put(noon.Add(time.Second), "next\n", false)
	got := readPublished(t, []byte(read(t, path)), 1000)["stdout"]
	same(t, "lines", strings.Join(got, "|"), "tool[muxd: "+cutOff+"]|next")
}
