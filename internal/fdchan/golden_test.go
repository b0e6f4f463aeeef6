package fdchan_test

import (
	"bytes"
	"errors"
	"reflect"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/muxd/muxd/internal/fd"
	"github.com/muxd/muxd/internal/fdchan"
	"github.com/muxd/muxd/internal/golden"
)

// goldenPacket is a packet of testdata/NAME.hex, which PROTOCOL.md shows, and the number of its descriptors.
type goldenPacket struct {
	packet fdchan.Packet
	nfds   int
}

var goldenTicket = fdchan.Ticket{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15}

// goldenPackets has an entry for every file there, but for those named malformed-, which nobody may take.
var goldenPackets = map[string]goldenPacket{
	"hello":        {fdchan.Packet{Type: fdchan.Hello, Ticket: goldenTicket, Payload: []byte{}}, 0},
	"give":         {fdchan.Packet{Type: fdchan.Give, Ticket: goldenTicket, Payload: []byte{}}, 2},
	"ack":          {fdchan.Packet{Type: fdchan.Ack, Ticket: goldenTicket, Payload: []byte{}}, 0},
	"refuse":       {fdchan.Packet{Type: fdchan.Refuse, Ticket: goldenTicket, Payload: []byte("too many")}, 0},
	"park":         {fdchan.Packet{Type: fdchan.Park, Ticket: goldenTicket, Payload: []byte("state")}, 1},
	"call":         {fdchan.Packet{Type: fdchan.Call, Ticket: goldenTicket, Payload: []byte("\x06Forget\n\x05c/1/0")}, 1},
	"return":       {fdchan.Packet{Type: fdchan.Return, Ticket: goldenTicket, Payload: []byte{0}}, 0},
	"return-error": {fdchan.Packet{Type: fdchan.Return, Ticket: goldenTicket, Payload: []byte("\tout path")}, 0},
	"cancel":       {fdchan.Packet{Type: fdchan.Cancel, Ticket: goldenTicket, Payload: []byte{}}, 0},
	"message":      {fdchan.Packet{Type: fdchan.Message, Payload: []byte{0x12, 2, 8, 7}}, 1},
}

func TestGoldenFiles(t *testing.T) {
	seen := 0
	for name, b := range golden.Files(t) {
		p, nfds, err := fdchan.Unmarshal(b)
		want, ok := goldenPackets[name]
		switch {
		case strings.HasPrefix(name, "malformed-"):
			if !errors.Is(err, fdchan.ErrMalformed) {
				t.Errorf("%s.hex: %x was taken as %+v with %d descriptors (error: %v)", name, b, p, nfds, err)
			}
			continue
		case !ok:
			t.Errorf("%s.hex: no packet of that name is known", name)
			continue
		case err != nil:
			t.Errorf("%s.hex: %v", name, err)
			continue
		}
		seen++
		if !reflect.DeepEqual(p, want.packet) || nfds != want.nfds {
			t.Errorf("%s.hex: it was taken as %+v with %d descriptors, want %+v with %d", name, p, nfds, want.packet, want.nfds)
		}
		got, err := want.packet.Marshal(nil, want.nfds)
		if err != nil || !bytes.Equal(got, b) {
			t.Errorf("%s.hex: Marshal makes %x (error: %v), want %x", name, got, err, b)
		}
	}
	if seen != len(goldenPackets) {
		t.Errorf("%d of %d packets have a file in testdata", seen, len(goldenPackets))
	}
}

// TestGoldenOnTheWire looks at what Send puts into a socket, with plain recvmsg(2): one packet is one message, and its
// descriptors come with it.
func TestGoldenOnTheWire(t *testing.T) {
	files := golden.Files(t)
	for name, g := range goldenPackets {
		ours, theirs, err := fd.Socketpair(unix.SOCK_SEQPACKET)
		if err != nil {
			t.Fatal(err)
		}
		conn, err := fdchan.New(ours)
		if err != nil {
			t.Fatal(err)
		}
		send := make([]int, g.nfds)
		for i := range send {
			send[i] = theirs.Int() // anything that is open
		}
		if err := conn.Send(g.packet, send...); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		conn.Close()
		b, oob := make([]byte, 256), make([]byte, 256)
		n, oobn, flags, _, err := unix.Recvmsg(theirs.Int(), b, oob, unix.MSG_CMSG_CLOEXEC)
		if err != nil {
			t.Fatal(err)
		}
		if flags&(unix.MSG_TRUNC|unix.MSG_CTRUNC) != 0 || !bytes.Equal(b[:n], files[name]) {
			t.Errorf("%s: %x came (flags %#x), want %x", name, b[:n], flags, files[name])
		}
		if got := received(t, oob[:oobn]); got != g.nfds {
			t.Errorf("%s: %d descriptors came, want %d", name, got, g.nfds)
		}
		theirs.Close()
	}
}

// received closes the descriptors of control messages, and returns how many there were.
func received(t *testing.T, oob []byte) (n int) {
	t.Helper()
	msgs, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range msgs {
		fds, err := unix.ParseUnixRights(&m)
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range fds {
			unix.Close(f)
			n++
		}
	}
	return n
}
