package keeper

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"

	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"

	"github.com/muxd/muxd/core/keeper/keeperpb"
	"github.com/muxd/muxd/internal/fd"
	"github.com/muxd/muxd/internal/fdchan"
)

// A message longer than fdchan.MaxPayload (arguments and environment may take 2 MiB, execve(2)) travels in a
// memfd: the packet's payload is empty and its first descriptor is the memfd, sealed, before those that the
// message speaks of.

// maxMessage bounds a message in a memfd, in bytes.
const maxMessage = 8 << 20

// maxRequestFDs bounds the descriptors of one request. It is below reserve, so that a request can always be
// received whole by a keeper that kept its reserve, and be refused with a reason instead of being cut
// (MSG_CTRUNC, recv(2)).
const maxRequestFDs = 48

const seals = unix.F_SEAL_SHRINK | unix.F_SEAL_GROW | unix.F_SEAL_WRITE | unix.F_SEAL_SEAL

// newChannel takes ownership of f, a connected SEQPACKET socket. The second result is the same connection.
func newChannel(f *fd.FD) (*fdchan.Conn, *net.UnixConn, error) {
	file := f.File("keeper channel")
	defer file.Close()
	c, err := net.FileConn(file)
	if err != nil {
		return nil, nil, fmt.Errorf("keeper channel: %w", err)
	}
	uc, ok := c.(*net.UnixConn)
	if !ok {
		c.Close()
		return nil, nil, errors.New("keeper channel: not a Unix socket")
	}
	return fdchan.NewConn(uc), uc, nil
}

// send sends the message b, already marshalled, with copies of fds. It does not take ownership of fds. It
// blocks while the peer's queue is full.
func send(c *fdchan.Conn, b []byte, fds ...int) error {
	if len(b) <= fdchan.MaxPayload {
		return c.Send(fdchan.Packet{Type: fdchan.Message, Payload: b}, fds...)
	}
	m, err := sealed("muxd message", b)
	if err != nil {
		return fmt.Errorf("send a message of %d bytes: %w", len(b), err)
	}
	defer m.Close()
	return c.Send(fdchan.Packet{Type: fdchan.Message}, append([]int{m.Int()}, fds...)...)
}

// receive blocks for the next message and returns its descriptors, owned by the caller. After an error that
// is fdchan.ErrTruncated or fdchan.ErrMalformed the next receive goes on; every other is the connection's
// end.
func receive(c *fdchan.Conn) (*keeperpb.Message, []*fd.FD, error) {
	p, fds, err := c.Recv()
	if err != nil {
		return nil, nil, err
	}
	m, rest, err := decode(p, fds)
	if err != nil {
		fd.CloseAll(fds)
		return nil, nil, fmt.Errorf("%w: %w", fdchan.ErrMalformed, err)
	}
	return m, rest, nil
}

// decode returns the message of p and which of fds belong to it. It closes none but the memfd of a message.
func decode(p fdchan.Packet, fds []*fd.FD) (*keeperpb.Message, []*fd.FD, error) {
	if p.Type != fdchan.Message {
		return nil, nil, fmt.Errorf("packet of type %d, want %d", p.Type, fdchan.Message)
	}
	b := p.Payload
	if len(b) == 0 && len(fds) > 0 {
		var err error
		if b, err = readSealed(fds[0]); err != nil {
			return nil, nil, err
		}
		fds[0].Close()
		fds = fds[1:]
	}
	m := &keeperpb.Message{}
	if err := proto.Unmarshal(b, m); err != nil {
		return nil, nil, err
	}
	return m, fds, nil
}

// sealed returns a memfd that holds b and can no longer change (memfd_create(2)), owned by the caller.
func sealed(name string, b []byte) (*fd.FD, error) {
	if len(b) > maxMessage {
		return nil, fmt.Errorf("%d bytes, the most is %d: %w", len(b), maxMessage, unix.EMSGSIZE)
	}
	n, err := unix.MemfdCreate(name, unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	if err != nil {
		return nil, os.NewSyscallError("memfd_create", err)
	}
	m := fd.New(n)
	for off := 0; off < len(b); {
		w, err := unix.Pwrite(n, b[off:], int64(off))
		if err != nil && !errors.Is(err, unix.EINTR) {
			m.Close()
			return nil, os.NewSyscallError("write memfd", err)
		}
		off += max(w, 0)
	}
	if _, err := unix.FcntlInt(uintptr(n), unix.F_ADD_SEALS, seals); err != nil {
		m.Close()
		return nil, os.NewSyscallError("seal memfd", err)
	}
	return m, nil
}

// readSealed returns what the sealed memfd m holds. Only a memfd has seals, so a descriptor on some file
// system that might not answer is refused before anything is asked of it.
func readSealed(m *fd.FD) ([]byte, error) {
	got, err := unix.FcntlInt(uintptr(m.Int()), unix.F_GET_SEALS, 0)
	if err != nil || got&seals != seals {
		return nil, errors.New("a message's first descriptor is not a sealed memfd")
	}
	var st unix.Stat_t
	if err := unix.Fstat(m.Int(), &st); err != nil {
		return nil, os.NewSyscallError("fstat", err)
	}
	if st.Size > maxMessage {
		return nil, fmt.Errorf("message of %d bytes, the most is %d", st.Size, maxMessage)
	}
	b := make([]byte, st.Size)
	for off := 0; off < len(b); {
		n, err := unix.Pread(m.Int(), b[off:], int64(off))
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil:
			return nil, os.NewSyscallError("read memfd", err)
		case n == 0:
			return nil, io.ErrUnexpectedEOF
		default:
			off += n
		}
	}
	return b, nil
}
