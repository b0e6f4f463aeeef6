package socket

import (
	"context"
	"io"
	"net"
	"path/filepath"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience bounds every wait of the tests; nothing takes nearly so long.
const patience = 10 * time.Second

// told collects what Opening.Trouble is told.
type told chan error

func (c told) next(t *testing.T) error {
	t.Helper()
	select {
	case err := <-c:
		return err
	case <-time.After(patience):
		t.Fatal("nothing was told")
		return nil
	}
}

// testPort has a stdin where input is not nil, and quick retries.
func testPort(input io.WriteCloser, outputs int) (port, told) {
	c := make(told, 100)
	return port{
		troubles: &troubles{report: func(err error) { c <- err }}, input: input, outputs: outputs,
		retryFirst: time.Millisecond, retryMost: 5 * time.Millisecond,
	}, c
}

// child is the end of a stdin that a child has.
type child struct {
	*io.PipeReader
}

func newChild() (child, io.WriteCloser) {
	r, w := io.Pipe()
	return child{r}, w
}

// wants reads so much, and compares.
func (c child) wants(t *testing.T, want string) {
	t.Helper()
	b := make([]byte, len(want))
	if _, err := io.ReadFull(c, b); err != nil || string(b) != want {
		t.Fatalf("the child read %q, %v, want %q", b, err, want)
	}
}

func (c child) wantsEOF(t *testing.T) {
	t.Helper()
	if n, err := c.Read(make([]byte, 1)); n != 0 || err != io.EOF {
		t.Fatalf("the child read %d bytes, %v, want EOF", n, err)
	}
}

// peer is the other end of a connection.
type peer struct {
	t *testing.T
	conn
}

func (p peer) wants(want string) {
	p.t.Helper()
	p.SetReadDeadline(time.Now().Add(patience))
	b := make([]byte, len(want))
	if n, err := io.ReadFull(p, b); err != nil || string(b) != want {
		p.t.Fatalf("the peer read %.60q, %v, want %.60q", b[:n], err, want)
	}
}

func (p peer) wantsEOF() {
	p.t.Helper()
	p.SetReadDeadline(time.Now().Add(patience))
	if n, err := p.Read(make([]byte, 1)); n != 0 || err != io.EOF {
		p.t.Fatalf("the peer read %d bytes, %v, want EOF", n, err)
	}
}

func (p peer) says(text string) {
	p.t.Helper()
	if _, err := p.Write([]byte(text)); err != nil {
		p.t.Fatal(err)
	}
}

// server is a peer that is connected to.
type server struct {
	t  *testing.T
	ln net.Listener
}

func newServer(t *testing.T, network, name string) (server, address) {
	t.Helper()
	ln, err := net.Listen(network, name)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	return server{t, ln}, address{network, ln.Addr().String()}
}

func (s server) accept() peer {
	s.t.Helper()
	s.ln.(interface{ SetDeadline(time.Time) error }).SetDeadline(time.Now().Add(patience))
	c, err := s.ln.Accept()
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { c.Close() })
	return peer{s.t, c.(conn)}
}

func dialPeer(t *testing.T, path string) peer {
	t.Helper()
	c, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return peer{t, c.(conn)}
}

func temp(t *testing.T) string { return filepath.Join(t.TempDir(), "s") }

// output is what both kinds of sink have.
type output interface {
	put(ctx context.Context, data []byte, last bool) error
	Close() error
}

func put(t *testing.T, o output, text string) {
	t.Helper()
	if err := o.put(context.Background(), []byte(text), false); err != nil {
		t.Fatalf("put %.60q: %v", text, err)
	}
}

func putLast(t *testing.T, o output) {
	t.Helper()
	if err := o.put(context.Background(), nil, true); err != nil {
		t.Fatalf("put the last: %v", err)
	}
}

func shut(t *testing.T, o output) {
	t.Helper()
	if err := o.Close(); err != nil {
		t.Errorf("close: %v", err)
	}
}

// later runs f, and returns a channel with what it returned.
func later(f func() error) <-chan error {
	c := make(chan error, 1)
	go func() { c <- f() }()
	return c
}

// comes waits for it.
func comes(t *testing.T, c <-chan error) error {
	t.Helper()
	select {
	case err := <-c:
		return err
	case <-time.After(patience):
		t.Fatal("it did not return")
		return nil
	}
}
