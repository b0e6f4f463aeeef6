package keeper

import (
	"fmt"
	"os"
	"slices"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/muxd/muxd/core/keeper/keeperpb"
)

// asUser calls f with the file system identity of cred on the calling thread, which must be locked to its
// goroutine: what f looks up and enters is what that user may. A nil cred is the keeper's own. setfsuid(2),
// setfsgid(2) and, as the kernel has it, setgroups(2) are of the thread; leaving uid 0 takes CAP_DAC_OVERRIDE
// and its like away, coming back gives them back (capabilities(7)).
func asUser(cred *keeperpb.Credential, f func() *Error) *Error {
	if cred == nil {
		return f()
	}
	own, err := unix.Getgroups()
	if err != nil {
		return fail(err.(syscall.Errno), "get muxd's own groups")
	}
	if err := unix.Setgroups(ints(cred.GetGroups())); err != nil {
		return mayNot(cred, err.(syscall.Errno))
	}
	defer func() {
		setFS(os.Geteuid(), os.Getegid())
		if err := unix.Setgroups(own); err != nil || !isFS(os.Geteuid(), os.Getegid()) {
			// Cannot be: who was allowed to leave is allowed to come back. To go on as somebody else would be
			// worse.
			panic(fmt.Sprintf("keeper: get muxd's own identity back: %v", err))
		}
	}()
	setFS(int(cred.GetUid()), int(cred.GetGid()))
	if !isFS(int(cred.GetUid()), int(cred.GetGid())) {
		return mayNot(cred, syscall.EPERM)
	}
	return f()
}

// setFS sets both; the calls report no errors.
func setFS(uid, gid int) {
	unix.SetfsgidRetGid(gid)
	unix.SetfsuidRetUid(uid)
}

// isFS asks for the identity by setting an impossible one, as setfsuid(2) advises.
func isFS(uid, gid int) bool {
	u, _ := unix.SetfsuidRetUid(-1)
	g, _ := unix.SetfsgidRetGid(-1)
	return u == uid && g == gid
}

func mayNot(cred *keeperpb.Credential, errno syscall.Errno) *Error {
	return fail(errno, "run as uid %d, gid %d, groups %v: muxd runs as uid %d and may not change to that",
		cred.GetUid(), cred.GetGid(), cred.GetGroups(), os.Geteuid())
}

// credential returns what a child's credentials must be set to, or nil where they are the keeper's as they
// are: an ordinary user may not even set its own groups again.
func credential(c *keeperpb.Credential) *keeperpb.Credential {
	if c == nil || os.Geteuid() == 0 {
		return c
	}
	if int(c.GetUid()) != os.Geteuid() || int(c.GetGid()) != os.Getegid() {
		return c
	}
	own, err := unix.Getgroups()
	if err != nil {
		return c
	}
	want := ints(c.GetGroups())
	slices.Sort(own)
	slices.Sort(want)
	if len(want) > 0 && !slices.Equal(own, want) {
		return c
	}
	return nil
}

func ints(groups []uint32) []int {
	out := make([]int, len(groups))
	for i, g := range groups {
		out[i] = int(g)
	}
	return out
}
