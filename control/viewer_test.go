package control

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"os"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"github.com/muxd/muxd/internal/viewer"
)

func pair(t *testing.T) (*Viewer, int) {
	t.Helper()
	t.Cleanup(func() { goleak.VerifyNone(t) })
	p, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	v, err := NewViewer(os.NewFile(uintptr(p[0]), "viewer"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { v.Close() })
	return v, p[1]
}

func say(t *testing.T, s int, f viewer.Frame) {
	t.Helper()
	if err := unix.Send(s, f.Append(nil), 0); err != nil {
		t.Fatal(err)
	}
}

func hear(t *testing.T, s int) viewer.Frame {
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

func TestViewerRecv(t *testing.T) {
	v, s := pair(t)
	if _, known := v.Position(); known {
		t.Error("a viewer that has received nothing knows its position")
	}
	say(t, s, viewer.Frame{Type: viewer.Replay, Data: []byte("past")})
	say(t, s, viewer.Frame{Type: viewer.Output, Offset: 40})
	say(t, s, viewer.Frame{Type: viewer.Output, Offset: 40, Data: []byte("now")})
	say(t, s, viewer.Frame{Type: viewer.Notice, Data: []byte("hello")})
	say(t, s, viewer.Frame{Type: viewer.End, HasStatus: true, Status: 9})
	unix.Close(s)
	for _, want := range []ViewerEvent{
		{Kind: ViewerRedraw, Data: []byte("past")},
		{Kind: ViewerOutput, Offset: 40},
		{Kind: ViewerOutput, Offset: 40, Data: []byte("now")},
		{Kind: ViewerNotice, Data: []byte("hello")},
		{Kind: ViewerEnd, HasStatus: true, Status: 9},
	} {
		e, err := v.Recv()
		if err != nil {
			t.Fatal(err)
		}
		if e.Kind != want.Kind || e.Offset != want.Offset || !bytes.Equal(e.Data, want.Data) ||
			e.HasStatus != want.HasStatus || e.Status != want.Status {
			t.Errorf("got %+v, want %+v", e, want)
		}
	}
	if _, err := v.Recv(); err != io.EOF {
		t.Errorf("at the end: %v, want EOF", err)
	}
	if at, known := v.Position(); at != 43 || !known {
		t.Errorf("position %d %v, want 43", at, known)
	}
}

// What the console said before it closed is received, also where it closed with input unread, which resets the
// connection.
func TestViewerRecvAfterReset(t *testing.T) {
	v, s := pair(t)
	if _, err := v.Send(context.Background(), []byte("nobody reads this")); err != nil {
		t.Fatal(err)
	}
	say(t, s, viewer.Frame{Type: viewer.Output, Data: []byte("last words")})
	say(t, s, viewer.Frame{Type: viewer.End})
	unix.Close(s)
	for _, want := range []ViewerEventKind{ViewerOutput, ViewerEnd} {
		if e, err := v.Recv(); err != nil || e.Kind != want {
			t.Errorf("%+v, %v, want kind %d", e, err, want)
		}
	}
	if _, err := v.Recv(); err != io.EOF {
		t.Errorf("at the end: %v, want EOF", err)
	}
	if off, p := v.Unacknowledged(); off != 0 || string(p) != "nobody reads this" {
		t.Errorf("unacknowledged: %d %q", off, p)
	}
	if _, err := v.Send(context.Background(), []byte("x")); !errors.Is(err, net.ErrClosed) {
		t.Errorf("Send after the end: %v", err)
	}
}

func TestViewerSend(t *testing.T) {
	v, s := pair(t)
	defer unix.Close(s)
	ctx := context.Background()
	v.Resize(ctx, 24, 70000)
	v.Send(ctx, []byte("abc"))
	v.Send(ctx, []byte("de"))
	v.EndOfInput(ctx)
	if f := hear(t, s); f.Type != viewer.Resize || f.Rows != 24 || f.Cols != 0xffff {
		t.Errorf("%+v", f)
	}
	if f := hear(t, s); f.Offset != 0 || string(f.Data) != "abc" {
		t.Errorf("%+v", f)
	}
	if f := hear(t, s); f.Offset != 3 || string(f.Data) != "de" {
		t.Errorf("%+v", f)
	}
	if f := hear(t, s); f.Type != viewer.EndOfInput {
		t.Errorf("%+v", f)
	}
	say(t, s, viewer.Frame{Type: viewer.Ack, Offset: 4})
	say(t, s, viewer.Frame{Type: viewer.Ack, Offset: 1}) // older: changes nothing
	v.Recv()
	v.Recv()
	if off, p := v.Unacknowledged(); off != 4 || string(p) != "e" {
		t.Errorf("unacknowledged: %d %q, want the e at 4", off, p)
	}
	say(t, s, viewer.Frame{Type: viewer.Ack, Offset: 1 << 40}) // more than there is: all of it
	v.Recv()
	if off, p := v.Unacknowledged(); off != 5 || len(p) != 0 {
		t.Errorf("unacknowledged: %d %q, want nothing at 5", off, p)
	}
}

// A Send that waits for acknowledgements goes on with them, can be called off, and lets a Resize through.
func TestViewerWindow(t *testing.T) {
	v, s := pair(t)
	defer unix.Close(s)
	big := bytes.Repeat([]byte("0123456789abcdef"), (ViewerWindow+4096)/16)
	type sent struct {
		n   int
		err error
	}
	done := make(chan sent, 1)
	called := errors.New("called off")
	ctx, cancel := context.WithCancelCause(context.Background())
	go func() { n, err := v.Send(ctx, big); done <- sent{n, err} }()
	f := hear(t, s)
	if len(f.Data) != ViewerWindow {
		t.Fatalf("%d bytes came, want the window", len(f.Data))
	}
	if err := v.Resize(context.Background(), 1, 2); err != nil {
		t.Fatal(err)
	}
	if f := hear(t, s); f.Type != viewer.Resize {
		t.Fatalf("%+v", f)
	}
	say(t, s, viewer.Frame{Type: viewer.Ack, Offset: 4000})
	v.Recv()
	if f := hear(t, s); len(f.Data) != 4000 || f.Offset != ViewerWindow {
		t.Fatalf("%d bytes at %d, want 4000 more", len(f.Data), f.Offset)
	}
	cancel(called)
	if r := <-done; r.n != ViewerWindow+4000 || !errors.Is(r.err, called) {
		t.Errorf("Send: %d, %v", r.n, r.err)
	}
	go func() { n, err := v.Send(context.Background(), big); done <- sent{n, err} }()
	v.Close()
	select {
	case r := <-done:
		if r.n != 0 || !errors.Is(r.err, net.ErrClosed) {
			t.Errorf("Send: %d, %v", r.n, r.err)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("Close did not unblock Send")
	}
}

// A Send that cannot put its frame into the socket is called off without a gap in the offsets.
func TestViewerSocketFull(t *testing.T) {
	v, s := pair(t)
	defer unix.Close(s)
	ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
	defer cancel()
	total := 0
	for {
		n, err := v.Send(ctx, []byte("x"))
		total += n
		if err != nil {
			break
		}
	}
	for i := range total {
		if f := hear(t, s); f.Offset != uint64(i) {
			t.Fatalf("frame %d has offset %d", i, f.Offset)
		}
	}
	if _, err := v.Send(context.Background(), []byte("y")); err != nil {
		t.Fatal(err)
	}
	if f := hear(t, s); f.Offset != uint64(total) || string(f.Data) != "y" {
		t.Errorf("%d %q, want y at %d", f.Offset, f.Data, total)
	}
}

func TestViewerWrongDirection(t *testing.T) {
	v, s := pair(t)
	defer unix.Close(s)
	say(t, s, viewer.Frame{Type: viewer.EndOfInput})
	if _, err := v.Recv(); err == nil {
		t.Error("a client's frame was taken from the console")
	}
}

// What another connection has typed of an input of that name is acknowledged at once, and not when it is sent again.
func TestViewerTypedBefore(t *testing.T) {
	v, s := pair(t)
	defer unix.Close(s)
	say(t, s, viewer.Frame{Type: viewer.Ack, Offset: 5})
	if e, err := v.Recv(); err != nil || e.Kind != ViewerAck {
		t.Fatal(e, err)
	}
	for i, part := range []string{"one", " tw", "o"} {
		if n, err := v.Send(t.Context(), []byte(part)); n != len(part) || err != nil {
			t.Fatalf("send: %d, %v", n, err)
		}
		if f := hear(t, s); string(f.Data) != part || f.Offset != uint64(3*i) {
			t.Errorf("it sends %q at %d", f.Data, f.Offset)
		}
	}
	if offset, left := v.Unacknowledged(); offset != 5 || string(left) != "wo" {
		t.Errorf("not acknowledged: %q from %d on, want all behind byte 5", left, offset)
	}
	say(t, s, viewer.Frame{Type: viewer.Ack, Offset: 7})
	if _, err := v.Recv(); err != nil {
		t.Fatal(err)
	}
	if err := v.Settled(t.Context()); err != nil {
		t.Error(err)
	}
}
