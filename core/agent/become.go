package agent

import (
	"errors"

	"golang.org/x/sys/unix"

	"github.com/muxd/muxd/core/keeper"
	"github.com/muxd/muxd/core/keeper/keeperpb"
)

// becomeKeeper is called when the keeper has died: this process becomes the next one, which starts an agent, which takes over as from
// any agent that died. It returns only an error. The children go on; their parent is init now, or a subreaper above.
func (a *Agent) becomeKeeper() error {
	if a.isEnding() {
		return errors.New("the keeper was killed while muxd was stopping")
	}
	a.log.Error("the keeper is gone: becoming the next one", "pid", unix.Getpid())
	a.mu.Lock() // for good: nothing may change any more
	t := &keeperpb.Takeover{Control: uint32(a.control.Int()), Sessions: uint32(a.fdSock.Int())}
	for _, c := range a.children {
		if c.pidfd.Int() < 0 && c.rec.State == stRunning && c.started != 0 { // not resumed yet
			c.openPidfd()
		}
		if c.pidfd.Int() < 0 {
			continue
		}
		t.Followed = append(t.Followed, &keeperpb.Takeover_Followed{
			Process: &keeperpb.Process{Key: c.key, Pid: c.rec.Pid, Started: c.rec.Started}, Pidfd: new(uint32(c.pidfd.Release())),
		})
	}
	for _, p := range a.host.All() {
		n, err := unix.PidfdOpen(p.PID(), 0)
		if err != nil {
			continue // it has died too
		}
		t.Followed = append(t.Followed, &keeperpb.Takeover_Followed{
			Process: &keeperpb.Process{Key: p.Key(), Pid: int32(p.PID())}, Pidfd: new(uint32(n)),
		})
		if ch, err := p.Channel(); err == nil {
			t.Held = append(t.Held, &keeperpb.Takeover_HeldFd{Name: p.ChannelName(), Fd: uint32(ch.Release())})
		}
		if end, err := p.LogEnd(); err == nil {
			t.Held = append(t.Held, &keeperpb.Takeover_HeldFd{Name: p.LogName(), Fd: uint32(end.Release())})
		}
	}
	for _, copies := range a.copies {
		for name, f := range copies {
			t.Held = append(t.Held, &keeperpb.Takeover_HeldFd{Name: name, Fd: uint32(f.Release())})
		}
	}
	return keeper.Become(keeper.Self, a.o.Become, t)
}

// openPidfd opens the pidfd of a child that runs: it tells the exit status also to a keeper that is not the child's parent. Where there
// is none the child has exited already, or descriptors have run out. Agent.mu is held.
func (c *child) openPidfd() {
	if f, err := keeper.OpenProcess(int(c.rec.Pid), c.started); err == nil {
		c.pidfd = f
	}
}
