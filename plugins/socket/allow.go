package socket

import (
	"errors"
	"fmt"
	"os/user"
	"slices"
	"strconv"
	"unsafe"

	"golang.org/x/sys/unix"
)

// allow says which users may connect to a Unix socket, beside what the permissions of its file say. With neither users nor
// groups everybody may.
type allow struct{ users, groups []uint32 }

// parseAllow looks names up.
func parseAllow(users, groups string) (a allow, err error) {
	for _, name := range names(users) {
		id, err := numberOr(name, func() (string, error) {
			u, err := user.Lookup(name)
			if err != nil {
				return "", err
			}
			return u.Uid, nil
		})
		if err != nil {
			return a, fmt.Errorf("users=%s: there is no user %q", users, name)
		}
		a.users = append(a.users, id)
	}
	for _, name := range names(groups) {
		id, err := numberOr(name, func() (string, error) {
			g, err := user.LookupGroup(name)
			if err != nil {
				return "", err
			}
			return g.Gid, nil
		})
		if err != nil {
			return a, fmt.Errorf("groups=%s: there is no group %q", groups, name)
		}
		a.groups = append(a.groups, id)
	}
	return a, nil
}

// numberOr is text as a number, or what lookup finds.
func numberOr(text string, lookup func() (string, error)) (uint32, error) {
	if n, err := strconv.ParseUint(text, 10, 32); err == nil {
		return uint32(n), nil
	}
	id, err := lookup()
	if err != nil {
		return 0, err
	}
	n, err := strconv.ParseUint(id, 10, 32)
	return uint32(n), err
}

// admits says why the peer of c may not connect; nil: it may. The kernel noted who that is when it connected
// (SO_PEERCRED and SO_PEERGROUPS, unix(7)).
func (a allow) admits(c conn) error {
	if len(a.users)+len(a.groups) == 0 {
		return nil
	}
	var cred *unix.Ucred
	var groups []uint32
	var err error
	ctlErr := control(c, func(fd int) {
		if cred, err = unix.GetsockoptUcred(fd, unix.SOL_SOCKET, unix.SO_PEERCRED); err == nil {
			groups, err = peerGroups(fd)
		}
	})
	if err := errors.Join(ctlErr, err); err != nil {
		return fmt.Errorf("find out who connects: %w", err)
	}
	if slices.Contains(a.users, cred.Uid) || slices.Contains(a.groups, cred.Gid) {
		return nil
	}
	for _, g := range groups {
		if slices.Contains(a.groups, g) {
			return nil
		}
	}
	return fmt.Errorf("a reader was refused: process %d of user id %d is not in users= or groups=", cred.Pid, cred.Uid)
}

// peerGroups are the supplementary groups of the peer.
func peerGroups(fd int) ([]uint32, error) {
	groups := make([]uint32, 64)
	for {
		size := uint32(4 * len(groups))
		_, _, errno := unix.Syscall6(unix.SYS_GETSOCKOPT, uintptr(fd), unix.SOL_SOCKET, unix.SO_PEERGROUPS,
			uintptr(unsafe.Pointer(&groups[0])), uintptr(unsafe.Pointer(&size)), 0)
		switch errno {
		case 0:
			return groups[:size/4], nil
		case unix.ERANGE:
			groups = make([]uint32, size/4)
		default:
			return nil, errno
		}
	}
}
