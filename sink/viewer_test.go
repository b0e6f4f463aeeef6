package sink

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/muxd/muxd/internal/viewer"
)

// viewerPair returns a viewer and its client's socket, blocking, both closed when the test ends.
func viewerPair(t *testing.T) (*Viewer, int) {
	t.Helper()
	p, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	v, err := NewViewer(os.NewFile(uintptr(p[0]), "viewer"))
	if err != nil {
		unix.Close(p[1])
		t.Fatal(err)
	}
	t.Cleanup(func() { v.Close() })
	return v, p[1]
}

func clientRecv(t *testing.T, s int) viewer.Frame {
	t.Helper()
	b := make([]byte, viewer.MaxFrame+1)
	n, err := unix.Read(s, b)
	if err != nil {
		t.Fatal(err)
	}
	f, err := viewer.Parse(b[:n])
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func clientSend(t *testing.T, s int, f viewer.Frame) {
	t.Helper()
	if err := unix.Send(s, f.Append(nil), 0); err != nil {
		t.Fatal(err)
	}
}

func TestViewerSends(t *testing.T) {
	v, s := viewerPair(t)
	defer unix.Close(s)
	for _, send := range []func() error{
		func() error { return v.Redraw([]byte("past")) },
		func() error { return v.Output(7, nil) },
		func() error { return v.Output(7, []byte("now")) },
		func() error { return v.Ack(9) },
		func() error { return v.Notice(strings.Repeat("x", viewer.MaxData+1)) },
		func() error { return v.Ready(11) },
		func() error { return v.End(0x300, true) },
	} {
		if err := send(); err != nil {
			t.Fatal(err)
		}
	}
	var got []string
	for range 7 {
		f := clientRecv(t, s)
		got = append(got, fmt.Sprintf("%#x %d %.4s %v %d", byte(f.Type), f.Offset, f.Data, f.HasStatus, f.Status))
	}
	want := []string{"0x83 0 past false 0", "0x81 7  false 0", "0x81 7 now false 0", "0x82 9  false 0",
		"0x84 0 xxxx false 0", "0x86 11  false 0", "0x85 0  true 768"}
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	if err := v.Output(0, make([]byte, ViewerDataMost+1)); err == nil {
		t.Error("output longer than a frame was taken")
	}
}

func TestViewerReceives(t *testing.T) {
	v, s := viewerPair(t)
	clientSend(t, s, viewer.Frame{Type: viewer.Resize, Rows: 24, Cols: 80})
	clientSend(t, s, viewer.Frame{Type: viewer.Input, Offset: 100, Data: []byte("abc")})
	clientSend(t, s, viewer.Frame{Type: viewer.Input, Offset: 100, Data: []byte("abc")})  // again: nothing new
	clientSend(t, s, viewer.Frame{Type: viewer.Input, Offset: 102, Data: []byte("cdef")}) // in part
	clientSend(t, s, viewer.Frame{Type: viewer.EndOfInput})
	unix.Close(s)
	var got []string
	for {
		e, err := v.Recv()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, fmt.Sprintf("%d %d %s %dx%d", e.Kind, e.Offset, e.Data, e.Rows, e.Cols))
	}
	want := []string{"2 0  24x80", "1 100 abc 0x0", "1 103 def 0x0", "3 106  0x0"}
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

func TestViewerMalformed(t *testing.T) {
	for name, packets := range map[string][][]byte{
		"unknown type":    {{0x7f, 1, 2}},
		"short":           {{0x01, 0, 0}},
		"wrong direction": {viewer.Frame{Type: viewer.Output, Data: []byte("x")}.Append(nil)},
		"too long":        {append(viewer.Frame{Type: viewer.Input, Data: make([]byte, viewer.MaxData)}.Append(nil), 'x')},
		"gap": {
			viewer.Frame{Type: viewer.Input, Data: []byte("ab")}.Append(nil),
			viewer.Frame{Type: viewer.Input, Offset: 3, Data: []byte("d")}.Append(nil),
		},
		"offset beyond the last": {viewer.Frame{Type: viewer.Input, Offset: ^uint64(0), Data: []byte("ab")}.Append(nil)},
	} {
		t.Run(name, func(t *testing.T) {
			v, s := viewerPair(t)
			defer unix.Close(s)
			for _, p := range packets {
				if err := unix.Send(s, p, 0); err != nil {
					t.Fatal(err)
				}
			}
			var err error
			for range packets {
				_, err = v.Recv()
			}
			if err == nil || errors.Is(err, io.EOF) {
				t.Fatalf("Recv: %v, want what is wrong", err)
			}
			if f := clientRecv(t, s); f.Type != viewer.Notice || !bytes.Contains(f.Data, []byte(err.Error())) {
				t.Errorf("the client was told %#x %q, want %q", byte(f.Type), f.Data, err)
			}
		})
	}
}

func TestViewerSlow(t *testing.T) {
	v, s := viewerPair(t)
	defer unix.Close(s)
	p := make([]byte, 4096)
	sent := 0
	for ; ; sent++ {
		err := v.Output(uint64(sent*len(p)), p)
		if errors.Is(err, ErrSlow) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	stopped := errors.New("stopped")
	ctx, cancel := context.WithCancelCause(context.Background())
	waiting := make(chan error)
	go func() { waiting <- v.Writable(ctx) }()
	cancel(stopped)
	if err := <-waiting; !errors.Is(err, stopped) {
		t.Errorf("Writable of a full socket: %v, want the context's cause", err)
	}
	go func() { waiting <- v.Writable(context.Background()) }()
	for i := range sent {
		if f := clientRecv(t, s); f.Offset != uint64(i*len(p)) {
			t.Fatalf("frame %d has offset %d", i, f.Offset)
		}
	}
	if err := <-waiting; err != nil {
		t.Fatal(err)
	}
	if err := v.Output(0, p); err != nil {
		t.Errorf("after Writable: %v", err)
	}
}

func TestViewerEnds(t *testing.T) {
	v, s := viewerPair(t)
	unix.Close(s)
	if err := v.Output(0, []byte("x")); err != io.EOF {
		t.Errorf("Output to a client that has left: %v, want EOF", err)
	}
	if err := v.Writable(context.Background()); err != nil {
		t.Errorf("Writable: %v, want nil: a send tells", err)
	}
	v.Close()
	if err := v.Close(); err != nil {
		t.Errorf("second Close: %v", err)
	}
	for what, err := range map[string]error{
		"Output":   v.Output(0, nil),
		"Writable": v.Writable(context.Background()),
		"Recv":     func() error { _, err := v.Recv(); return err }(),
	} {
		if !errors.Is(err, net.ErrClosed) {
			t.Errorf("%s after Close: %v", what, err)
		}
	}
}

// What a viewer typed before it left is there, also where it left without having read all that it was shown.
func TestViewerLeavesUnread(t *testing.T) {
	v, s := viewerPair(t)
	if err := v.Output(0, []byte("nobody reads this")); err != nil {
		t.Fatal(err)
	}
	clientSend(t, s, viewer.Frame{Type: viewer.Input, Data: []byte("exit\r")})
	unix.Close(s)
	if e, err := v.Recv(); err != nil || string(e.Data) != "exit\r" {
		t.Errorf("%q, %v", e.Data, err)
	}
	if _, err := v.Recv(); err != io.EOF {
		t.Errorf("%v, want the end", err)
	}
}

func TestViewerCloseUnblocks(t *testing.T) {
	v, s := viewerPair(t)
	defer unix.Close(s)
	errs := make(chan error)
	go func() { _, err := v.Recv(); errs <- err }()
	v.Close()
	select {
	case err := <-errs:
		if !errors.Is(err, net.ErrClosed) {
			t.Error(err)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("Recv did not return")
	}
}

func TestNewViewerRefuses(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	if _, err := NewViewer(r); err == nil {
		t.Error("a pipe was taken for a viewer")
	}
	if err := r.Close(); !errors.Is(err, os.ErrClosed) {
		t.Error("NewViewer failed and did not close what it took")
	}
}
