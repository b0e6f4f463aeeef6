package sinktest

import (
	"fmt"
	"os"
	"os/exec"
	"sync"
	"syscall"
)

// reaper outlives a kit that is killed, in a process of its own, and ends then what the kit has started: plugins, each in a session of its own,
// would go on, as they do when muxd is killed. It is told of each, reads that it is alone from the end of the pipe, and removes the
// kit's directory too.
type reaper struct {
	cmd *exec.Cmd
	mu  sync.Mutex
	in  *os.File
}

const reap = `
while read -r what pid; do
	case $what in
	start) all="$all $pid" ;;
	end) rest=; for p in $all; do [ "$p" = "$pid" ] || rest="$rest $p"; done; all=$rest ;;
	esac
done
for p in $all; do kill -s KILL -- "-$p"; done 2>/dev/null
rm -rf "$1"
`

// startReaper starts one for a kit that has dir.
func startReaper(dir string) (*reaper, error) {
	out, in, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer out.Close()
	cmd := exec.Command("/bin/sh", "-c", reap, "sinktest-reaper", dir)
	cmd.Dir, cmd.Stdin = "/", out
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true} // not with the terminal's group
	if err := cmd.Start(); err != nil {
		in.Close()
		return nil, fmt.Errorf("start what ends plugins where the kit is killed: %w", err)
	}
	return &reaper{cmd: cmd, in: in}, nil
}

func (r *reaper) tell(what string, pid int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	fmt.Fprintln(r.in, what, pid)
}

// close returns when the kit's directory is gone.
func (r *reaper) close() {
	r.in.Close()
	r.cmd.Wait()
}
