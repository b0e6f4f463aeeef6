package sink

import (
	"bytes"
	"encoding/binary"
	"os"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/muxd/muxd/internal/viewer"
)

// FuzzViewer: whatever packets a client sends, the console gets its input once, in order and without a gap, and sizes that
// fit; and after what cannot be understood nothing more. Packets are split off data by lengths of two bytes.
func FuzzViewer(f *testing.F) {
	packets := func(frames ...viewer.Frame) (data []byte) {
		for _, fr := range frames {
			p := fr.Append(nil)
			data = append(binary.BigEndian.AppendUint16(data, uint16(len(p))), p...)
		}
		return data
	}
	in := func(offset uint64, text string) viewer.Frame {
		return viewer.Frame{Type: viewer.Input, Offset: offset, Data: []byte(text)}
	}
	f.Add(packets(in(0, "ls"), in(2, "\r"), viewer.Frame{Type: viewer.Resize, Rows: 24, Cols: 80}, viewer.Frame{Type: viewer.EndOfInput}))
	f.Add(packets(in(5, "abc"), in(5, "abcd"), in(4, "zabcde"), in(3, "x")))
	f.Add(packets(in(0, "a"), in(2, "gap"), in(1, "after")))
	f.Add(packets(in(1<<64-2, "over the end")))
	f.Add(packets(viewer.Frame{Type: viewer.Output, Data: []byte("wrong way")}, in(0, "x")))
	f.Add([]byte{0, 1, 4, 0, 0, 0, 2, 1, 1})
	f.Fuzz(func(t *testing.T, data []byte) {
		p, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer unix.Close(p[1])
		v, err := NewViewer(os.NewFile(uintptr(p[0]), "viewer"))
		if err != nil {
			t.Fatal(err)
		}
		defer v.Close()
		first, next := uint64(0), uint64(0) // of the input that has come
		begun := false
		for len(data) >= 2 {
			n := min(int(binary.BigEndian.Uint16(data)), len(data)-2)
			packet := data[2 : 2+n]
			data = data[2+n:]
			e, ok, err := v.event(bytes.Clone(packet))
			if err != nil {
				return
			}
			frame, err := viewer.Parse(packet)
			switch {
			case err != nil:
				t.Fatalf("%x was taken, and is malformed: %v", packet, err)
			case !ok && frame.Type != viewer.Input:
				t.Fatalf("%x was passed over", packet)
			case frame.Type == viewer.Input && !begun:
				first, next, begun = frame.Offset, frame.Offset, true
			}
			switch {
			case !ok:
				if frame.Offset+uint64(len(frame.Data)) > next {
					t.Fatalf("%x is new, and was passed over: the input is at %d", packet, next)
				}
			case e.Kind == ViewerInput:
				if e.Offset != next || len(e.Data) == 0 || e.Offset < first || !bytes.HasSuffix(frame.Data, e.Data) {
					t.Fatalf("input at %d of %d bytes comes behind %d", e.Offset, len(e.Data), next)
				}
				next += uint64(len(e.Data))
			case e.Kind == ViewerResize:
				if e.Rows != int(frame.Rows) || e.Cols != int(frame.Cols) {
					t.Fatalf("%x resizes to %dx%d", packet, e.Rows, e.Cols)
				}
			}
		}
	})
}
