package chaos

import (
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"regexp"
	"strings"
	"testing"
	"time"
)

// decode returns what the child has written, of what came out of a sink with such a spec.
func decode(t *testing.T, spec string, out []byte) []byte {
	t.Helper()
	for of, from := range map[string]func(*testing.T, []byte) []byte{
		"format=cri": fromCRI, "format=json-file": fromJSONFile, "format=tai64n": stamped(tai64n), "format=iso": stamped(iso),
		"framing=docker": fromDocker, "framing=json": fromJSON,
	} {
		if strings.Contains(spec, of) {
			return from(t, out)
		}
	}
	return out
}

// fromCRI returns what CRI records hold, as their published format has it: TIME STREAM TAG TEXT.
func fromCRI(t *testing.T, b []byte) []byte {
	t.Helper()
	var out []byte
	for line := range bytes.Lines(b) {
		f := bytes.SplitN(bytes.TrimSuffix(line, []byte("\n")), []byte(" "), 4)
		if len(f) != 4 || string(f[1]) != "stdout" || string(f[2]) != "F" && string(f[2]) != "P" {
			t.Fatalf("no CRI record: %.80q", line)
		}
		if _, err := time.Parse(time.RFC3339Nano, string(f[0])); err != nil {
			t.Fatalf("no CRI record: %v", err)
		}
		out = append(out, f[3]...)
		if string(f[2]) == "F" {
			out = append(out, '\n')
		}
	}
	return out
}

// fromJSONFile returns what records of Docker's json-file driver hold.
func fromJSONFile(t *testing.T, b []byte) []byte {
	t.Helper()
	var out []byte
	for line := range bytes.Lines(b) {
		var r struct{ Log, Stream, Time string }
		if err := json.Unmarshal(line, &r); err != nil || r.Stream != "stdout" {
			t.Fatalf("no record of json-file: %.80q (%v)", line, err)
		}
		out = append(out, r.Log...)
	}
	return out
}

// What stands before a line of s6-log, with its option t and with T.
var (
	tai64n = regexp.MustCompile(`^@[0-9a-f]{24} `)
	iso    = regexp.MustCompile(`^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{9}  `)
)

// stamped returns the lines behind a stamp.
func stamped(stamp *regexp.Regexp) func(*testing.T, []byte) []byte {
	return func(t *testing.T, b []byte) (out []byte) {
		t.Helper()
		for line := range bytes.Lines(b) {
			at := stamp.FindIndex(line)
			if at == nil {
				t.Fatalf("no stamp: %.80q", line)
			}
			out = append(out, line[at[1]:]...)
		}
		return out
	}
}

// fromDocker returns what the stream of Docker's API for an attached container holds.
func fromDocker(t *testing.T, b []byte) (out []byte) {
	t.Helper()
	for len(b) > 0 {
		if len(b) < 8 || b[0] != 1 || len(b)-8 < int(binary.BigEndian.Uint32(b[4:])) {
			t.Fatalf("no piece of stdout: %.80q", b)
		}
		n := 8 + int(binary.BigEndian.Uint32(b[4:]))
		out, b = append(out, b[8:n]...), b[n:]
	}
	return out
}

// fromJSON returns what the objects of a socket hold.
func fromJSON(t *testing.T, b []byte) (out []byte) {
	t.Helper()
	for line := range bytes.Lines(b) {
		var r struct {
			Stream, Text, Base64 string
			Partial              bool
		}
		if err := json.Unmarshal(line, &r); err != nil || r.Stream != "stdout" {
			t.Fatalf("no object: %.80q (%v)", line, err)
		}
		bin, err := base64.StdEncoding.DecodeString(r.Base64)
		if err != nil {
			t.Fatal(err)
		}
		out = append(append(out, r.Text...), bin...)
		if !r.Partial {
			out = append(out, '\n')
		}
	}
	return out
}
