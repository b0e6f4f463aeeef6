package sink

import (
	"bytes"
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/muxd/muxd/internal/fd"
	"github.com/muxd/muxd/internal/fdchan"
	"github.com/muxd/muxd/sink/sinkpb"
)

// host is muxd's side of fd channels: what is parked is noted.
type host struct {
	mu     sync.Mutex
	parked map[string]int
}

func (h *host) park(name string, fds []*fd.FD) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.parked[name] = len(fds)
	return nil
}

// names lists what was parked since the last call.
func (h *host) names() []string {
	h.mu.Lock()
	defer h.mu.Unlock()
	var out []string
	for name := range h.parked {
		out = append(out, name)
	}
	h.parked = map[string]int{}
	slices.Sort(out)
	return out
}

// collect is a sink that keeps what it gets.
type collect struct {
	mu  sync.Mutex
	all bytes.Buffer
	got chan struct{} // capacity 1: there is more
}

func (c *collect) Write(_ context.Context, chunk *Chunk) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.all.Write(chunk.Data)
	select {
	case c.got <- struct{}{}:
	default:
	}
	return nil
}

func (c *collect) Close() error { return nil }

// wait returns when all of want was written.
func (c *collect) wait(t *testing.T, want string) {
	t.Helper()
	for {
		c.mu.Lock()
		have := c.all.String()
		c.mu.Unlock()
		if have == want {
			return
		}
		select {
		case <-c.got:
		case <-time.After(20 * time.Second):
			t.Fatalf("the sink got %q, want %q", have, want)
		}
	}
}

// alonePlugin is a server that serves one stream, and the ends of what it serves.
type alonePlugin struct {
	srv  *server
	sink *collect
	host host
	ep   *fdchan.Endpoint // the host's side of the channel
	near *os.File
}

func startAlone(t *testing.T) *alonePlugin {
	t.Helper()
	a := &alonePlugin{sink: &collect{got: make(chan struct{}, 1)}, host: host{parked: map[string]int{}}}
	ours, theirs, err := fd.Socketpair(unix.SOCK_SEQPACKET)
	if err != nil {
		t.Fatal(err)
	}
	hostConn, err := fdchan.New(ours)
	if err != nil {
		t.Fatal(err)
	}
	conn, err := fdchan.New(theirs)
	if err != nil {
		t.Fatal(err)
	}
	a.ep = fdchan.NewEndpoint(hostConn, a.host.park)
	a.srv = newServer(&Plugin{
		Name: "collect", Carries: []Stream{Stdout},
		Open: func(context.Context, *Opening) (Sink, error) { return a.sink, nil },
	}, conn)
	t.Cleanup(func() { a.srv.close(); a.ep.Close() })

	r, w, err := fd.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	a.near = w.File("near end")
	t.Cleanup(func() { a.near.Close() })
	ticket := fdchan.NewTicket()
	given := make(chan error, 1)
	go func() { given <- a.ep.Give(context.Background(), ticket, r.Int()) }()
	if _, err := a.srv.Open(context.Background(), &sinkpb.OpenRequest{
		Opening: "c/1/0", Streams: []sinkpb.Stream{sinkpb.Stream_STDOUT}, Ticket: ticket[:], Child: &sinkpb.Child{}, Spec: &sinkpb.Spec{},
	}); err != nil {
		t.Fatal(err)
	}
	if err := <-given; err != nil {
		t.Fatal(err)
	}
	r.Close()
	return a
}

func (a *alonePlugin) write(t *testing.T, text string) {
	t.Helper()
	if _, err := a.near.WriteString(text); err != nil {
		t.Fatal(err)
	}
}

// listen has the plugin listen, and returns where.
func (a *alonePlugin) listen(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "fd")
	n, err := unix.Socket(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.Bind(n, &unix.SockaddrUnix{Name: path}); err != nil {
		t.Fatal(err)
	}
	l, err := a.srv.channel.listen(fd.New(n))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go a.srv.channel.serve(l)
	return path
}

func dialUnix(t *testing.T, path string) *fdchan.Conn {
	t.Helper()
	c, err := net.DialUnix("unixpacket", nil, &net.UnixAddr{Net: "unixpacket", Name: path})
	if err != nil {
		t.Fatal(err)
	}
	return fdchan.NewConn(c)
}

// A plugin that nobody can reach goes on with its streams, and parks everything with the muxd that comes.
func TestAnotherChannel(t *testing.T) {
	a := startAlone(t)
	path := a.listen(t)
	a.write(t, "with ")
	a.sink.wait(t, "with ")
	a.host.names()

	_, replaced := a.srv.channel.now()
	a.ep.Close()
	<-a.srv.ep().Done()
	a.write(t, "without ")
	a.sink.wait(t, "with without ")
	if err := a.srv.park("anything", 0); err != nil {
		t.Errorf("parking with nobody there: %v", err)
	}
	waiting := make(chan bool, 1)
	go func() { waiting <- a.srv.alone(replaced, 0) }()

	stranger := dialUnix(t, path) // who does not say hello is no muxd
	if err := stranger.Send(fdchan.Packet{Type: fdchan.Give}); err != nil {
		t.Fatal(err)
	}
	if _, _, err := stranger.Recv(); !fdchan.Broken(err) {
		t.Errorf("the answer to a stranger: %v, want a closed connection", err)
	}
	stranger.Close()

	conn := dialUnix(t, path)
	hello := fdchan.NewTicket()
	if err := conn.Send(fdchan.Packet{Type: fdchan.Hello, Ticket: hello}); err != nil {
		t.Fatal(err)
	}
	if p, _, err := conn.Recv(); err != nil || p.Type != fdchan.Ack || p.Ticket != hello {
		t.Fatalf("the answer to hello: %v, %v", p, err)
	}
	if <-waiting {
		t.Error("a plugin with an open stream ends for want of a muxd")
	}
	a.ep = fdchan.NewEndpoint(conn, a.host.park)
	if _, err := a.srv.Repark(context.Background(), &sinkpb.ReparkRequest{}); err != nil {
		t.Fatal(err)
	}
	if got, want := a.host.names(), []string{"far/c/1/0/stdout", "pair/0", "state"}; !slices.Equal(got, want) {
		t.Errorf("parked again: %q, want %q", got, want)
	}
}

// What has ended while nobody was there stays to be told, for a time; without anything to tell the process ends.
func TestAloneEnds(t *testing.T) {
	a := startAlone(t)
	a.ep.Close()
	<-a.srv.ep().Done()
	a.write(t, "all")
	a.near.Close()
	_, replaced := a.srv.channel.now()
	begun := time.Now()
	if !a.srv.alone(replaced, 0) {
		t.Fatal("it is not alone")
	}
	if time.Since(begun) < lookEvery {
		t.Error("it did not stay to tell of its results")
	}
	a.sink.wait(t, "all")
	if live, results := a.srv.left(); live || !results {
		t.Errorf("left: streams %v, results %v; want results only", live, results)
	}
	if _, err := a.srv.Forget(context.Background(), &sinkpb.ForgetRequest{Opening: "c/1/0"}); err != nil {
		t.Fatal(err)
	}
	if live, results := a.srv.left(); live || results {
		t.Errorf("left of an opening that is forgotten: streams %v, results %v", live, results)
	}
}

// A stdin counts as long as somebody can read it.
func TestInputOver(t *testing.T) {
	for _, how := range []string{"closed", "unread"} {
		r, w, err := fd.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		in, err := newInput(w, func() {})
		if err != nil {
			t.Fatal(err)
		}
		if in.over() {
			t.Error("an input that can be read is over")
		}
		if how == "closed" {
			in.Close()
		} else {
			r.Close()
		}
		if !in.over() {
			t.Errorf("an input that is %s is not over", how)
		}
		if err := errors.Join(r.Close(), in.Close()); err != nil {
			t.Fatal(err)
		}
	}
}
