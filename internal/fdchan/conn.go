// Package fdchan is the fd channel: a SOCK_SEQPACKET Unix socket on which descriptors travel with the ticket that
// says what they are for. PROTOCOL.md gives its bytes; the constants here are the same.
package fdchan

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/muxd/muxd/internal/fd"
)

// Type says what a packet is.
type Type byte

const (
	// Hello is a client's first packet on fd.sock: its ticket names the session from then on.
	Hello Type = 1
	// Give carries fds under a ticket.
	Give Type = 2
	// Ack answers Give or Hello: the receiver holds the fds, and the giver may close its copies.
	Ack Type = 3
	// Refuse answers Give or Hello: the receiver has closed the fds; the payload is a sentence saying why.
	Refuse Type = 4
	// Park asks the receiver to hold copies of fds under the name that is the payload, and is answered like Give. Fds
	// that were parked under the name before are dropped; without fds the name is.
	Park Type = 6
	// Message carries a payload of another protocol (keeper and agent), and fds. It is not answered.
	Message Type = 5
	// Call asks the receiver to do something, with the fds of the same packet, and is answered by Return with the same ticket.
	Call Type = 7
	// Return is the answer to Call. What it says decides whether the fds of the call are safe.
	Return Type = 8
	// Cancel says that nobody waits for the Return to the Call of the ticket any more. It is not answered.
	Cancel Type = 9
)

const (
	// Magic and Version are the first five bytes of every packet.
	Magic   = "MUXF"
	Version = 1

	// HeaderSize is magic, version, type, number of fds, a zero byte, and the ticket.
	HeaderSize = 24

	// MaxFDs is the most descriptors in one packet (the kernel's SCM_MAX_FD is 253).
	MaxFDs = 250

	// MaxPayload bounds what stands behind the header, below the default SO_SNDBUF of 208 KiB.
	MaxPayload = 128 << 10
)

// Ticket names the purpose of descriptors in flight: random, used once.
type Ticket [16]byte

// NewTicket returns a random ticket.
func NewTicket() Ticket {
	var t Ticket
	rand.Read(t[:])
	return t
}

// TicketFrom checks that b is a ticket.
func TicketFrom(b []byte) (Ticket, error) {
	var t Ticket
	if len(b) != len(t) {
		return t, fmt.Errorf("ticket of %d bytes, want %d", len(b), len(t))
	}
	copy(t[:], b)
	return t, nil
}

func (t Ticket) String() string { return hex.EncodeToString(t[:4]) }

// Packet is a packet without its descriptors.
type Packet struct {
	Type    Type
	Ticket  Ticket
	Payload []byte
}

// Errors of Recv that leave the connection usable: the packet's descriptors have been closed.
var (
	ErrTruncated = errors.New("packet or its descriptors were cut short (out of descriptors?)")
	ErrMalformed = errors.New("malformed packet")
)

// Conn is one end of an fd channel. Send may be called from several goroutines, Recv from one at a time.
type Conn struct{ uc *net.UnixConn }

// packetBuffer is memory for any packet and its control message. A Conn that waits has none.
type packetBuffer struct {
	b   [HeaderSize + MaxPayload + 1]byte
	oob [1024]byte // CmsgSpace(4*MaxFDs) and a little
}

var packetBuffers = sync.Pool{New: func() any { return &packetBuffer{} }}

// New takes ownership of f, a connected SEQPACKET socket.
func New(f *fd.FD) (*Conn, error) {
	file := f.File("fd channel")
	defer file.Close()
	c, err := net.FileConn(file)
	if err != nil {
		return nil, fmt.Errorf("fd channel: %w", err)
	}
	uc, ok := c.(*net.UnixConn)
	if !ok {
		c.Close()
		return nil, errors.New("fd channel: not a Unix socket")
	}
	return NewConn(uc), nil
}

// NewConn takes ownership of uc, a connected SEQPACKET socket ("unixpacket").
func NewConn(uc *net.UnixConn) *Conn {
	return &Conn{uc: uc}
}

// Close closes the connection; a blocked Send or Recv returns net.ErrClosed.
func (c *Conn) Close() error { return c.uc.Close() }

// Peer returns the credentials of the process that made the other end (SO_PEERCRED, unix(7)).
func (c *Conn) Peer() (*unix.Ucred, error) { return PeerCred(c.uc) }

// PeerCred returns the credentials of the process at the other end of uc, as of its connect or socketpair.
func PeerCred(uc *net.UnixConn) (*unix.Ucred, error) {
	raw, err := uc.SyscallConn()
	if err != nil {
		return nil, err
	}
	var cred *unix.Ucred
	var credErr error
	err = raw.Control(func(n uintptr) {
		cred, credErr = unix.GetsockoptUcred(int(n), unix.SOL_SOCKET, unix.SO_PEERCRED)
	})
	if err != nil {
		return nil, err
	}
	return cred, credErr
}

// Marshal appends the packet's bytes, for nfds descriptors, to b.
func (p Packet) Marshal(b []byte, nfds int) ([]byte, error) {
	if nfds > MaxFDs {
		return nil, fmt.Errorf("%d descriptors in one packet, the most is %d", nfds, MaxFDs)
	}
	if len(p.Payload) > MaxPayload {
		return nil, fmt.Errorf("payload of %d bytes in one packet, the most is %d", len(p.Payload), MaxPayload)
	}
	b = append(b, Magic...)
	b = append(b, Version, byte(p.Type), byte(nfds), 0)
	b = append(b, p.Ticket[:]...)
	return append(b, p.Payload...), nil
}

// Unmarshal reads a packet and the number of descriptors that it says it has. The payload is b's own memory.
func Unmarshal(b []byte) (Packet, int, error) {
	var p Packet
	switch {
	case len(b) < HeaderSize:
		return p, 0, fmt.Errorf("%w: %d bytes, shorter than a header", ErrMalformed, len(b))
	case string(b[:4]) != Magic:
		return p, 0, fmt.Errorf("%w: it begins with %q", ErrMalformed, b[:4])
	case b[4] != Version:
		return p, 0, fmt.Errorf("%w: version %d, this side speaks %d", ErrMalformed, b[4], Version)
	case b[7] != 0:
		return p, 0, fmt.Errorf("%w: reserved byte is %d", ErrMalformed, b[7])
	case int(b[6]) > MaxFDs:
		return p, 0, fmt.Errorf("%w: %d descriptors", ErrMalformed, b[6])
	}
	p.Type = Type(b[5])
	copy(p.Ticket[:], b[8:])
	p.Payload = b[HeaderSize:]
	return p, int(b[6]), nil
}

// Broken says whether err of an Endpoint or a Conn means that the other side has gone, or the connection was closed here.
func Broken(err error) bool {
	return errors.Is(err, net.ErrClosed) || errors.Is(err, io.EOF) || errors.Is(err, unix.EPIPE) || errors.Is(err, unix.ECONNRESET)
}

// Send sends p with copies of fds. It does not take ownership of fds. It blocks while the peer's queue is full.
func (c *Conn) Send(p Packet, fds ...int) error {
	b, err := p.Marshal(make([]byte, 0, HeaderSize+len(p.Payload)), len(fds))
	if err != nil {
		return fmt.Errorf("send on fd channel: %w", err)
	}
	var oob []byte
	if len(fds) > 0 {
		oob = unix.UnixRights(fds...)
	}
	n, _, err := c.uc.WriteMsgUnix(b, oob, nil)
	switch {
	case errors.Is(err, unix.ETOOMANYREFS):
		return fmt.Errorf("send on fd channel: %w: too many descriptors of this user are in flight, try again", err)
	case err != nil:
		return fmt.Errorf("send on fd channel: %w", err)
	case n != len(b):
		return fmt.Errorf("send on fd channel: %w", io.ErrShortWrite)
	}
	return nil
}

// Recv blocks for the next packet and returns its descriptors, owned by the caller, close-on-exec. On ErrTruncated and
// ErrMalformed the packet's descriptors are closed and the next Recv goes on; every other error (io.EOF when the
// peer has closed) is the connection's end.
func (c *Conn) Recv() (Packet, []*fd.FD, error) {
	raw, err := c.uc.SyscallConn()
	if err != nil {
		return Packet{}, nil, err
	}
	var p Packet
	var fds []*fd.FD
	var recvErr error
	err = raw.Read(func(s uintptr) bool {
		p, fds, recvErr = recv(int(s))
		return !errors.Is(recvErr, unix.EAGAIN)
	})
	if err != nil {
		return Packet{}, nil, err
	}
	return p, fds, recvErr
}

// recv takes the next packet of a socket, if there is one.
func recv(s int) (Packet, []*fd.FD, error) {
	buf := packetBuffers.Get().(*packetBuffer)
	defer packetBuffers.Put(buf)
	n, oobn, flags, _, err := unix.Recvmsg(s, buf.b[:], buf.oob[:], unix.MSG_DONTWAIT|unix.MSG_CMSG_CLOEXEC)
	for err == unix.EINTR {
		n, oobn, flags, _, err = unix.Recvmsg(s, buf.b[:], buf.oob[:], unix.MSG_DONTWAIT|unix.MSG_CMSG_CLOEXEC)
	}
	switch {
	case err != nil:
		return Packet{}, nil, os.NewSyscallError("recvmsg", err)
	case n == 0 && oobn == 0:
		return Packet{}, nil, io.EOF
	}
	fds, err := rights(buf.oob[:oobn])
	if err != nil {
		return Packet{}, nil, fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	if flags&(unix.MSG_CTRUNC|unix.MSG_TRUNC) != 0 {
		fd.CloseAll(fds)
		return Packet{}, nil, ErrTruncated
	}
	p, want, err := Unmarshal(buf.b[:n])
	if err == nil && want != len(fds) {
		err = fmt.Errorf("%w: it says %d descriptors and has %d", ErrMalformed, want, len(fds))
	}
	if err != nil {
		fd.CloseAll(fds)
		return Packet{}, nil, err
	}
	p.Payload = append([]byte(nil), p.Payload...)
	return p, fds, nil
}

// rights returns the descriptors of control messages, owned by the caller. On an error it closes them.
func rights(oob []byte) (fds []*fd.FD, err error) {
	msgs, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return nil, err
	}
	for _, m := range msgs {
		if m.Header.Level != unix.SOL_SOCKET || m.Header.Type != unix.SCM_RIGHTS {
			continue
		}
		ns, parseErr := unix.ParseUnixRights(&m)
		if parseErr != nil {
			err = parseErr
			continue
		}
		for _, n := range ns {
			fds = append(fds, fd.New(n))
		}
	}
	if err != nil {
		fd.CloseAll(fds)
		return nil, err
	}
	return fds, nil
}
