package sink

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// reserveMost is how many descriptors a plugin's process keeps for what it serves already: for viewers, logs, a successor's takeover,
// and what the streams that run come to need.
const reserveMost = 64

// room refuses a new opening while there are descriptors left for it, and not when they have run out in the middle of one. A descriptor is
// always the lowest free number (open(2)), so one whose number is n says that n others are open.
func room() error {
	var lim unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &lim); err != nil {
		return fmt.Errorf("get RLIMIT_NOFILE: %w", err)
	}
	reserve := min(reserveMost, lim.Cur/4)
	n, err := unix.Open("/", unix.O_PATH|unix.O_CLOEXEC, 0)
	if err == nil {
		unix.Close(n)
		if uint64(n)+reserve < lim.Cur {
			return nil
		}
		err = unix.EMFILE
	}
	return fmt.Errorf("the sink's process may have %d descriptors open (RLIMIT_NOFILE) and keeps %d in reserve: "+
		"raise the limit of muxd (ulimit -n, or LimitNOFILE= in its systemd unit), or end something: %w", lim.Cur, reserve, err)
}
