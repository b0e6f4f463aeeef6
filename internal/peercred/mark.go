package peercred

import (
	"errors"
	"fmt"
	"net"

	"golang.org/x/sys/unix"

	"github.com/muxd/muxd/internal/fdchan"
)

// A plugin in bounds could still connect to the sockets of muxd and of other plugins, as whoever has its user may, and have itself given every
// stream: Landlock closes sockets in the file system since its version 9 only. So such a process is marked, in a way that it passes on
// to whatever it starts and cannot shed: by the hard limit of a resource that the kernel has not counted since 2.4 (RLIMIT_LOCKS,
// getrlimit(2)), which only somebody with CAP_SYS_RESOURCE can raise.

// Mark is the hard limit of MarkResource that marks a process, and MarkResource that resource.
const (
	Mark         = 0x6d757864_00000000
	MarkResource = unix.RLIMIT_LOCKS
)

// CanMark says whether this process's descendants can be marked, and told from others: it has a higher limit itself.
func CanMark() bool {
	own, err := limit(unix.Getpid())
	return err == nil && own > Mark
}

// refuse refuses a marked process at the other end of c. Where this one has less itself nobody is marked; a plugin that is marked has as much.
func refuse(c *net.UnixConn, cred *unix.Ucred) error {
	if own, err := limit(unix.Getpid()); err != nil || own < Mark {
		return nil
	}
	its, err := limit(int(cred.Pid))
	if errors.Is(err, unix.ESRCH) || !stillThere(c) { // so whose limit that was is not known
		return fmt.Errorf("process %d has ended", cred.Pid)
	}
	if err != nil || its > Mark { // EPERM is of another user, root's, say, which has other ways
		return nil
	}
	return fmt.Errorf("process %d belongs to a plugin in bounds, which is nobody's client", cred.Pid)
}

// limit is the hard limit of a process.
func limit(pid int) (uint64, error) {
	var l unix.Rlimit
	err := unix.Prlimit(pid, MarkResource, nil, &l)
	return l.Max, err
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

// Check lets in, at the other end of c, processes of this process's own user and of root (SO_PEERCRED, unix(7)), but no plugin in bounds, nor what
// that has started.
func Check(c *net.UnixConn) (*unix.Ucred, error) {
	cred, err := fdchan.PeerCred(c)
	if err != nil {
		return nil, err
	}
	if cred.Uid != 0 && int(cred.Uid) != unix.Geteuid() {
		return nil, fmt.Errorf("process %d belongs to user %d", cred.Pid, cred.Uid)
	}
	return cred, refuse(c, cred)
}
