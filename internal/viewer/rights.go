package viewer

import (
	"encoding/binary"
	"errors"
	"io"
	"net"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// AppendModes appends the modes of a terminal: input, output, control and local modes, the line discipline, and the characters.
func AppendModes(b []byte, t *unix.Termios) []byte {
	for _, n := range []uint32{t.Iflag, t.Oflag, t.Cflag, t.Lflag} {
		b = binary.BigEndian.AppendUint32(b, n)
	}
	return append(append(b, t.Line), t.Cc[:]...)
}

// ParseModes puts into t what AppendModes has written; what else is in t stays.
func ParseModes(b []byte, t *unix.Termios) {
	t.Iflag, t.Oflag = binary.BigEndian.Uint32(b), binary.BigEndian.Uint32(b[4:])
	t.Cflag, t.Lflag = binary.BigEndian.Uint32(b[8:]), binary.BigEndian.Uint32(b[12:])
	t.Line = b[16]
	copy(t.Cc[:], b[17:ModesSize])
}

// oobSize is room for one descriptor: the kernel closes those for which there is none (unix(7)).
var oobSize = unix.CmsgLen(4)

// Recv blocks until a packet is there, with the descriptor that came with it, owned by the caller, -1 where none did. What does not fit
// into p is cut off. io.EOF: the other side has closed. net.ErrClosed: this side has.
func Recv(c syscall.RawConn, p []byte) (n, descriptor int, err error) {
	for range 2 {
		var recvErr error
		err = c.Read(func(s uintptr) bool {
			n, descriptor, recvErr = recvNow(int(s), p)
			return !errors.Is(recvErr, unix.EAGAIN)
		})
		if err == nil {
			err = recvErr
		}
		// ECONNRESET: it closed without having read all. The kernel tells that once, before it gives out what was sent earlier
		// (sock_error in net/core/datagram.c).
		if !errors.Is(err, unix.ECONNRESET) {
			break
		}
	}
	switch {
	case errors.Is(err, net.ErrClosed):
		return 0, -1, net.ErrClosed
	case errors.Is(err, unix.ECONNRESET), err == nil && n == 0:
		return 0, -1, io.EOF
	case err != nil:
		return 0, -1, os.NewSyscallError("recvmsg", err)
	}
	return n, descriptor, nil
}

func recvNow(s int, p []byte) (n, descriptor int, err error) {
	var room [32]byte
	oob := room[:oobSize]
	for {
		var oobn int
		n, oobn, _, _, err = unix.Recvmsg(s, p, oob, unix.MSG_CMSG_CLOEXEC|unix.MSG_DONTWAIT)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil || oobn == 0 {
			return max(n, 0), -1, err
		}
		return n, descriptorOf(oob[:oobn]), nil
	}
}

func descriptorOf(oob []byte) int {
	messages, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return -1
	}
	for i := range messages {
		if fds, err := unix.ParseUnixRights(&messages[i]); err == nil && len(fds) == 1 {
			return fds[0]
		}
	}
	return -1
}

// Send sends the packet p to s without waiting, with a copy of descriptor, which stays the caller's; none where that is negative.
func Send(s int, p []byte, descriptor int) error {
	var oob []byte
	if descriptor >= 0 {
		oob = unix.UnixRights(descriptor)
	}
	for {
		err := unix.Sendmsg(s, p, oob, nil, unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL)
		if !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}
