package keeper

import (
	"errors"
	"fmt"
	"runtime"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/muxd/muxd/core/keeper/keeperpb"
	"github.com/muxd/muxd/internal/fd"
)

// An upgrade is an execve(2) in place: pid, children, the lock and all descriptors stay. The agent that asked lives until the new
// program stands, which kills it and starts its own. So there is always one that can mend it: a new program that dies
// at its start has an agent of the old one as its successor (Become), and one whose agents die at their start is
// replaced, in the same way, by the old one, of which it has the executable.

// upgrade is the program that the agent wants.
type upgrade struct {
	id  uint64 // of the request
	exe *fd.FD // owned
}

var errStopping = errors.New("muxd is stopping")

// upgradeAttempts is how many agents of a new program may die before one is ready.
const upgradeAttempts = 3

// queueUpgrade takes fds[0]. k.mu is held.
func (k *keeper) queueUpgrade(id uint64, fds []*fd.FD) *Error {
	if len(fds) != 1 {
		return fail(syscall.EINVAL, "upgrade: %d descriptors came, want 1", len(fds))
	}
	select {
	case k.next <- upgrade{id: id, exe: fds[0]}:
		fds[0] = nil
		return nil
	default:
		return fail(syscall.EBUSY, "upgrade: another one is under way")
	}
}

// upgrade goes on as the program of u. It returns where that is not possible.
func (k *keeper) upgrade(u upgrade) {
	defer u.exe.Close()
	before, err := self()
	switch {
	case k.agent.stop != nil:
		err = errors.Join(err, errStopping)
	case err == nil:
		err = k.goOn(u.exe, before)
		before.Close()
	}
	k.logf("upgrade: %v", err)
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.session != nil {
		k.session.answer(fail(errnoOf(err), "upgrade: %v", err).reply(u.id))
	}
}

// self returns the running program's executable, owned by the caller.
func self() (*fd.FD, error) {
	n, err := unix.Open(Self, unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", Self, err)
	}
	return fd.New(n), nil
}

// goOn executes exe in place of this program, with all that there is. before is for the way back; nil: there is none. It returns only
// an error, and nothing has changed then.
func (k *keeper) goOn(exe, before *fd.FD) error {
	// No process may be in the middle of its start, and none begins: the spawner waits in this job.
	idle, done := make(chan struct{}), make(chan struct{})
	k.spawner.jobs <- func() { close(idle); <-done }
	<-idle
	defer close(done)
	k.mu.Lock()
	defer k.mu.Unlock()
	lock, err := fd.DupFile(k.dir.lock)
	if err != nil {
		return fmt.Errorf("copy the pid file: %w", err)
	}
	defer lock.Close()
	t := k.inventory()
	t.Upgraded = &keeperpb.Upgraded{Lock: uint32(lock.Int()), Made: k.dir.made, Agent: int32(k.agent.pid), Version: k.version}
	if before != nil {
		t.Upgraded.Before = new(uint32(before.Int()))
	}
	// What is sent while no handler stands waits: the mask outlives the execve, and the next keeper's Notify opens it.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var block, old unix.Sigset_t
	for _, sig := range []syscall.Signal{syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP} {
		block.Val[0] |= 1 << (sig - 1)
	}
	if err := unix.PthreadSigmask(unix.SIG_BLOCK, &block, &old); err != nil {
		return fmt.Errorf("block signals: %w", err)
	}
	defer unix.PthreadSigmask(unix.SIG_SETMASK, &old, nil)
	return Become(fmt.Sprintf("/proc/self/fd/%d", exe.Int()), k.again, t)
}

// inventory is all that the next program gets. k.mu is held.
func (k *keeper) inventory() *keeperpb.Takeover {
	t := &keeperpb.Takeover{Control: uint32(k.listeners[0].Int()), Sessions: uint32(k.listeners[1].Int())}
	for _, p := range k.procs {
		f := &keeperpb.Takeover_Followed{Process: p.pb, Child: !p.watched, Group: p.group, Alone: p.alone}
		if n := p.pidfd.Int(); n >= 0 {
			f.Pidfd = new(uint32(n))
		}
		t.Followed = append(t.Followed, f)
	}
	for _, h := range k.held.under("") {
		t.Held = append(t.Held, &keeperpb.Takeover_HeldFd{Name: h.name, Fd: uint32(h.fd.Int()), Note: h.note})
	}
	return t
}

// upgraded is the beginning of a program that goes on from another.
func (k *keeper) upgraded(u *keeperpb.Upgraded) {
	k.agent.pid, k.follows = int(u.GetAgent()), u.GetAgent() != 0
	if u.Before != nil {
		k.before = fd.New(int(*u.Before))
		k.later(func() { k.before.Close() })
	}
	k.logf("the keeper goes on as version %s, after %s", k.version, u.GetVersion())
}

// endBefore ends the agent of the program before, and returns when it is reaped.
func (k *keeper) endBefore() {
	k.mu.Lock()
	if k.agent.pid != 0 {
		k.signalAgent(syscall.SIGKILL)
	}
	k.mu.Unlock()
	<-k.agent.died
}

// fallBack counts the agents of a new program that die before one is ready. When there were too many it goes back to the program
// before.
func (k *keeper) fallBack(ws unix.WaitStatus) {
	k.agent.failed++
	if k.agent.failed < upgradeAttempts {
		return
	}
	k.logf("the agent of version %s %s again and again, before it was ready: going back to the version before", k.version, ended(ws))
	k.logf("go back: %v", k.goOn(k.before, nil))
	k.before.Close() // it cannot be
}
