package agent

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/muxd/muxd/control/controlpb"
	"github.com/muxd/muxd/core/host"
	"github.com/muxd/muxd/core/keeper"
	"github.com/muxd/muxd/core/keeper/keeperpb"
	"github.com/muxd/muxd/internal/fd"
	"github.com/muxd/muxd/sink/sinkpb"
)

// A child whose command is an OCI runtime's, and names {console-socket} or {pid-file}, is starting for longer than others:
//
//	spawned     the runtime runs; its exit, or the console, is waited for
//	console     the keeper holds the master, and then the sink gets it        (with {console-socket})
//	left        the runtime has exited with 0, and told a pid                 (with {pid-file})
//	followed    that process is the child, under a key of its own
//
// Without {pid-file} the runtime itself is the child, once the console is there. Whoever is killed in between has a successor that goes
// on from what the keeper has: the listening socket, a connection, which is accepted by the keeper and looked at before anything is
// taken from it, the master, and the records of both processes.

// containerStart is a start that is under way.
type containerStart struct {
	a     *Agent
	c     *child
	o     *opening      // of the console; nil: there is none
	stir  chan struct{} // capacity 1: what was armed has something to read
	ended chan struct{} // capacity 1: child.pending is set
	conn  *fd.FD        // a copy of the connection that is looked at; nil: there is none
	peer  string        // at its other end
	why   error         // why the latest connection was refused
}

// containerKey is the keeper's name of the container's first process, beside that of the runtime.
const containerKey = "/container"

func runtimeKey(c *child) string { return strings.TrimSuffix(c.key, containerKey) }

// Names of what the keeper holds for a console socket, below the opening's.
const (
	listenerName = "/listener"
	connName     = "/conn"
	wordsName    = "/runtime"
)

// openSocket makes what a runtime gets in place of a terminal: a console socket, and its own stdin, stdout and stderr.
func (a *Agent) openSocket(ctx context.Context, c *child, ch *choice, n int, pbChild *sinkpb.Child, near *nearEnds) error {
	o := &opening{id: openingID(c.id(), c.rec.Run, n), run: c.rec.Run, child: c, choice: ch}
	o.plugin.Store(host.Dead(ch.spec.Name)) // until it has the console
	a.note(c, ch, o)
	uid, gid := os.Geteuid(), os.Getegid()
	if c.user != nil {
		uid, gid = int(c.user.cred.GetUid()), int(c.user.cred.GetGid())
	}
	l, err := listenForConsole(a.consoleSocket(c), uid, gid)
	if err != nil {
		return a.unopened(o, spawnError(err))
	}
	name := farPrefix(c.id()) + o.id
	near.keep(name+listenerName, l)
	words, err := newWords()
	if err != nil {
		return a.unopened(o, spawnError(err))
	}
	near.keep(name+wordsName, words)
	if _, _, err := a.openBehind(ctx, c, ch, pbChild, near.keep); err != nil { // what gets a copy of the console
		return a.unopened(o, err)
	}
	for _, i := range ch.near() {
		switch {
		case near.std[i] != nil: // a sink of its own
		case i == 0:
			null, err := unix.Open(os.DevNull, unix.O_RDONLY|unix.O_CLOEXEC, 0)
			if err != nil {
				return a.unopened(o, spawnError(fmt.Errorf("open %s: %w", os.DevNull, err)))
			}
			near.std[i] = fd.New(null)
		default:
			if near.std[i], err = words.Dup(); err != nil {
				return a.unopened(o, spawnError(err))
			}
		}
	}
	return nil
}

// beginContainer notes that the runtime of c runs as p.
func (a *Agent) beginContainer(c *child, p *keeperpb.Process) *containerStart {
	s := &containerStart{a: a, c: c, stir: make(chan struct{}, 1), ended: make(chan struct{}, 1)}
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, o := range c.openings {
		if o.choice.wiring == wiringSocket {
			s.o = o
		}
	}
	c.start = s
	if p.Exited && c.pending == nil {
		c.pending = p
	}
	if c.pending != nil {
		s.ended <- struct{}{}
	}
	c.rec.Pid, c.rec.Started = p.Pid, p.Started
	if c.started == 0 {
		c.started, _ = keeper.StartTime(int(p.Pid)) // an error: it has been reaped already
	}
	if c.pidfd.Int() < 0 {
		c.openPidfd()
	}
	a.save(c)
	return s
}

// finish waits until the container runs, and returns its process; or the runtime's, which is the child where it stays. On an error
// nothing of it is left.
func (s *containerStart) finish(p *keeperpb.Process, by caller) (*keeperpb.Process, error) {
	a, c := s.a, s.c
	defer s.close()
	timeout := a.cfg.Load().Agent.ContainerStartTimeout
	deadline := time.NewTimer(time.Until(time.Unix(0, p.Started).Add(timeout)))
	defer deadline.Stop()
	err := s.await(deadline.C, timeout)
	if err == nil && s.o != nil {
		err = s.give(by)
	}
	if err == nil && c.runtime.pidFile {
		p, err = s.follow()
	}
	if err == nil {
		os.RemoveAll(a.runtimeDir(c))
		return p, nil
	}
	if errors.Is(err, keeper.ErrGone) {
		<-a.ctx.Done() // this process becomes the keeper, and the next agent goes on from here
	}
	s.abandon()
	return nil, status.Error(codes.FailedPrecondition, fmt.Sprintf("%v%s", err, s.said()))
}

// close ends the start. The copies of what it needed are of no use any more.
func (s *containerStart) close() {
	a := s.a
	a.mu.Lock()
	defer a.mu.Unlock()
	s.c.start = nil
	for _, f := range a.copies[s.copiesName()] {
		f.Close()
	}
	delete(a.copies, s.copiesName())
}

// await returns when the console is there and the runtime has done what it was to do.
func (s *containerStart) await(deadline <-chan time.Time, timeout time.Duration) error {
	wants, leaves := s.o != nil, s.c.runtime.pidFile
	for {
		s.a.mu.Lock()
		p := s.c.pending // before it is looked: what a runtime that has ended had sent is there
		s.a.mu.Unlock()
		if wants {
			got, err := s.look()
			if err != nil {
				return err
			}
			wants = !got
		}
		switch {
		case p == nil && !wants && !leaves:
			return nil
		case p != nil && leaves && !(p.StatusKnown && p.Status == 0):
			return fmt.Errorf("the runtime left no container: %s", endOf(p))
		case p != nil && wants:
			return fmt.Errorf("the runtime sent no console to {console-socket}%s: %s", s.refused(), endOf(p))
		case p != nil:
			return nil
		}
		select {
		case <-s.stir:
		case <-s.ended:
		case <-deadline:
			return s.late(wants, timeout)
		}
	}
}

// late says what did not come in time.
func (s *containerStart) late(wants bool, timeout time.Duration) error {
	if wants {
		return fmt.Errorf("no console came to {console-socket} within %v%s: config.json of the bundle must say \"terminal\": true", timeout, s.refused())
	}
	return fmt.Errorf("the runtime did not exit within %v: with {pid-file} it has to leave the container in the background, as runc run -d and runc create do", timeout)
}

func (s *containerStart) refused() string {
	if s.why == nil {
		return ""
	}
	return fmt.Sprintf(" (%v)", s.why)
}

// endOf says how a runtime ended.
func endOf(p *keeperpb.Process) string {
	return statusText(&controlpb.Child{StatusKnown: p.StatusKnown, Status: p.Status})
}

// said is what the runtime has said, to stand behind an error.
func (s *containerStart) said() string {
	if s.o == nil {
		return "; what it said is where its stderr goes"
	}
	words, err := s.a.keeper.Fetch(s.a.ctx, farPrefix(s.c.id())+s.o.id+wordsName)
	if err != nil {
		return ""
	}
	defer words.Close()
	if text := lastWords(words); text != "" {
		return ": " + text
	}
	return ""
}

// look says whether the keeper has the console's master, which it gets here if the runtime has sent it. Otherwise the keeper tells, by
// stir, when to look again.
func (s *containerStart) look() (bool, error) {
	k, ctx, name := s.a.keeper, s.a.ctx, farPrefix(s.c.id())+s.o.id
	if f, err := k.Fetch(ctx, s.farName()); err == nil { // a predecessor came so far
		s.keep(s.farName(), f)
		return true, nil
	} else if !errors.Is(err, unix.ENOENT) {
		return false, err
	}
	for {
		if s.conn == nil {
			if err := s.connect(); err != nil {
				return false, err
			}
		}
		if s.conn == nil {
			return false, k.Arm(ctx, []string{name + listenerName})
		}
		got, err := s.take()
		switch {
		case got:
			k.Drop(ctx, name+connName, false)
			return true, k.Drop(ctx, name+listenerName, false)
		case errors.Is(err, keeper.ErrGone):
			return false, err
		case errors.Is(err, errNothingYet):
			return false, k.Arm(ctx, []string{name + connName})
		}
		s.refuse(err)
	}
}

func (s *containerStart) farName() string { return s.o.farName(s.o.streams[0]) }

// connect takes the next connection, if there is one.
func (s *containerStart) connect() error {
	k, ctx, name := s.a.keeper, s.a.ctx, farPrefix(s.c.id())+s.o.id
	conn, err := k.Fetch(ctx, name+connName)
	if errors.Is(err, unix.ENOENT) {
		err = k.Accept(ctx, name+listenerName, name+connName)
		if errors.Is(err, unix.EAGAIN) {
			return s.keepListener()
		}
		switch {
		case err == nil:
			conn, err = k.Fetch(ctx, name+connName)
		case errors.Is(err, unix.ENOENT): // nobody else had it
			return errors.New("the container is lost: keeper and agent were killed together while it was being started; start it again")
		}
	}
	if err != nil {
		return fmt.Errorf("console socket: %w", err)
	}
	s.conn = conn
	s.keep(name+connName, conn)
	return nil
}

// keepListener has this process hold the listening socket too: the keeper may die.
func (s *containerStart) keepListener() error {
	name := farPrefix(s.c.id()) + s.o.id + listenerName
	l, err := s.a.keeper.Fetch(s.a.ctx, name)
	if err == nil {
		s.keep(name, l)
	}
	return err
}

// copiesName is that of this start among Agent.copies.
func (s *containerStart) copiesName() string { return containers + "/" + s.c.id() }

// keep takes ownership of f, a copy of what the keeper holds under name. Until the start has ended it is the next keeper's too, if this
// process becomes it.
func (s *containerStart) keep(name string, f *fd.FD) {
	s.a.mu.Lock()
	defer s.a.mu.Unlock()
	all := s.a.copies[s.copiesName()]
	if all == nil {
		all = map[string]*fd.FD{}
		s.a.copies[s.copiesName()] = all
	}
	if old := all[name]; old != nil {
		old.Close()
	}
	all[name] = f
}

// take looks at what has come on the connection, and has the keeper hold the master.
func (s *containerStart) take() (bool, error) {
	if err := s.trusted(); err != nil {
		return false, err
	}
	master, err := peekMaster(s.conn.Int())
	if err != nil {
		return false, err
	}
	size := s.c.spec.Size
	winsize := unix.Winsize{Row: uint16(size.Rows), Col: uint16(size.Cols)}
	if err := errors.Join(
		unix.IoctlSetWinsize(master.Int(), unix.TIOCSWINSZ, &winsize), // first of all: the program may start at any time
		unix.IoctlSetPointerInt(master.Int(), unix.TIOCSPTLCK, 0),
	); err != nil {
		master.Close()
		return false, fmt.Errorf("the terminal cannot be used: %w", err)
	}
	s.a.mu.Lock()
	s.o.streams[0].holder = terminalOf(master)
	s.a.mu.Unlock()
	n := master.Int()
	s.keep(s.farName(), master)
	if err := s.a.keeper.Hold(s.a.ctx, s.farName(), nil, n); err != nil {
		return false, err
	}
	if err := takeMessage(s.conn.Int()); err != nil {
		s.a.keeper.Drop(s.a.ctx, s.farName(), false)
		s.drop(s.farName())
		return false, err
	}
	return true, nil
}

// trusted says whether who has connected may bring a console: the user that the runtime runs as, ourselves, and root.
func (s *containerStart) trusted() error {
	cred, err := unix.GetsockoptUcred(s.conn.Int(), unix.SOL_SOCKET, unix.SO_PEERCRED)
	if err != nil {
		return fmt.Errorf("look at who has connected: %w", err)
	}
	s.peer = fmt.Sprintf("process %d", cred.Pid)
	if c := s.c; cred.Uid == 0 || int(cred.Uid) == os.Geteuid() || c.user != nil && cred.Uid == c.user.cred.GetUid() {
		return nil
	}
	return fmt.Errorf("user %d may not send a console", cred.Uid)
}

// refuse closes the connection, and says why.
func (s *containerStart) refuse(why error) {
	s.why = fmt.Errorf("what %s sent was refused: %w", s.peer, why)
	name := farPrefix(s.c.id()) + s.o.id + connName
	s.a.keeper.Drop(s.a.ctx, name, false)
	s.drop(name)
	s.conn = nil
	s.a.mu.Lock()
	defer s.a.mu.Unlock()
	s.o.streams[0].rec.Error = s.why.Error()
	s.a.emit(s.c, "refused", "console", s.why.Error())
}

// drop closes what keep was given.
func (s *containerStart) drop(name string) {
	s.a.mu.Lock()
	defer s.a.mu.Unlock()
	s.a.copies[s.copiesName()][name].Close()
	delete(s.a.copies[s.copiesName()], name)
}

// give opens the console's sink, and attaches the viewer that the spawn came with. The copies that were kept are of no use then.
func (s *containerStart) give(by caller) error {
	a, ctx := s.a, s.a.ctx
	os.Remove(a.consoleSocket(s.c))
	s.a.mu.Lock()
	s.o.streams[0].rec.Error = ""
	served := s.o.plugin.Load() == a.host.Running(s.o.choice.spec.Name) // before the agent died
	s.a.mu.Unlock()
	if !served {
		far, err := a.keeper.Fetch(ctx, s.farName())
		if err != nil {
			return err
		}
		// A plugin that dies over it has a successor, which gets the console then.
		err = a.giveFar(ctx, s.o, map[*stream]*fd.FD{s.o.streams[0]: far})
		far.Close()
		if err != nil && !pluginGone(err) {
			return plainError(err)
		}
	}
	if by.attach != nil && a.attach(ctx, s.o, nil, by.session, by.attach) == nil {
		s.c.attached = true
	}
	return nil
}

// follow makes the process that the runtime has left behind the child.
func (s *containerStart) follow() (*keeperpb.Process, error) {
	a, c := s.a, s.c
	pid, err := readPidFile(a.pidFile(c))
	if err != nil {
		return nil, fmt.Errorf("the runtime left no container: %w", err)
	}
	pidfd, err := leftBehind(pid, c.started)
	if err != nil {
		return nil, err
	}
	defer pidfd.Close()
	runtime := runtimeKey(c)
	key := runtime + containerKey
	a.mu.Lock()
	delete(a.byKey, runtime)
	a.byKey[key] = c // before the exit can be told
	c.pending = nil
	a.mu.Unlock()
	p, err := a.keeper.Follow(a.ctx, key, runtime, pid, pidfd.Int())
	if err != nil {
		a.mu.Lock()
		delete(a.byKey, key)
		a.byKey[runtime] = c
		a.mu.Unlock()
		if errors.Is(err, unix.ECHILD) && pidfd.Int() < 0 && s.orphaned() {
			// It has exited while its keeper was dead, and somebody else has reaped it.
			a.mu.Lock()
			c.key, a.byKey[key] = key, c
			delete(a.byKey, runtime)
			c.pending = &keeperpb.Process{Key: key, Pid: int32(pid), Exited: true, Ended: time.Now().UnixNano()}
			a.mu.Unlock()
			return &keeperpb.Process{Key: key, Pid: int32(pid), Started: time.Now().UnixNano()}, nil
		}
		return nil, err
	}
	a.mu.Lock()
	c.key = key
	c.pidfd.Close()
	if p.Exited && c.pending == nil {
		c.pending = p
	}
	a.save(c)
	a.mu.Unlock()
	a.keeper.Forget(a.ctx, runtime) // what else it has left can be reaped now
	return p, nil
}

// orphaned says whether the runtime was another keeper's, whose children are not this one's.
func (s *containerStart) orphaned() bool {
	_, processes, err := s.a.keeper.List(s.a.ctx)
	if err != nil {
		return false
	}
	for _, p := range processes {
		if p.Key == runtimeKey(s.c) {
			return !p.Detaches // it is not the one that the keeper spawned, but one that it watches
		}
	}
	return true
}

// abandonMost is how long each process of a start that has failed may take to end.
const abandonMost = 5 * time.Second

// abandon ends the runtime, and what it has left behind. The runtime is asked first: it may have something to clear away.
func (s *containerStart) abandon() {
	a, c := s.a, s.c
	key := runtimeKey(c)
	for _, sig := range []unix.Signal{unix.SIGTERM, unix.SIGKILL} {
		a.mu.Lock()
		p := c.pending
		a.mu.Unlock()
		if p != nil {
			break
		}
		a.keeper.Signal(a.ctx, key, sig, true)
		select {
		case <-s.ended:
		case <-time.After(abandonMost):
		}
	}
	if c.runtime.pidFile {
		if pid, err := readPidFile(a.pidFile(c)); err == nil {
			s.end(pid)
		}
	}
	a.keeper.Kill(a.ctx, key, leafOf(c))
	a.keeper.ForgetAll(a.ctx, key, "", leafOf(c))
	a.mu.Lock()
	delete(a.byKey, key)
	a.mu.Unlock()
}

// end kills a container whose console never came.
func (s *containerStart) end(pid int) {
	a, c := s.a, s.c
	pidfd, err := leftBehind(pid, c.started)
	if err != nil {
		return
	}
	defer pidfd.Close()
	key := runtimeKey(c) + containerKey
	a.mu.Lock()
	a.byKey[key], c.pending = c, nil
	a.mu.Unlock()
	defer func() {
		a.mu.Lock()
		delete(a.byKey, key)
		a.mu.Unlock()
	}()
	p, err := a.keeper.Follow(a.ctx, key, runtimeKey(c), pid, pidfd.Int())
	if err != nil {
		return
	}
	if !p.Exited {
		a.keeper.Signal(a.ctx, key, unix.SIGKILL, true)
		select {
		case <-s.ended:
		case <-time.After(abandonMost):
		}
	}
	a.keeper.Forget(a.ctx, key)
}

// resumeContainer goes on with a start that the agent before had begun.
func (a *Agent) resumeContainer(c *child, p *keeperpb.Process) {
	s := a.beginContainer(c, p)
	p, err := s.finish(p, caller{})
	if err == nil {
		a.running(c, p, nil)
		c.ready.Close()
		return
	}
	a.undo(c)
	if c.rec.Run > 1 || c.request == "" { // of a restart, or of the configuration: nobody else tries again
		c.ready.Close()
		a.tryLater(c, err)
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	c.failed = err
	c.rec.Error = plainError(err).Error()
	a.over(c, stFailed)
	a.forget(c)
	c.ready.Close()
}
