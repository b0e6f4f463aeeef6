package agent

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/muxd/muxd/internal/fd"
)

// What an OCI runtime sends to a console socket: one message, with the master of a terminal as its one descriptor, and a name of it
// that nobody needs, of any bytes. It comes on a stream socket, and the connection ends with it.
const (
	consoleNameMost = 4096 // bytes, as runc has it
	consoleFDsMost  = 16   // that are received, to be refused: with room for one, a second would be cut off unseen
)

// errNothingYet says that the message has not come.
var errNothingYet = errors.New("nothing has come yet")

// peekMaster looks at the message on conn, a stream socket, without taking it: whoever is killed over it leaves it for a successor.
// It returns the master, owned by the caller, why the message is refused, or errNothingYet. Nothing of it blocks.
func peekMaster(conn int) (*fd.FD, error) {
	n, fds, err := receive(conn, unix.MSG_PEEK)
	if err == nil {
		err = judge(n, fds)
	}
	if err != nil {
		fd.CloseAll(fds)
		return nil, err
	}
	return fds[0], nil
}

// takeMessage takes what peekMaster has looked at, and says whether more follows, which is refused.
func takeMessage(conn int) error {
	_, fds, err := receive(conn, 0)
	fd.CloseAll(fds)
	if err != nil {
		return err
	}
	n, fds, err := receive(conn, 0)
	fd.CloseAll(fds)
	if !errors.Is(err, errNothingYet) && (n > 0 || len(fds) > 0 || err != nil) {
		return errors.New("more than one message was sent")
	}
	return nil
}

// receive reads one message, and returns its length and its descriptors, owned by the caller also where there is an error.
func receive(conn, flags int) (int, []*fd.FD, error) {
	name := make([]byte, consoleNameMost+1)
	oob := make([]byte, unix.CmsgSpace(4*consoleFDsMost))
	n, oobn, got, _, err := unix.Recvmsg(conn, name, oob, flags|unix.MSG_CMSG_CLOEXEC|unix.MSG_DONTWAIT)
	for err == unix.EINTR {
		n, oobn, got, _, err = unix.Recvmsg(conn, name, oob, flags|unix.MSG_CMSG_CLOEXEC|unix.MSG_DONTWAIT)
	}
	if err == unix.EAGAIN {
		return 0, nil, errNothingYet
	}
	if err != nil {
		return 0, nil, fmt.Errorf("receive from the console socket: %w", err)
	}
	fds, err := rights(oob[:oobn])
	if err == nil && got&unix.MSG_CTRUNC != 0 {
		err = fmt.Errorf("more than %d descriptors were sent, or there was no room for them", consoleFDsMost)
	}
	return n, fds, err
}

// rights returns the descriptors in control messages, owned by the caller, also where there is an error.
func rights(oob []byte) ([]*fd.FD, error) {
	var out []*fd.FD
	messages, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return nil, fmt.Errorf("its control message is malformed: %w", err)
	}
	for _, m := range messages {
		if m.Header.Level != unix.SOL_SOCKET || m.Header.Type != unix.SCM_RIGHTS {
			err = errors.New("it has a control message that is no SCM_RIGHTS")
			continue
		}
		ns, parseErr := unix.ParseUnixRights(&m)
		if parseErr != nil {
			err = fmt.Errorf("its control message is malformed: %w", parseErr)
			continue
		}
		for _, n := range ns {
			out = append(out, fd.New(n))
		}
	}
	return out, err
}

// judge says why a message of n bytes with fds is not as it has to be; nil where it is.
func judge(n int, fds []*fd.FD) error {
	switch {
	case n == 0 && len(fds) == 0:
		return errors.New("the connection was closed, and nothing had been sent")
	case n > consoleNameMost:
		return fmt.Errorf("the message has more than %d bytes", consoleNameMost)
	case len(fds) != 1:
		return fmt.Errorf("the message has %d descriptors, want one", len(fds))
	}
	if err := checkFarMaster(fds[0]); err != nil {
		return fmt.Errorf("the descriptor is refused: %w", err)
	}
	return nil
}
