package socket

import (
	"context"
	"errors"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func newPaths() *paths { return &paths{owners: map[address]string{}} }

func listenOn(t *testing.T, path string, p port) *listener {
	t.Helper()
	l, err := openListener(t.Context(), at(address{unixStream, path}), p, newPaths())
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func readersOf(l *listener) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.readers)
}

func TestListener(t *testing.T) {
	path := temp(t)
	p, troubles := testPort(t, nil, 1)
	l := listenOn(t, path, p)
	info, err := os.Stat(path)
	if err != nil || info.Mode() != fs.ModeSocket|0o600 {
		t.Errorf("the socket file is %v, %v", info.Mode(), err)
	}

	// With nobody there the stream waits.
	first := later(func() error { return putting(context.Background(), l, []byte("one "), false) })
	a := dialPeer(t, path)
	a.wants("one ")
	if err := comes(t, first); err != nil {
		t.Fatal(err)
	}
	b := dialPeer(t, path)
	put(t, l, "two ")
	a.wants("two ")
	b.wants("two ")

	// One that goes away is no trouble to the other.
	a.Close()
	put(t, l, "three ")
	b.wants("three ")
	c := dialPeer(t, path) // after the last byte
	ended := later(func() error { return putting(context.Background(), l, nil, true) })
	b.wantsEOF()
	c.wantsEOF()
	if err := comes(t, ended); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) { // before Close, which a process that is killed then does not come to
		t.Errorf("the socket file is still there: %v", err)
	}
	shut(t, l)
	if len(troubles) != 0 {
		t.Errorf("trouble: %v", <-troubles)
	}
}

func TestListenerInput(t *testing.T) {
	path := temp(t)
	child, input := newChild(t)
	p, _ := testPort(t, input, 1)
	l := listenOn(t, path, p)
	a, b := dialPeer(t, path), dialPeer(t, path)
	a.says("from a")
	child.wants(t, "from a")
	b.says("from b")
	child.wants(t, "from b")

	// A reader that has said all still reads, and the child's stdin stays open for the others.
	if err := a.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	b.says("more from b")
	child.wants(t, "more from b")
	put(t, l, "out")
	a.wants("out")
	b.wants("out")

	// One that is gone is let go, although nothing is written.
	a.Close()
	for readersOf(l) != 1 {
		b.says(".")
		child.wants(t, ".")
	}

	// When the child takes no more, readers still get its output.
	child.Close()
	b.says("nobody wants this")
	put(t, l, "last")
	b.wants("last")
	ended := later(func() error { return putting(context.Background(), l, nil, true) })
	b.wantsEOF()
	if err := comes(t, ended); err != nil {
		t.Error(err)
	}
	shut(t, l)
}

// TestListenerOnlyReaderDies gives the next reader what the one before was not given.
func TestListenerOnlyReaderDies(t *testing.T) {
	path := temp(t)
	p, _ := testPort(t, nil, 1)
	l := listenOn(t, path, p)
	defer shut(t, l)
	data := make([]byte, 2<<20)
	for i := range data {
		data[i] = byte(i >> 8)
	}
	first := dialPeer(t, path)
	sent := later(func() error { return putting(context.Background(), l, data, false) })
	waitFull(t, first)
	given := readable(t, first)
	first.Close()
	dialPeer(t, path).wants(string(data[given:]))
	if err := comes(t, sent); err != nil {
		t.Fatal(err)
	}
}

// TestSlowReaderHoldsUp is the policy block.
func TestSlowReaderHoldsUp(t *testing.T) {
	path := temp(t)
	p, _ := testPort(t, nil, 1)
	l := listenOn(t, path, p)
	defer shut(t, l)
	slow := dialPeer(t, path)
	ctx, cancel := context.WithCancel(context.Background())
	sent := later(func() error { return putting(ctx, l, make([]byte, 2<<20), false) })
	waitFull(t, slow)
	select {
	case err := <-sent:
		t.Fatalf("put returned %v although nobody reads", err)
	default:
	}
	cancel()
	if err := comes(t, sent); !errors.Is(err, context.Canceled) {
		t.Errorf("put returned %v", err)
	}
}

func TestListenerGivenUp(t *testing.T) {
	child, input := newChild(t)
	defer child.Close()
	for name, p := range map[string]func() (port, told){
		"output":    func() (port, told) { return testPort(t, nil, 1) },
		"and stdin": func() (port, told) { return testPort(t, input, 1) },
	} {
		p, _ := p()
		l := listenOn(t, temp(t), p)
		ctx, cancel := context.WithCancel(context.Background())
		sent := later(func() error { return putting(ctx, l, make([]byte, 2<<20), false) })
		cancel()
		if err := comes(t, sent); !errors.Is(err, context.Canceled) {
			t.Errorf("%s: put returned %v", name, err)
		}
		shut(t, l)
	}
}

// TestCloseWithReaders closes while readers feed a child that does not read, and more of them come.
func TestCloseWithReaders(t *testing.T) {
	path := temp(t)
	_, input := newChild(t)
	p, _ := testPort(t, input, 1)
	l := listenOn(t, path, p)
	for range 3 {
		dialPeer(t, path).says("input")
	}
	shut(t, l)
}

// TestAcceptedWhileClosing lets a reader be accepted just when the sink was closed.
func TestAcceptedWhileClosing(t *testing.T) {
	p, _ := testPort(t, nil, 1)
	l := listenOn(t, temp(t), p)
	shut(t, l)
	srv, a := newServer(t, "unix", temp(t))
	late := dialPeer(t, a.name)
	l.admit(srv.accept().conn)
	late.wantsEOF()
}

func TestBind(t *testing.T) {
	open := func(path string, taken *paths) (*listener, error) {
		s := at(address{unixStream, path})
		s.perm = 0o660
		p, _ := testPort(t, nil, 1)
		return openListener(t.Context(), s, p, taken)
	}
	refused := func(what, path string, taken *paths, want string) {
		t.Helper()
		l, err := open(path, taken)
		if err == nil {
			l.Close()
		}
		if err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), path) {
			t.Errorf("%s: %v, want %q", what, err, want)
		}
	}

	plain := temp(t)
	if err := os.WriteFile(plain, []byte("keep me"), 0o600); err != nil {
		t.Fatal(err)
	}
	refused("a plain file", plain, newPaths(), "not a socket")
	if b, err := os.ReadFile(plain); err != nil || string(b) != "keep me" {
		t.Errorf("the plain file has %q, %v", b, err)
	}

	live, err := net.Listen("unix", temp(t))
	if err != nil {
		t.Fatal(err)
	}
	defer live.Close()
	refused("a live socket", live.Addr().String(), newPaths(), "somebody listens there")
	control(live.(*net.UnixListener), func(fd int) {
		if n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 0); n != 0 {
			t.Errorf("who listens there was connected to: %d, %v", n, err)
		}
	})
	if _, err := os.Lstat(live.Addr().String()); err != nil {
		t.Errorf("the live socket's file: %v", err)
	}
	refused("no directory", filepath.Join(temp(t), "none", "s"), newPaths(), "make the directory")

	// A socket that a killed process left.
	stale := temp(t)
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.Bind(fd, &unix.SockaddrUnix{Name: stale}); err != nil {
		t.Fatal(err)
	}
	unix.Close(fd)
	taken := newPaths()
	l, err := open(stale, taken)
	if err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(stale); err != nil || info.Mode().Perm() != 0o660 {
		t.Errorf("permissions %v, %v", info.Mode(), err)
	}
	refused("twice in this process", stale, taken, "child web listens there already")
	refused("twice on this machine", stale, newPaths(), "somebody listens there")
	shut(t, l)
	if l, err = open(stale, taken); err != nil {
		t.Fatalf("again after close: %v", err)
	}

	// Somebody else's socket is not removed at the end.
	if err := os.Remove(stale); err != nil {
		t.Fatal(err)
	}
	other, err := net.Listen("unix", stale)
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	shut(t, l)
	if _, err := os.Lstat(stale); err != nil {
		t.Errorf("somebody else's socket file is gone: %v", err)
	}
}
