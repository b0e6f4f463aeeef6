package keeper

import (
	"cmp"
	"fmt"
	"os"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/muxd/muxd/internal/fd"
)

// AgentFDs is the environment variable that tells the agent its inherited descriptors, "3,4,5": the keeper
// channel, and the listeners of control.sock and fd.sock.
const AgentFDs = "MUXD_AGENT_FDS"

const keeperVersion = "MUXD_KEEPER_VERSION"

// agent is the life of the agent:
//
//	(start) → starting → serving → dead → starting …
//
// starting: it runs; signals for it wait. serving: it has sent its first request, so its handlers stand, and
// signals are forwarded. dead: reaped, and its session drained; the next start comes after the back-off.
// Run's goroutine moves it, reap reports its death. From any state the end comes by the agent's Stop, by
// ExitConfig, or when a stop was asked for and the agent does not live to carry it out.
type agent struct {
	program program

	pid int // 0 while it does not run; guarded by keeper.mu

	died    chan unix.WaitStatus
	started time.Time
	backoff backoff
	again   *time.Timer // runs while dead
	reload  bool        // a SIGHUP waits for an agent that serves
	stop    os.Signal   // the last SIGTERM or SIGINT
	unsent  bool        // the present agent has not got stop yet
	lost    int         // agents that died since stop
	failed  int         // agents that died since an upgrade, before one was ready
	over    bool        // muxd was asked to stop, so nobody comes back for what is in the runtime dir
}

// servedMost is the longest wait before an agent that has served is started again.
const servedMost = 200 * time.Millisecond

// stopAttempts is how many agents may die over a stop before the keeper ends everything itself.
const stopAttempts = 3

func newAgent(o Options) agent {
	env := o.Env
	if env == nil {
		env = os.Environ()
	}
	env = slices.DeleteFunc(slices.Clone(env), func(kv string) bool {
		return strings.HasPrefix(kv, AgentFDs+"=") || strings.HasPrefix(kv, keeperVersion+"=") || strings.HasPrefix(kv, TakeoverEnv+"=")
	})
	env = append(env, AgentFDs+"=3,4,5", keeperVersion+"="+o.Version)
	timer := time.NewTimer(time.Hour)
	timer.Stop()
	return agent{
		program: program{path: cmp.Or(o.Exe, o.Agent[0]), argv: o.Agent, env: env, slack: TimerSlack},
		died:    make(chan unix.WaitStatus, 1),
		again:   timer,
	}
}

// exited is reap's report. k.mu is held.
func (a *agent) exited(ws unix.WaitStatus) {
	a.pid = 0
	a.died <- ws
}

// mind starts the agent, starts it again, forwards signals to it, and returns muxd's exit status when it is
// over.
func (k *keeper) mind() int {
	a := &k.agent
	if err := k.startAgent(); err != nil {
		k.logf("start the agent: %v", err)
		return ExitFailed
	}
	for {
		select {
		case <-k.stop:
			a.over = true
			return 0
		case sig := <-k.signals:
			k.forward(sig)
		case u := <-k.next:
			k.upgrade(u)
		case <-k.serving:
			k.notify("MAINPID=%d\nREADY=1", os.Getpid())
			k.agentServes()
		case ws := <-a.died:
			if code, over := k.agentDied(ws); over {
				return code
			}
		case <-a.again.C:
			if err := k.startAgent(); err != nil {
				k.logf("start the agent: %v", err)
				if a.stop != nil {
					return ExitFailed
				}
				a.again.Reset(a.backoff.next(0))
			}
		}
	}
}

// startAgent starts the agent and a session with it.
func (k *keeper) startAgent() error {
	a := &k.agent
	mine, its, err := fd.Socketpair(unix.SOCK_SEQPACKET)
	if err != nil {
		return err
	}
	defer its.Close()
	null, err := unix.Open(os.DevNull, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		mine.Close()
		return fmt.Errorf("open %s: %w", os.DevNull, err)
	}
	defer unix.Close(null)
	s, err := newSession(k, mine)
	if err != nil {
		return err
	}
	p := a.program
	for _, n := range []int{null, k.stderr.Int(), k.stderr.Int(), its.Int(), k.listeners[0].Int(), k.listeners[1].Int()} {
		p.files = append(p.files, uintptr(n))
	}
	failed := make(chan *Error, 1)
	k.spawner.jobs <- func() {
		k.mu.Lock()
		k.spawning = true
		k.mu.Unlock()
		c, err := k.spawner.start(&p)
		k.mu.Lock()
		defer k.mu.Unlock()
		k.spawning = false
		if err == nil {
			c.pidfd.Close() // its pid is enough: it is reaped under the lock
			a.pid, a.started = c.pid, time.Now()
			k.session = s
			s.start()
		}
		k.reapLocked()
		failed <- err
	}
	if err := <-failed; err != nil {
		s.conn.Close()
		return err
	}
	return nil
}

// forward passes a signal on to the agent, or keeps it for one that serves.
func (k *keeper) forward(sig os.Signal) {
	a := &k.agent
	if sig == syscall.SIGHUP {
		a.reload = true
	} else {
		a.stop, a.unsent = sig, true
		k.notify("STOPPING=1")
	}
	if k.agentServes() {
		return
	}
	if a.stop != nil && a.again.Stop() { // a stop does not wait for the back-off
		a.again.Reset(0)
	}
}

// agentServes sends an agent that serves what waits for it. It says whether there is one.
func (k *keeper) agentServes() bool {
	a := &k.agent
	k.mu.Lock()
	defer k.mu.Unlock()
	if a.pid == 0 || k.session == nil || !k.session.served {
		return false
	}
	if a.reload {
		a.reload = false
		k.signalAgent(syscall.SIGHUP)
	}
	if a.unsent {
		a.unsent = false
		k.signalAgent(a.stop.(syscall.Signal))
	}
	return true
}

// signalAgent sends sig to the agent, which is not reaped: k.mu is held.
func (k *keeper) signalAgent(sig syscall.Signal) {
	if err := unix.Kill(k.agent.pid, sig); err != nil {
		k.logf("send %v to the agent (pid %d): %v", sig, k.agent.pid, err)
	}
}

// agentDied ends the agent's session, and says whether muxd is over and with what status. Otherwise it sets
// the timer of the next start.
func (k *keeper) agentDied(ws unix.WaitStatus) (code int, over bool) {
	a := &k.agent
	k.mu.Lock()
	s := k.session
	k.session = nil
	k.mu.Unlock()
	s.end()
	select {
	case <-k.stop: // it asked for the end and left at once
		a.over = true
		return 0, true
	default:
	}
	if ws.Exited() && ws.ExitStatus() == ExitConfig && k.empty() && k.before.Int() < 0 {
		return ExitFailed, true
	}
	if a.stop != nil {
		a.lost++
		a.unsent = true // for the next one
		if !s.served || a.lost >= stopAttempts {
			k.logf("the agent %s instead of stopping: killing what is left", ended(ws))
			a.over = true
			return ExitFailed, true
		}
	}
	if k.before.Int() >= 0 {
		k.fallBack(ws)
	}
	wait := a.backoff.next(time.Since(a.started))
	if s.served { // it can serve, and somebody killed it: clients are waiting
		wait = min(wait, servedMost)
	}
	if wait == 0 {
		k.logf("the agent %s: starting it again", ended(ws))
	} else {
		k.logf("the agent %s again: starting it again in %v", ended(ws), wait)
	}
	a.again.Reset(wait)
	return 0, false
}

// ended says a wait status in words.
func ended(ws unix.WaitStatus) string {
	if ws.Signaled() {
		return fmt.Sprintf("was killed by signal %d (%v)", ws.Signal(), ws.Signal())
	}
	return fmt.Sprintf("exited with status %d", ws.ExitStatus())
}

// backoff counts starts of the agent that failed quickly.
type backoff struct{ quick int }

// next returns how long to wait before the next start, when the last one lived that long: nothing after a
// life of a second; after shorter ones in a row nothing, 100 ms, 200 ms, and so on up to 5 s. Ten seconds of
// life break the row.
func (b *backoff) next(lived time.Duration) time.Duration {
	switch {
	case lived >= 10*time.Second:
		b.quick = 0
		return 0
	case lived >= time.Second:
		return 0
	}
	b.quick++
	if b.quick == 1 {
		return 0
	}
	return min(100*time.Millisecond<<min(b.quick-2, 10), 5*time.Second)
}
