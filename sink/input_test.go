package sink

import (
	"errors"
	"io"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// streamPair is a connected pair of Unix stream sockets.
func streamPair(t *testing.T) (a, b *net.UnixConn) {
	t.Helper()
	p, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	var ends [2]*net.UnixConn
	for i, n := range p {
		f := os.NewFile(uintptr(n), "socket")
		c, err := net.FileConn(f)
		f.Close()
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		ends[i] = c.(*net.UnixConn)
	}
	return ends[0], ends[1]
}

func newTestInput(t *testing.T) (*Input, *os.File) {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	in, err := NewInput(w)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { in.Close(); r.Close() })
	return in, r
}

func TestSpliceFrom(t *testing.T) {
	in, r := newTestInput(t)
	peer, c := streamPair(t)
	text := strings.Repeat("0123456789", 100<<10) // more than the pipe and the socket hold
	done := make(chan error, 1)
	go func() { done <- in.SpliceFrom(c) }()
	go func() {
		io.WriteString(peer, text)
		peer.CloseWrite()
	}()
	got := make([]byte, len(text))
	if _, err := io.ReadFull(r, got); err != nil || string(got) != text {
		t.Errorf("the child read something else: %v", err)
	}
	if err := <-done; err != nil {
		t.Errorf("at the peer's end: %v", err)
	}
}

func TestSpliceFromEnds(t *testing.T) {
	in, r := newTestInput(t)
	peer, c := streamPair(t)
	done := make(chan error, 1)
	go func() { done <- in.SpliceFrom(c) }()
	c.SetReadDeadline(time.Now())
	if err := <-done; !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("at the deadline: %v", err)
	}
	c.SetReadDeadline(time.Time{})
	r.Close()
	io.WriteString(peer, "x")
	if err := in.SpliceFrom(c); !errors.Is(err, ErrInputOver) {
		t.Errorf("of a child that has closed its stdin: %v", err)
	}
	full, _ := newTestInput(t)
	go func() { done <- full.SpliceFrom(c) }()
	go io.WriteString(peer, strings.Repeat("x", 1<<20))
	full.Close()
	if err := <-done; !errors.Is(err, ErrInputOver) {
		t.Errorf("when the input is closed: %v", err)
	}
}
