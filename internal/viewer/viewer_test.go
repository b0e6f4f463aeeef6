package viewer

import (
	"bytes"
	"encoding/hex"
	"reflect"
	"strings"
	"testing"
)

// golden are the bytes that PROTOCOL.md promises.
var golden = []struct {
	name  string
	frame Frame
	hex   string
}{
	{"input", Frame{Type: Input, Offset: 0x0102030405060708, Data: []byte("ls\r")}, "01 0102030405060708 6c730d"},
	{"input without bytes", Frame{Type: Input, Offset: 3, Data: []byte{}}, "01 0000000000000003"},
	{"resize", Frame{Type: Resize, Rows: 24, Cols: 80}, "02 0018 0050"},
	{"end of input", Frame{Type: EndOfInput}, "03"},
	{"output", Frame{Type: Output, Offset: 1 << 32, Data: []byte("\x1b[m$ ")}, "81 0000000100000000 1b5b6d2420"},
	{"output that tells the offset", Frame{Type: Output, Offset: 7, Data: []byte{}}, "81 0000000000000007"},
	{"ack", Frame{Type: Ack, Offset: 255}, "82 00000000000000ff"},
	{"replay", Frame{Type: Replay, Data: []byte("\xc3\xa9")}, "83 c3a9"},
	{"notice", Frame{Type: Notice, Data: []byte("hello")}, "84 68656c6c6f"},
	{"end with exit status 3", Frame{Type: End, HasStatus: true, Status: 3 << 8}, "85 01 00000300"},
	{"end with signal 9", Frame{Type: End, HasStatus: true, Status: 9}, "85 01 00000009"},
	{"end, status unknown", Frame{Type: End}, "85 00 00000000"},
	{"ready", Frame{Type: Ready, Offset: 1 << 40}, "86 0000010000000000"},
	{"terminal", Frame{Type: Terminal, Data: modes}, "04" + strings.Repeat("07", ModesSize)},
	{"reclaim", Frame{Type: Reclaim}, "05"},
	{"typed", Frame{Type: Typed, Offset: 9}, "06 0000000000000009"},
	{"take", Frame{Type: Take}, "87"},
	{"screen", Frame{Type: Screen, Flags: Returned | Unfinished, Data: []byte("\x1b[m")}, "88 03 1b5b6d"},
}

var modes = bytes.Repeat([]byte{7}, ModesSize)

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.ReplaceAll(s, " ", ""))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestGolden(t *testing.T) {
	for _, c := range golden {
		t.Run(c.name, func(t *testing.T) {
			want := unhex(t, c.hex)
			if got := c.frame.Append(nil); !bytes.Equal(got, want) {
				t.Errorf("Append: %x, want %x", got, want)
			}
			got, err := Parse(want)
			if err != nil {
				t.Fatal(err)
			}
			if !reflect.DeepEqual(got, c.frame) {
				t.Errorf("Parse: %+v, want %+v", got, c.frame)
			}
		})
	}
}

func TestParseRefuses(t *testing.T) {
	for _, c := range []struct{ hex, want string }{
		{"", "empty"},
		{"00", "unknown type 0x0"},
		{"07", "unknown type 0x7"},
		{"89", "unknown type 0x89"},
		{"04", "want 37"},
		{"05 00", "want 1"},
		{"06 00", "want at least 9"},
		{"87 00", "want 1"},
		{"88", "want at least 2"},
		{"88 04", "unknown flags 0x4"},
		{"01 00000000000000", "want at least 9"},
		{"02 001800", "want at least 5"},
		{"02 0018005000", "want 5"},
		{"03 00", "want 1"},
		{"81 00", "want at least 9"},
		{"82 0000000000000000 00", "want 9"},
		{"86 00000000000000", "want at least 9"},
		{"85 01 000000", "want at least 6"},
		{"85 01 0000000000", "want 6"},
		{"85 02 00000000", "no end"},
		{"85 00 00000001", "no end"},
		{"01 0000000000000000" + strings.Repeat("61", MaxData+1), "the most is 65536"},
		{"84" + strings.Repeat("61", MaxData+1), "the most is 65536"},
	} {
		if _, err := Parse(unhex(t, c.hex)); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("Parse(%.40s): %v, want %q", c.hex, err, c.want)
		}
	}
}

func TestLargestFrame(t *testing.T) {
	b := Frame{Type: Output, Data: make([]byte, MaxData)}.Append(nil)
	if len(b) != MaxFrame {
		t.Errorf("the largest frame has %d bytes, MaxFrame is %d", len(b), MaxFrame)
	}
	if _, err := Parse(b); err != nil {
		t.Error(err)
	}
	defer func() {
		if recover() == nil {
			t.Error("a frame that nobody would take was written")
		}
	}()
	Frame{Type: Replay, Data: make([]byte, MaxData+1)}.Append(nil)
}

// FuzzParse: what Parse takes, Append writes again byte for byte.
func FuzzParse(f *testing.F) {
	for _, c := range golden {
		f.Add(unhex(f, c.hex))
	}
	f.Add([]byte("\x85\x02\x00\x00\x00\x00"))
	f.Fuzz(func(t *testing.T, b []byte) {
		frame, err := Parse(b)
		if err != nil {
			return
		}
		if again := frame.Append(nil); !bytes.Equal(again, b) {
			t.Errorf("%x was taken as %+v, which is written %x", b, frame, again)
		}
	})
}
