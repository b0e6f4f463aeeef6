package socket

import (
	"context"
	"io"
	"net"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"github.com/muxd/muxd/sink"
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

// held is what a test's sinks park.
type held struct {
	mu      sync.Mutex
	parked  map[string][]*os.File
	memory  []byte
	dropped map[sink.Stream]uint64
	over    bool
}

func newHeld(t *testing.T) *held {
	h := &held{parked: map[string][]*os.File{}, dropped: map[sink.Stream]uint64{}, over: true}
	t.Cleanup(func() {
		for tag := range h.parked {
			h.Park(tag)
		}
	})
	return h
}

func (h *held) Memory(size int) ([]byte, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.memory == nil {
		h.memory = make([]byte, size)
	}
	return h.memory, nil
}

func (h *held) Dropped(st sink.Stream, total uint64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.dropped[st] = total
}

func (h *held) Park(tag string, files ...syscall.Conn) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, f := range h.parked[tag] {
		f.Close()
	}
	delete(h.parked, tag)
	for _, c := range files {
		f, err := dupFile(c)
		if err != nil {
			return err
		}
		h.parked[tag] = append(h.parked[tag], f)
	}
	return nil
}

func (h *held) Parked(tag string) []*os.File {
	h.mu.Lock()
	defer h.mu.Unlock()
	var out []*os.File
	for _, f := range h.parked[tag] {
		d, err := dupFile(f)
		if err != nil {
			panic(err)
		}
		out = append(out, d)
	}
	return out
}

// dupFile returns a copy of f, owned by the caller.
func dupFile(f syscall.Conn) (d *os.File, err error) {
	raw, err := f.SyscallConn()
	if err != nil {
		return nil, err
	}
	raw.Control(func(fd uintptr) {
		var n int
		if n, err = unix.FcntlInt(fd, unix.F_DUPFD_CLOEXEC, 3); err == nil {
			d = os.NewFile(uintptr(n), "copy")
		}
	})
	return d, err
}

func (h *held) Over() bool { return h.over }

// testPort has a stdin where input is not nil, and quick retries.
func testPort(t *testing.T, input *sink.Input, outputs int) (port, told) {
	c := make(told, 100)
	return port{
		holder:  newHeld(t),
		child:   sink.Child{ID: "k3x9", Name: "web", Run: 1},
		retries: &sink.Retries{Report: func(err error) { c <- err }, First: time.Millisecond, Most: 5 * time.Millisecond},
		input:   input, outputs: outputs,
	}, c
}

// child is the end of a stdin that a child has.
type child struct{ *os.File }

func newChild(t *testing.T) (child, *sink.Input) {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	in, err := sink.NewInput(w)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close(); in.Close() })
	return child{r}, in
}

// wants reads so much, and compares.
func (c child) wants(t *testing.T, want string) {
	t.Helper()
	c.SetReadDeadline(time.Now().Add(patience))
	b := make([]byte, len(want))
	if n, err := io.ReadFull(c, b); err != nil || string(b) != want {
		t.Fatalf("the child read %.60q, %v, want %.60q", b[:n], err, want)
	}
}

func (c child) wantsEOF(t *testing.T) {
	t.Helper()
	c.SetReadDeadline(time.Now().Add(patience))
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

func newServer(t *testing.T, kind, name string) (server, address) {
	t.Helper()
	ln, err := net.Listen(kind, name)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	return server{t, ln}, address{inOurs(kind), ln.Addr().String()}
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

// at is what the options' defaults make of an address.
func at(a address) settings {
	return settings{
		address: a, perm: 0o600, policy: block, framing: "raw", longest: 7 << 10, queue: 1 << 20, outputs: 1,
	}
}

// inOurs is what we call a network of package net.
func inOurs(kind string) network {
	switch kind {
	case "unixpacket":
		return unixPacket
	case "unixgram":
		return unixGram
	}
	return network(kind)
}

func temp(t *testing.T) string { return filepath.Join(t.TempDir(), "s") }

// output is what both kinds of sink have.
type output interface {
	Write(ctx context.Context, c *sink.Chunk) error
	Close() error
}

// piece is a chunk that is moved by being written.
type piece struct{ data []byte }

func (p *piece) Left() int { return len(p.data) }

func (p *piece) Move(fd uintptr, n int) (int, error) {
	k, err := unix.SendmsgN(int(fd), p.data[:n], nil, nil, unix.MSG_NOSIGNAL)
	if err == nil {
		p.data = p.data[k:]
	}
	return k, err
}

// putting puts text out to either kind of sink, and blocks as that does.
func putting(ctx context.Context, o output, text []byte, last bool) error {
	p := part{stream: sink.Stdout, data: text, last: last}
	offset := uint64(time.Now().UnixNano()) // another for each chunk
	var err error
	switch o := o.(type) {
	case *dialled:
		if o.queue == nil {
			return o.put(ctx, &piece{text}, last)
		}
		_, err = o.enqueue(ctx, offset, p)
	case *listener:
		_, err = o.put(ctx, offset, p)
	}
	return err
}

func put(t *testing.T, o output, text string) {
	t.Helper()
	if err := putting(context.Background(), o, []byte(text), false); err != nil {
		t.Fatalf("put %.60q: %v", text, err)
	}
}

func putLast(t *testing.T, o output) {
	t.Helper()
	if err := putting(context.Background(), o, nil, true); err != nil {
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
