package keeper

import (
	"errors"
	"fmt"
	"net"

	"golang.org/x/sys/unix"

	"github.com/muxd/muxd/core/keeper/keeperpb"
	"github.com/muxd/muxd/internal/fdchan"
)

// A process in bounds could still connect to muxd's own sockets, as whoever has its user may, and have itself given every stream: Landlock
// closes sockets in the file system since version LandlockSockets only. So such processes are marked, in a way that they pass on
// to whatever they start and cannot shed: by the hard limit of a resource that the kernel has not counted since 2.4 (RLIMIT_LOCKS,
// getrlimit(2)), which only somebody with CAP_SYS_RESOURCE can raise.
const mark = 0x6d757864_00000000

// MarkLimit is the limit that marks a process.
func MarkLimit() *keeperpb.Rlimit {
	return &keeperpb.Rlimit{Resource: unix.RLIMIT_LOCKS, Soft: mark, Hard: mark}
}

// CheckPeer refuses a process in bounds at the other end of c.
func CheckPeer(c *net.UnixConn) error {
	cred, err := fdchan.PeerCred(c)
	if err != nil {
		return err
	}
	marked, err := isMarked(int(cred.Pid))
	if errors.Is(err, unix.ESRCH) || !stillThere(c) { // so whose limits they were is not known
		return fmt.Errorf("process %d has ended", cred.Pid)
	}
	if err != nil || !marked { // of another user, root's, say, which has other ways
		return nil
	}
	if mine, err := isMarked(unix.Getpid()); mine || err != nil { // somebody has limited all of muxd so
		return nil
	}
	return fmt.Errorf("process %d belongs to a plugin, and plugins are no clients of muxd", cred.Pid)
}

// stillThere says whether the process that connected was there until now, and its pid not another's. Before Linux 6.5 nobody can tell.
func stillThere(c *net.UnixConn) bool {
	raw, err := c.SyscallConn()
	if err != nil {
		return false
	}
	there := true
	raw.Control(func(n uintptr) {
		pidfd, err := unix.GetsockoptInt(int(n), unix.SOL_SOCKET, unix.SO_PEERPIDFD)
		if err != nil {
			there = err == unix.ENOPROTOOPT
			return
		}
		there = unix.PidfdSendSignal(pidfd, 0, nil, 0) != unix.ESRCH
		unix.Close(pidfd)
	})
	return there
}

// isMarked says whether a process is marked, or has even less.
func isMarked(pid int) (bool, error) {
	var l unix.Rlimit
	err := unix.Prlimit(pid, unix.RLIMIT_LOCKS, nil, &l)
	return l.Max <= mark, err
}
