package keeper

import (
	"errors"
	"io/fs"
	"os"

	"github.com/landlock-lsm/go-landlock/landlock"
	llsys "github.com/landlock-lsm/go-landlock/landlock/syscall"

	"github.com/muxd/muxd/core/keeper/keeperpb"
)

// LandlockABI is the version of Landlock that the kernel has, 0 where it has none: before Linux 5.13, or turned off.
func LandlockABI() int {
	abi, err := llsys.LandlockGetABIVersion()
	if err != nil {
		return 0
	}
	return abi
}

// LandlockSockets is the first version of Landlock whose bounds hold for Unix sockets in the file system, too.
const LandlockSockets = 9

// landlockRefer is the first version under which a file may be renamed into another directory at all.
const landlockRefer = 2

// newRuleset makes the Landlock rules of c, as far as the kernel has them, and returns the descriptor, which is
// close-on-exec, and the flags for landlock_restrict_self(2); -1 where there is nothing to enforce.
func newRuleset(c *keeperpb.Confine) (ruleset int, flags uint32, err error) {
	if c == nil {
		return -1, 0, nil
	}
	var rules []landlock.Rule
	for _, write := range []bool{false, true} {
		paths := c.GetRead()
		if write {
			paths = c.GetWrite()
		}
		for _, path := range paths {
			st, err := os.Stat(path)
			switch {
			case errors.Is(err, fs.ErrNotExist):
				continue
			case err != nil:
				return -1, 0, err
			}
			rules = append(rules, rule(path, st.IsDir(), write))
		}
	}
	// Bounds of the network are the firewall's business: a socket sink connects to wherever its user says.
	bounds := landlock.Config{HandledAccessFS: landlock.V9.HandledAccessFS, Scoped: landlock.V9.Scoped}
	return bounds.BestEffort().NewRulesetFD(rules...)
}

func rule(path string, dir, write bool) landlock.FSRule {
	switch {
	case !write && dir:
		return landlock.RODirs(path)
	case !write:
		return landlock.ROFiles(path)
	case !dir:
		return landlock.RWFiles(path).WithIoctlDev().WithResolveUnix()
	}
	r := landlock.RWDirs(path).WithIoctlDev().WithResolveUnix()
	if LandlockABI() >= landlockRefer { // with it an older kernel would enforce nothing
		r = r.WithRefer()
	}
	return r
}
