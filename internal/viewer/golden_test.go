package viewer_test

import (
	"bytes"
	"reflect"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/muxd/muxd/internal/golden"
	"github.com/muxd/muxd/internal/viewer"
)

// goldenFrames are the frames of testdata/NAME.hex, which PROTOCOL.md shows. Every file there has its entry here, but
// for those named malformed-, which nobody may take.
var goldenFrames = map[string]viewer.Frame{
	"input":           {Type: viewer.Input, Offset: 256, Data: []byte("ls\r")},
	"resize":          {Type: viewer.Resize, Rows: 24, Cols: 80},
	"end-of-input":    {Type: viewer.EndOfInput},
	"output":          {Type: viewer.Output, Offset: 7, Data: []byte("\x1b[m$ ")},
	"output-position": {Type: viewer.Output, Offset: 12, Data: []byte{}},
	"ack":             {Type: viewer.Ack, Offset: 259},
	"replay":          {Type: viewer.Replay, Data: []byte("é")},
	"notice":          {Type: viewer.Notice, Data: []byte("hello")},
	"end-exited":      {Type: viewer.End, HasStatus: true, Status: 3 << 8},
	"end-killed":      {Type: viewer.End, HasStatus: true, Status: 9},
	"end-unknown":     {Type: viewer.End},
	"ready":           {Type: viewer.Ready, Offset: 12},
	"terminal":        {Type: viewer.Terminal, Data: viewer.AppendModes(nil, sane)},
	"reclaim":         {Type: viewer.Reclaim},
	"typed":           {Type: viewer.Typed, Offset: 260},
	"take":            {Type: viewer.Take},
	"screen":          {Type: viewer.Screen, Data: []byte("\x1b[?25h")},
	"screen-returned": {Type: viewer.Screen, Flags: viewer.Returned, Data: []byte{}},
}

// sane are the modes that the kernel gives a new terminal (tty_std_termios in drivers/tty/tty_io.c).
var sane = &unix.Termios{
	Iflag: unix.ICRNL | unix.IXON, Oflag: unix.OPOST | unix.ONLCR, Cflag: unix.B38400 | unix.CS8 | unix.CREAD | unix.HUPCL,
	Lflag: unix.ISIG | unix.ICANON | unix.ECHO | unix.ECHOE | unix.ECHOK | unix.ECHOCTL | unix.ECHOKE | unix.IEXTEN,
	Cc:    [19]uint8{3, 28, 127, 21, 4, 0, 1, 0, 17, 19, 26, 0, 18, 15, 23, 22},
}

func TestModes(t *testing.T) {
	var got unix.Termios
	viewer.ParseModes(viewer.AppendModes(nil, sane), &got)
	if got != *sane {
		t.Errorf("%+v, want %+v", got, *sane)
	}
}

func TestGoldenFiles(t *testing.T) {
	seen := 0
	for name, b := range golden.Files(t) {
		f, err := viewer.Parse(b)
		want, ok := goldenFrames[name]
		switch {
		case strings.HasPrefix(name, "malformed-"):
			if err == nil {
				t.Errorf("%s.hex: %x was taken as %+v", name, b, f)
			}
			continue
		case !ok:
			t.Errorf("%s.hex: no frame of that name is known", name)
			continue
		case err != nil:
			t.Errorf("%s.hex: %v", name, err)
			continue
		}
		seen++
		if !reflect.DeepEqual(f, want) {
			t.Errorf("%s.hex: it was taken as %+v, want %+v", name, f, want)
		}
		if got := want.Append(nil); !bytes.Equal(got, b) {
			t.Errorf("%s.hex: Append makes %x, want %x", name, got, b)
		}
	}
	if seen != len(goldenFrames) {
		t.Errorf("%d of %d frames have a file in testdata", seen, len(goldenFrames))
	}
}
