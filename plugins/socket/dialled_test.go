package socket

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func connectTo(t *testing.T, a address, p port) *dialled {
	t.Helper()
	d, err := openDialled(t.Context(), at(a), p, false)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func TestDialled(t *testing.T) {
	for _, network := range []string{"unix", "tcp"} {
		t.Run(network, func(t *testing.T) {
			name := "127.0.0.1:0"
			if network == "unix" {
				name = temp(t)
			}
			srv, a := newServer(t, network, name)
			child, input := newChild(t)
			p, troubles := testPort(t, input, 2)
			d := connectTo(t, a, p)
			peer := srv.accept()
			put(t, d, "out")
			put(t, d, "put")
			peer.wants("output")
			peer.says("to the child")
			child.wants(t, "to the child")
			putLast(t, d) // of one of two
			put(t, d, "more")
			peer.wants("more")

			// The peer shuts down its side, and still reads.
			if err := peer.CloseWrite(); err != nil {
				t.Fatal(err)
			}
			child.wantsEOF(t)
			put(t, d, "and more")
			peer.wants("and more")

			ended := later(func() error { return putting(context.Background(), d, nil, true) })
			peer.wantsEOF()
			if err := comes(t, ended); err != nil {
				t.Error(err)
			}
			shut(t, d)
			if len(troubles) != 0 {
				t.Errorf("trouble: %v", <-troubles)
			}
		})
	}
}

func TestDialFails(t *testing.T) {
	dead := temp(t)
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	if err := unix.Bind(fd, &unix.SockaddrUnix{Name: dead}); err != nil {
		t.Fatal(err)
	}
	plain := temp(t)
	if err := os.WriteFile(plain, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	p, _ := testPort(t, nil, 1)
	for _, c := range []struct {
		address
		errno error
		want  string
	}{
		{address{"unix", temp(t)}, unix.ENOENT, "socket:listen=unix:"},
		{address{"unix", dead}, unix.ECONNREFUSED, "start the peer first"},
		{address{"unix", plain}, unix.ECONNREFUSED, "nobody listens there"},
		{address{"tcp", "127.0.0.1:1"}, unix.ECONNREFUSED, "start the peer first"},
	} {
		_, err := openDialled(t.Context(), at(c.address), p, false)
		if !errors.Is(err, c.errno) || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), c.name) {
			t.Errorf("%v: %v", c.address, err)
		}
	}
}

// TestPeerDies kills the peer in the middle of a large chunk: what it was not given comes on the next connection.
func TestPeerDies(t *testing.T) {
	srv, a := newServer(t, "unix", temp(t))
	p, troubles := testPort(t, nil, 1)
	d := connectTo(t, a, p)
	defer shut(t, d)
	first := srv.accept()
	data := make([]byte, 4<<20)
	for i := range data {
		data[i] = byte(i >> 8)
	}
	sent := later(func() error { return putting(context.Background(), d, data, false) })
	got := make([]byte, 100<<10)
	if _, err := io.ReadFull(first, got); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, data[:len(got)]) {
		t.Error("the first peer read something else")
	}
	waitFull(t, first)
	unread := readable(t, first)
	first.Close()
	if err := troubles.next(t); !errors.Is(err, unix.EPIPE) && !errors.Is(err, unix.ECONNRESET) {
		t.Errorf("told %v", err)
	}
	second := srv.accept()
	if err := troubles.next(t); err != nil {
		t.Errorf("told %v when it was over", err)
	}
	rest := data[len(got)+unread:]
	second.wants(string(rest))
	if err := comes(t, sent); err != nil {
		t.Fatal(err)
	}
}

// waitFull waits until no more fits between the sink and p.
func waitFull(t *testing.T, p peer) {
	t.Helper()
	for n, still := readable(t, p), 0; still < 5; time.Sleep(10 * time.Millisecond) {
		if m := readable(t, p); m == n {
			still++
		} else {
			n, still = m, 0
		}
	}
}

// readable is how many bytes p could read now.
func readable(t *testing.T, p peer) (n int) {
	t.Helper()
	raw, err := p.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	raw.Control(func(fd uintptr) { n, err = unix.IoctlGetInt(int(fd), unix.TIOCINQ) })
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// TestPeerComesBack has the peer away for a while, with its socket file gone.
func TestPeerComesBack(t *testing.T) {
	path := temp(t)
	srv, a := newServer(t, "unix", path)
	child, input := newChild(t)
	p, troubles := testPort(t, input, 1)
	d := connectTo(t, a, p)
	defer shut(t, d)
	peer := srv.accept()
	srv.ln.Close()
	// Closed with unread input, so that our side reads a reset and not an end.
	put(t, d, "unread")
	peer.Close()
	if err := troubles.next(t); !errors.Is(err, unix.ECONNRESET) && !errors.Is(err, unix.EPIPE) {
		t.Errorf("told %v", err)
	}
	sent := later(func() error { return putting(context.Background(), d, []byte("hello"), false) })
	srv, _ = newServer(t, "unix", path)
	peer = srv.accept()
	peer.wants("hello")
	if err := comes(t, sent); err != nil {
		t.Fatal(err)
	}
	if err := troubles.next(t); err != nil {
		t.Errorf("told %v when it was over", err)
	}
	peer.says("input goes on")
	child.wants(t, "input goes on")
}

// TestComesAgainWithoutAPeer opens a sink again, in a new process of the plugin, while the peer is away.
func TestComesAgainWithoutAPeer(t *testing.T) {
	path := temp(t)
	child, input := newChild(t)
	p, troubles := testPort(t, input, 1)
	d, err := openDialled(t.Context(), at(address{"unix", path}), p, true)
	if err != nil {
		t.Fatal(err)
	}
	if err := troubles.next(t); err == nil || !strings.Contains(err.Error(), path) {
		t.Errorf("told %v", err)
	}
	sent := later(func() error { return putting(context.Background(), d, []byte("hello"), false) })
	srv, _ := newServer(t, "unix", path)
	peer := srv.accept()
	peer.wants("hello")
	peer.says("input")
	child.wants(t, "input")
	if err := comes(t, sent); err != nil {
		t.Fatal(err)
	}
	shut(t, d)

	// It may also end before there is a peer.
	p, _ = testPort(t, nil, 1)
	if d, err = openDialled(t.Context(), at(address{"unix", temp(t)}), p, true); err != nil {
		t.Fatal(err)
	}
	putLast(t, d)
	shut(t, d)
}

func TestDialledGivenUp(t *testing.T) {
	srv, a := newServer(t, "unix", temp(t))
	p, _ := testPort(t, nil, 2)
	d := connectTo(t, a, p)
	defer shut(t, d)
	peer := srv.accept()
	ctx, cancel := context.WithCancel(context.Background())
	blocked := later(func() error { return putting(ctx, d, make([]byte, 4<<20), false) })
	waitFull(t, peer)
	waiting := later(func() error { return putting(ctx, d, []byte("x"), false) })
	cancel()
	for _, c := range []<-chan error{blocked, waiting} {
		if err := comes(t, c); !errors.Is(err, context.Canceled) {
			t.Errorf("put returned %v", err)
		}
	}

	// Another stream of the sink may go on, over the same connection.
	sent := later(func() error { return putting(context.Background(), d, []byte("y"), false) })
	peer.SetReadDeadline(time.Now().Add(patience))
	if _, err := bufio.NewReader(peer).ReadString('y'); err != nil {
		t.Errorf("read what came later: %v", err)
	}
	if err := comes(t, sent); err != nil {
		t.Fatal(err)
	}

	// So can a wait for a peer that does not come back.
	peer.Close()
	srv.ln.Close()
	ctx, cancel = context.WithCancel(context.Background())
	blocked = later(func() error { return putting(ctx, d, []byte("x"), false) })
	cancel()
	if err := comes(t, blocked); !errors.Is(err, context.Canceled) {
		t.Errorf("put returned %v", err)
	}
}

// TestCloseWhileReconnecting closes a sink whose reader looks for the peer.
func TestCloseWhileReconnecting(t *testing.T) {
	srv, a := newServer(t, "unix", temp(t))
	_, input := newChild(t)
	p, troubles := testPort(t, input, 1)
	d := connectTo(t, a, p)
	peer := srv.accept()
	srv.ln.Close()
	put(t, d, "unread")
	peer.Close()
	troubles.next(t)
	shut(t, d)
}

// TestCloseWhileTheChildDoesNotRead closes a sink whose input is blocked.
func TestCloseWhileTheChildDoesNotRead(t *testing.T) {
	srv, a := newServer(t, "unix", temp(t))
	_, input := newChild(t)
	p, _ := testPort(t, input, 1)
	d := connectTo(t, a, p)
	srv.accept().says("nobody reads this")
	shut(t, d)
}

// TestNothingIsLostAtTheEnd has a peer that talks without being listened to, reads late, and gets all.
func TestNothingIsLostAtTheEnd(t *testing.T) {
	srv, a := newServer(t, "tcp", "127.0.0.1:0")
	p, _ := testPort(t, nil, 1)
	d := connectTo(t, a, p)
	peer := srv.accept()
	peer.says("talk that nobody asked for")
	text := strings.Repeat("x", 256<<10)
	ended := later(func() error {
		return errors.Join(
			putting(context.Background(), d, []byte(text), false),
			putting(context.Background(), d, nil, true),
			d.Close())
	})
	peer.wants(text)
	peer.wantsEOF()
	peer.Close()
	if err := comes(t, ended); err != nil {
		t.Error(err)
	}
}

// TestEndWaits says how long the end waits: not for a peer that has all, and not for ever for one that does not read.
func TestEndWaits(t *testing.T) {
	srv, a := newServer(t, "unix", temp(t))
	p, _ := testPort(t, nil, 1)
	d := connectTo(t, a, p)
	peer := srv.accept()
	put(t, d, "x")
	peer.wants("x")
	start := time.Now()
	putLast(t, d)
	if took := time.Since(start); took > lingerTime/2 {
		t.Errorf("the end of a peer that has all took %v", took)
	}
	shut(t, d)

	p, _ = testPort(t, nil, 1)
	d = connectTo(t, a, p)
	srv.accept()
	put(t, d, "x")
	start = time.Now()
	putLast(t, d)
	if took := time.Since(start); took < lingerTime || took > 2*lingerTime {
		t.Errorf("the end of a peer that does not read took %v, want about %v", took, lingerTime)
	}
	shut(t, d)
}

// TestChunksStayWhole writes from two streams at once.
func TestChunksStayWhole(t *testing.T) {
	srv, a := newServer(t, "unix", temp(t))
	p, _ := testPort(t, nil, 2)
	d := connectTo(t, a, p)
	peer := srv.accept()
	const size, chunks = 10_000, 100
	var both sync.WaitGroup
	for _, letter := range []string{"a", "b"} {
		both.Go(func() {
			for range chunks {
				put(t, d, strings.Repeat(letter, size))
			}
		})
	}
	b := make([]byte, size)
	for range 2 * chunks {
		if _, err := io.ReadFull(peer, b); err != nil {
			t.Fatal(err)
		}
		if n := bytes.Count(b, b[:1]); n != size {
			t.Fatalf("a chunk of %d bytes has %d of one stream", size, n)
		}
	}
	both.Wait()
	shut(t, d)
}

// TestDialledKilled has a process of the plugin die, which is to do nothing any more, in the middle of a chunk. The peer does
// not notice.
func TestDialledKilled(t *testing.T) {
	srv, a := newServer(t, "unix", temp(t))
	child, input := newChild(t)
	p, troubles := testPort(t, nil, 1)
	first := connectTo(t, a, p)
	defer shut(t, first)
	peer := srv.accept()
	srv.ln.Close()
	put(t, first, "one ")

	p.input = input
	second, err := openDialled(t.Context(), at(a), p, true)
	if err != nil {
		t.Fatal(err)
	}
	put(t, second, "two")
	peer.wants("one two")
	peer.says("to the child")
	child.wants(t, "to the child")
	ended := later(func() error { return putting(context.Background(), second, nil, true) })
	peer.wantsEOF()
	peer.Close()
	if err := comes(t, ended); err != nil {
		t.Error(err)
	}
	shut(t, second)
	if len(troubles) != 0 {
		t.Errorf("trouble: %v", <-troubles)
	}
}
