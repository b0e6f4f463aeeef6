package keeper

import (
	"errors"
	"slices"
	"strings"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/muxd/muxd/core/keeper/keeperpb"
	"github.com/muxd/muxd/internal/fd"
)

// process is the record of a child, or of a process that is watched.
//
//	running → exited → forgotten
//
// running: its pid is its own, since nobody but reap takes its status (of a child), or its pidfd says so (of
// a watched one). exited: its status and times are kept. forgotten: the record is gone, by the agent's
// Forget.
type process struct {
	pb      *keeperpb.Process
	pidfd   *fd.FD // of a running process, and of an exited one whose process group has members left
	watched bool   // somebody else's child, at least when the watch began
	group   bool   // its process group may still have members
	alone   bool   // it leads no process group: what is for its group is for it
	blind   bool   // only SIGCHLD tells of its exit
}

// Whoever asks for any child that has exited has the kernel look at each, so that with thousands every exit would cost the more. The
// pidfd of each child is in the set of watches instead, and tells which one it was (ready). What is left to SIGCHLD is the agent,
// orphans, of which nobody waits to hear, and children without a pidfd.

// orphansWait is how long an orphan's zombie may stay.
const orphansWait = 50 * time.Millisecond

// childExited is called after a SIGCHLD.
func (k *keeper) childExited() {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.agent.pid != 0 && k.take(k.agent.pid) {
		poke(k.reaped)
	}
	switch {
	case k.blind > 0 || k.ending:
		k.reapLocked()
	case !k.scanning:
		k.scanning = true
		time.AfterFunc(orphansWait, func() {
			k.mu.Lock()
			defer k.mu.Unlock()
			k.scanning = false
			k.reapLocked()
		})
	}
}

// await has the exit of p, a child, told by its pidfd. k.mu is held, here and below.
func (k *keeper) await(p *process) {
	n := p.pidfd.Int()
	if n < 0 || k.watches.control(unix.EPOLL_CTL_ADD, n, unix.EPOLLIN|unix.EPOLLONESHOT) != nil {
		p.blind = true
		k.blind++
		k.reapSoon = true
		return
	}
	k.watches.of[n] = p
}

// reapRest is called when a fork is over: what had to wait for it is reaped now, and perhaps its process already.
func (k *keeper) reapRest() {
	if k.cutShort || k.blind > 0 || k.ending {
		k.cutShort = false
		k.reapLocked()
	}
}

// reap takes the status of every process that has exited: children, and orphans that came to the subreaper.
func (k *keeper) reap() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.reapLocked()
}

func (k *keeper) reapLocked() {
	reaped := false
	for {
		pid := firstZombie()
		if pid == 0 {
			break
		}
		if k.mayBeWanted() && k.pids[pid] == nil && pid != k.agent.pid {
			// It may be the process that is just being started, whose pid is not recorded yet, or one that is to
			// be followed. It stays a zombie until that is over, which reaps again. Those that are known must not
			// wait behind it.
			k.cutShort = k.spawning
			if k.blind > 0 || k.detaching > 0 {
				reaped = k.reapKnown() || reaped
			}
			break
		}
		reaped = k.take(pid) || reaped
	}
	if reaped {
		poke(k.reaped)
	}
}

// reapKnown reaps as reapLocked does, but asks for one known process after another.
func (k *keeper) reapKnown() bool {
	reaped := k.agent.pid != 0 && k.take(k.agent.pid)
	for pid := range k.pids {
		reaped = k.take(pid) || reaped
	}
	return reaped
}

// childInfo is what waitid(2) fills in: the fields behind code stand in a union that is aligned to a pointer.
type childInfo struct {
	signo, errno, code int32
	union              struct {
		pid   int32
		_     [12]byte
		align [0]uintptr
	}
	_ [96]byte
}

// firstZombie returns a process that can be waited for, without doing it; 0 where there is none.
func firstZombie() int {
	for {
		var info childInfo
		err := unix.Waitid(unix.P_ALL, 0, (*unix.Siginfo)(unsafe.Pointer(&info)), unix.WEXITED|unix.WNOHANG|unix.WNOWAIT, nil)
		if err == unix.EINTR {
			continue
		}
		if err != nil { // ECHILD: no children at all
			return 0
		}
		return int(info.union.pid)
	}
}

// take waits for pid if it has exited, and records that. It says whether it had.
func (k *keeper) take(pid int) bool {
	p := k.pids[pid]
	if p != nil && p.watched && unix.PidfdSendSignal(p.pidfd.Int(), 0, nil, 0) == unix.ESRCH {
		p = nil // the watched one was reaped by its own parent, and the number is another's now
	}
	var ws unix.WaitStatus
	var use unix.Rusage
	got, err := unix.Wait4(pid, &ws, unix.WNOHANG, &use)
	for err == unix.EINTR {
		got, err = unix.Wait4(pid, &ws, unix.WNOHANG, &use)
	}
	if err != nil || got != pid {
		return false
	}
	switch {
	case pid == k.agent.pid:
		k.agent.exited(ws)
	case p != nil:
		k.exited(p, &ws, &use)
	}
	return true
}

// exited records the end of p and tells the agent. A nil status is one that nobody can know.
func (k *keeper) exited(p *process, ws *unix.WaitStatus, use *unix.Rusage) {
	p.pb.Exited = true
	p.pb.Ended = time.Now().UnixNano()
	if ws != nil {
		p.pb.StatusKnown = true
		p.pb.Status = uint32(*ws)
	}
	if use != nil {
		p.pb.UserUsec = use.Utime.Nano() / 1000
		p.pb.SystemUsec = use.Stime.Nano() / 1000
		p.pb.MaxRssKib = int64(use.Maxrss)
	}
	if k.pids[int(p.pb.GetPid())] == p {
		delete(k.pids, int(p.pb.GetPid()))
	}
	if p.blind {
		p.blind = false
		k.blind--
	}
	k.unwatch(p)
	if p.signalGroup(0) == unix.ESRCH {
		p.groupGone()
	}
	k.session.tell(&keeperpb.Message{What: &keeperpb.Message_Exit{Exit: &keeperpb.Exit{Process: p.pb}}})
}

// signal sends sig to p or its group. k.mu is held.
func (p *process) signal(sig syscall.Signal, group bool) *Error {
	if sig < 0 || sig > 64 {
		return fail(syscall.EINVAL, "signal %d", sig)
	}
	err := unix.ESRCH
	group = group && !p.alone
	switch {
	case group && p.group:
		if err = p.signalGroup(sig); err == unix.ESRCH && p.pb.GetExited() {
			p.groupGone()
		}
	case !group && !p.pb.GetExited():
		err = p.signalOne(sig)
	}
	switch {
	case err == 0:
		return nil
	case group:
		return fail(err, "send signal %d to the process group of %s (pid %d)", sig, p.pb.GetKey(), p.pb.GetPid())
	}
	return fail(err, "send signal %d to %s (pid %d)", sig, p.pb.GetKey(), p.pb.GetPid())
}

func (p *process) signalOne(sig syscall.Signal) syscall.Errno {
	err := unix.PidfdSendSignal(p.pidfd.Int(), sig, nil, 0)
	if (err == unix.ENOSYS || err == unix.EBADF) && !p.watched {
		err = unix.Kill(int(p.pb.GetPid()), sig) // a child that is not reaped: the number is its own
	}
	return errnoOf(err)
}

// signalGroup sends sig to the process group that p leads or led. A pidfd refers to the kernel's struct pid,
// which stays that of the group as long as it has members, and never becomes that of another group: with
// PIDFD_SIGNAL_PROCESS_GROUP (Linux 6.9) this is exact, whether the leader lives or not.
//
// Before that there is only the number. It cannot be given to a new process while any process has it as its
// group or session (the kernel frees it with the last such use), so it is right while p is not reaped, and
// after that as long as the group has had members ever since. A group that was seen empty is not signalled
// again. The limit: a group that became empty unseen, its number given to a new process, which made itself
// the leader of a group, is hit in its place; the agent closes that window with Forget.
func (p *process) signalGroup(sig syscall.Signal) syscall.Errno {
	if !p.group {
		return unix.ESRCH
	}
	err := unix.PidfdSendSignal(p.pidfd.Int(), sig, nil, unix.PIDFD_SIGNAL_PROCESS_GROUP)
	if err != unix.EINVAL && err != unix.ENOSYS && err != unix.EBADF {
		return errnoOf(err)
	}
	pid := int(p.pb.GetPid())
	if p.watched {
		// Of somebody else's child only the pidfd says whether the number is still its own.
		if pgid, err := unix.Getpgid(pid); err != nil || pgid != pid || unix.PidfdSendSignal(p.pidfd.Int(), 0, nil, 0) != nil {
			return unix.ESRCH
		}
	}
	return errnoOf(unix.Kill(-pid, sig))
}

// groupGone says that the group has no members any more, and so nothing is left to signal.
func (p *process) groupGone() {
	p.group = false
	p.pidfd.Close()
}

func errnoOf(err error) syscall.Errno {
	if err == nil {
		return 0
	}
	if errno, ok := errors.AsType[syscall.Errno](err); ok {
		return errno
	}
	return syscall.EINVAL
}

// forget removes the record of an exited process, or ends a watch. k.mu is held.
func (k *keeper) forget(key string) *Error {
	p := k.procs[key]
	if p == nil {
		return nil
	}
	if !p.pb.GetExited() {
		if !p.watched {
			return fail(syscall.EBUSY, "forget %s: it runs still (pid %d)", key, p.pb.GetPid())
		}
		k.unwatch(p)
		if pid := int(p.pb.GetPid()); k.pids[pid] == p {
			delete(k.pids, pid)
		}
	}
	p.pidfd.Close()
	delete(k.procs, key)
	k.countDetaching(p, -1)
	k.reapSoon = k.reapSoon || p.pb.GetDetaches()
	return nil
}

// list returns all records, sorted by key. k.mu is held.
func (k *keeper) list() []*keeperpb.Process {
	out := make([]*keeperpb.Process, 0, len(k.procs))
	for _, p := range k.procs {
		out = append(out, p.pb)
	}
	slices.SortFunc(out, func(a, b *keeperpb.Process) int { return strings.Compare(a.GetKey(), b.GetKey()) })
	return out
}

// poke wakes whoever waits on ch, a channel of capacity 1.
func poke(ch chan struct{}) {
	select {
	case ch <- struct{}{}:
	default:
	}
}
