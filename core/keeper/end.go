package keeper

import (
	"bytes"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// How long the end waits: for the agent, which has asked for it, to exit; and for processes to die of
// SIGKILL, which one in an uninterruptible sleep does not.
const (
	agentGrace = 2 * time.Second
	killGrace  = 10 * time.Second
)

// end kills and reaps whatever still runs, closes everything, and removes what is in the runtime dir. The
// agent is the last to go: its channel closes when all others are gone.
func (k *keeper) end() {
	k.mu.Lock()
	k.ending = true
	agent := k.agent.pid
	s := k.session
	k.mu.Unlock()

	k.killAll(agent)
	if s != nil {
		s.end()
	}
	k.spawner.close() // a process whose start was under way is there now, or never will be
	if agent != 0 {
		select {
		case <-k.agent.died:
		case <-time.After(agentGrace):
		}
	}
	k.killAll(0)
	k.groups.end()

	k.mu.Lock()
	k.drop("", true)
	for _, p := range k.procs {
		k.unwatch(p)
		p.pidfd.Close()
	}
	k.mu.Unlock()
	k.agent.again.Stop()
	if k.agent.over {
		k.dir.removeLeftovers()
	}
	k.undo()
}

// killAll kills every child but the one given, and the orphans that come to the subreaper when their parents
// die, until none is left.
func (k *keeper) killAll(except int) {
	deadline := time.NewTimer(killGrace)
	defer deadline.Stop()
	for {
		left, refused := k.killChildren(except)
		if left == 0 {
			return
		}
		if left == refused {
			k.logf("%d processes could not be killed: they run as another user", left)
			return
		}
		select {
		case <-k.reaped:
		case <-deadline.C:
			k.logf("%d processes are still there %v after SIGKILL", left, killGrace)
			return
		}
	}
}

// killChildren sends SIGKILL to every child but one, and returns how many children there are, and how many of
// them may not be signalled. Under the lock none is reaped, so that each pid is still the child's.
func (k *keeper) killChildren(except int) (left, refused int) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.reapLocked()
	for _, pid := range children() {
		if pid == except {
			continue
		}
		left++
		if unix.Kill(pid, unix.SIGKILL) == syscall.EPERM {
			refused++
		}
	}
	return left, refused
}

// kill kills the process group of a key, if there is one, and all that is in a cgroup. k.mu is held.
func (k *keeper) kill(key, leaf string) *Error {
	if p := k.procs[key]; p != nil {
		p.signal(unix.SIGKILL, true) // nobody is left where that fails
	}
	return k.groups.kill(leaf)
}

// children returns the pids of this process's children, zombies included. The kernel's own list of them is
// only there with CONFIG_PROC_CHILDREN, and may miss some while others exit (proc_pid_children(5)): what is
// missed is found by the next look, and whether really none is left wait(2) knows.
func children() []int {
	var out []int
	lists, _ := filepath.Glob("/proc/self/task/*/children")
	for _, list := range lists {
		b, err := os.ReadFile(list)
		if err != nil {
			continue
		}
		for _, word := range bytes.Fields(b) {
			if pid, err := strconv.Atoi(string(word)); err == nil {
				out = append(out, pid)
			}
		}
	}
	if len(out) > 0 || !hasChildren() {
		return out
	}
	return childrenByParent()
}

// hasChildren says whether there are any: wait(2) fails with ECHILD where not.
func hasChildren() bool {
	for {
		var info unix.Siginfo
		err := unix.Waitid(unix.P_ALL, 0, &info, unix.WEXITED|unix.WNOHANG|unix.WNOWAIT, nil)
		if err != unix.EINTR {
			return err != unix.ECHILD
		}
	}
}

// childrenByParent looks at all processes.
func childrenByParent() []int {
	var out []int
	me := strconv.Itoa(os.Getpid())
	stats, _ := filepath.Glob("/proc/[0-9]*/stat")
	for _, path := range stats {
		b, err := os.ReadFile(path)
		if err != nil {
			continue
		}
		// PID (NAME) STATE PPID …; the name may have spaces and parentheses (proc_pid_stat(5)).
		fields := bytes.Fields(b[bytes.LastIndexByte(b, ')')+1:])
		if len(fields) > 1 && string(fields[1]) == me {
			if pid, err := strconv.Atoi(filepath.Base(filepath.Dir(path))); err == nil {
				out = append(out, pid)
			}
		}
	}
	return out
}
