package keeper

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/muxd/muxd/core/keeper/keeperpb"
	"github.com/muxd/muxd/internal/fd"
)

// A runtime that leaves a container in the background makes its first process an orphan, which comes to the keeper, the nearest
// subreaper. Its pid is told in a file that the agent reads. Until then nobody knows which orphan it is, and it may have exited:
// so none is reaped while a record says Detaches. A zombie keeps its exit status, and its pid, which nobody else gets.

// countDetaching follows the number of such records. k.mu is held, here and below.
func (k *keeper) countDetaching(p *process, by int) {
	if p.pb.GetDetaches() {
		k.detaching += by
	}
}

// mayBeWanted says whether a process that is not known may be recorded later.
func (k *keeper) mayBeWanted() bool { return k.spawning || k.detaching > 0 && !k.ending }

// follow records a child that was not spawned here. It takes fds[0], a pidfd, only where the process is no child.
func (k *keeper) follow(f *keeperpb.Follow, fds []*fd.FD) (*keeperpb.Process, *Error) {
	if known := k.procs[f.GetKey()]; known != nil {
		return known.pb, nil
	}
	pid := int(f.GetPid())
	if f.GetKey() == "" || pid <= 0 || len(fds) > 1 {
		return nil, fail(syscall.EINVAL, "follow %q: pid %d, %d descriptors", f.GetKey(), pid, len(fds))
	}
	if other := k.pids[pid]; other != nil || pid == k.agent.pid {
		return nil, fail(syscall.EEXIST, "follow %s: pid %d is another process of muxd's", f.GetKey(), pid)
	}
	if !isChild(pid) {
		// crun leaves besides a process that ends at once, and until then is the parent of what is followed: what is watched is
		// reaped here too, when it has become a child.
		if of := k.procs[f.GetOf()]; len(fds) == 1 && (of == nil || of.watched || descends(pid)) {
			return k.watch(&keeperpb.Watch{Key: f.GetKey(), Pid: f.GetPid()}, fds)
		}
		return nil, fail(syscall.ECHILD, "follow %s: process %d is no child of muxd's keeper", f.GetKey(), pid)
	}
	n, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return nil, fail(errnoOf(err), "follow %s: open process %d", f.GetKey(), pid)
	}
	p := &process{
		pb:    &keeperpb.Process{Key: f.GetKey(), Pid: f.GetPid(), Started: time.Now().UnixNano()},
		pidfd: fd.New(n),
		group: true,
	}
	if err := room(p.pidfd); err != nil {
		p.pidfd.Close()
		return nil, err
	}
	pgid, err := unix.Getpgid(pid)
	p.alone = err == nil && pgid != pid
	k.procs[f.GetKey()] = p
	k.pids[pid] = p
	k.await(p)
	k.reapSoon = true
	return p.pb, nil
}

// isChild says whether a process, exited or not, is a child that has not been reaped: the kernel says ECHILD of any other
// (waitid(2)). Only reap takes a status, under the lock, so the pid stays that process's while the lock is held.
func isChild(pid int) bool {
	for {
		var info unix.Siginfo
		err := unix.Waitid(unix.P_PID, pid, &info, unix.WEXITED|unix.WNOHANG|unix.WNOWAIT, nil)
		if err != unix.EINTR {
			return err == nil
		}
	}
}

// descends says whether a process descends from this one. Where that changes meanwhile, it is by a parent's end, which makes it or one
// above it a child of this process.
func descends(pid int) bool {
	for me := os.Getpid(); pid > 1; {
		fields := statFields(pid)
		if len(fields) < 2 {
			return false
		}
		if pid, _ = strconv.Atoi(string(fields[1])); pid == me {
			return true
		}
	}
	return false
}

// statFields is /proc/PID/stat from the state on: field 3 of proc_pid_stat(5). The name before it may have spaces and parentheses.
func statFields(pid int) [][]byte {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return nil
	}
	return bytes.Fields(b[bytes.LastIndexByte(b, ')')+1:])
}

// accept holds a connection. The socket must not block: nor may the keeper.
func (k *keeper) accept(a *keeperpb.Accept) *Error {
	l := k.held.get(a.GetName())
	if l == nil {
		return fail(syscall.ENOENT, "the keeper holds no descriptor named %s", a.GetName())
	}
	flags, err := unix.FcntlInt(uintptr(l.fd.Int()), unix.F_GETFL, 0)
	if err != nil || flags&unix.O_NONBLOCK == 0 || a.GetAs() == "" {
		return fail(syscall.EINVAL, "accept from %s: it may block, or %q is no name", a.GetName(), a.GetAs())
	}
	n, _, err := unix.Accept4(l.fd.Int(), unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK)
	for err == unix.EINTR || err == unix.ECONNABORTED {
		n, _, err = unix.Accept4(l.fd.Int(), unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK)
	}
	if err != nil {
		return fail(errnoOf(err), "accept from %s", a.GetName())
	}
	conn := fd.New(n)
	if err := room(conn); err != nil {
		conn.Close()
		return err
	}
	k.keep(a.GetAs(), nil, conn)
	return nil
}
