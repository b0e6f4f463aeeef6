package agent

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/muxd/muxd/control/controlpb"
)

// holderID tells a near end from everything else that a process can have open: the inode of a pipe or socket, or
// the device number of a terminal, and of the devpts that it is in.
type holderID struct{ dev, ino, rdev uint64 }

// holderOf returns the identity of descriptor n.
func holderOf(n int) (holderID, error) {
	var st unix.Stat_t
	if err := unix.Fstat(n, &st); err != nil {
		return holderID{}, err
	}
	return holderFrom(&st), nil
}

func holderFrom(st *unix.Stat_t) holderID {
	if st.Mode&unix.S_IFMT == unix.S_IFCHR {
		return holderID{dev: st.Dev, rdev: st.Rdev}
	}
	return holderID{dev: st.Dev, ino: st.Ino}
}

// findHolders looks in /proc for processes that have the near end of one of the streams open. What belongs to muxd itself
// has far ends, which for a pipe are of the same inode: they are told from near ends by their access mode.
func findHolders(streams []*stream) []*controlpb.Holder {
	want := map[holderID]*stream{}
	for _, s := range streams {
		want[s.holder] = s
	}
	var out []*controlpb.Holder
	dirs, _ := filepath.Glob("/proc/[0-9]*")
	for _, dir := range dirs {
		pid, err := strconv.Atoi(filepath.Base(dir))
		if err != nil {
			continue
		}
		seen := map[*stream]bool{}
		fds, _ := os.ReadDir(dir + "/fd") // gone or not ours: nothing to see
		for _, e := range fds {
			var st unix.Stat_t
			if unix.Stat(dir+"/fd/"+e.Name(), &st) != nil {
				continue
			}
			s := want[holderFrom(&st)]
			if s == nil || seen[s] || !writable(dir, e.Name()) {
				continue
			}
			seen[s] = true
			out = append(out, &controlpb.Holder{Stream: s.rec.Stream, Pid: int32(pid), Command: commandOf(pid)})
		}
	}
	return out
}

// writable says whether descriptor name of a process is open for writing (proc_pid_fdinfo(5)).
func writable(dir, name string) bool {
	b, err := os.ReadFile(dir + "/fdinfo/" + name)
	if err != nil {
		return false
	}
	for line := range strings.Lines(string(b)) {
		if v, ok := strings.CutPrefix(line, "flags:"); ok {
			flags, err := strconv.ParseUint(strings.TrimSpace(v), 8, 64)
			return err == nil && flags&unix.O_ACCMODE != unix.O_RDONLY
		}
	}
	return false
}

// commandOf is the command line of a process, for people.
func commandOf(pid int) string {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	if err != nil {
		return "?"
	}
	text := strings.TrimSpace(strings.ReplaceAll(string(b), "\x00", " "))
	if len(text) > 80 {
		text = text[:77] + "..."
	}
	return text
}
