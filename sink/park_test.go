package sink

import (
	"context"
	"errors"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/muxd/muxd/internal/fd"
	"github.com/muxd/muxd/internal/fdchan"
)

// An agent that dies over a Park never acknowledges it: the next one, which begins with a Watch, is sent it again at once.
func TestParkAgain(t *testing.T) {
	ours, theirs, err := fd.Socketpair(unix.SOCK_SEQPACKET)
	if err != nil {
		t.Fatal(err)
	}
	conn, err := fdchan.New(ours)
	if err != nil {
		t.Fatal(err)
	}
	muxd, err := fdchan.New(theirs)
	if err != nil {
		t.Fatal(err)
	}
	defer muxd.Close()
	s := newServer(&Plugin{Name: "x"}, conn)
	defer s.close()
	next := func() fdchan.Packet {
		p, fds, err := muxd.Recv()
		fd.CloseAll(fds)
		if err != nil || p.Type != fdchan.Park || string(p.Payload) != "name" || len(fds) != 1 {
			t.Fatalf("%v %q with %d descriptors, %v; want a Park", p.Type, p.Payload, len(fds), err)
		}
		return p
	}
	parked := make(chan error, 1)
	go func() { parked <- s.park("name", 0) }()
	next()
	s.parks.retry()
	second := next()
	if err := muxd.Send(fdchan.Packet{Type: fdchan.Ack, Ticket: second.Ticket}); err != nil {
		t.Fatal(err)
	}
	if err := <-parked; err != nil {
		t.Errorf("park: %v", err)
	}

	// A call that nobody waits for any more parks nothing.
	ctx, cancel := context.WithCancel(context.Background())
	go func() { parked <- s.parkFor(ctx, "name", 0) }()
	next()
	cancel()
	if err := <-parked; !errors.Is(err, context.Canceled) {
		t.Errorf("park for a call that has ended: %v", err)
	}
	if err := s.parkFor(ctx, "other", 0); !errors.Is(err, context.Canceled) {
		t.Errorf("park for a call that had ended: %v", err)
	}
}
