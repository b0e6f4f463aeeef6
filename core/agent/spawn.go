package agent

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/muxd/muxd/control/controlpb"
	"github.com/muxd/muxd/core/config"
	"github.com/muxd/muxd/core/keeper"
	"github.com/muxd/muxd/core/keeper/keeperpb"
	"github.com/muxd/muxd/internal/fd"
	"github.com/muxd/muxd/internal/fdchan"
	"github.com/muxd/muxd/internal/rest"
	"github.com/muxd/muxd/sink/sinkpb"
)

var nameRE = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_.-]{0,127}$`)

// idLetters spell ids: no vowels, so that none is a word, and nothing that looks like something else.
const idLetters = "bcdfghjkmnpqrstvwxz23456789"

func newID() string {
	b := make([]byte, 6)
	rand.Read(b)
	for i := range b {
		b[i] = idLetters[int(b[i])%len(idLetters)]
	}
	return string(b)
}

// farPrefix begins the keeper's names of the far ends of a child.
func farPrefix(id string) string { return farRoot + id + "/" }

// farRoot begins the keeper's name of every far end.
const farRoot = "far/"

// caller is what a spawn takes from the client that asks for it.
type caller struct {
	fds        *fdchan.Delivery // of inherit streams; nil: none
	session    []byte
	nearTicket []byte
	forks      bool
	attach     *controlpb.AttachRequest // nil: no viewer
}

// check judges a ChildSpec, and completes it. Its errors are the user's.
func (a *Agent) check(cs *controlpb.ChildSpec) (*identity, error) {
	cfg := a.cfg.Load()
	for _, s := range slices.Concat(cs.Argv, cs.Env, [][]byte{cs.Cwd, cs.Path}) {
		if slices.Contains(s, 0) {
			return nil, fmt.Errorf("%.40q holds a NUL byte, which no argument, variable or path can", s)
		}
	}
	for _, e := range cs.Env {
		if i := strings.IndexByte(string(e), '='); i < 1 {
			return nil, fmt.Errorf("environment entry %.40q is not of the form NAME=VALUE", e)
		}
	}
	if cs.Name != "" && !nameRE.MatchString(cs.Name) {
		return nil, fmt.Errorf("name %q: want letters, digits, and _ . - behind the first one, at most 128", cs.Name)
	}
	if len(cs.Cwd) == 0 {
		cs.Cwd = []byte("/")
	}
	if cs.Cwd[0] != '/' {
		return nil, fmt.Errorf("working directory %q is not absolute", cs.Cwd)
	}
	if len(cs.Path) == 0 && len(cs.Argv) > 0 {
		cs.Path = cs.Argv[0]
	}
	if cs.Umask != nil && *cs.Umask > 0o777 {
		return nil, fmt.Errorf("umask %#o: want at most 0777", *cs.Umask)
	}
	for _, r := range cs.Rlimits {
		if _, err := config.Resource(r.Name); err != nil {
			return nil, err
		}
		if r.Soft > r.Hard {
			return nil, fmt.Errorf("rlimit %s: soft %d is above hard %d", r.Name, r.Soft, r.Hard)
		}
	}
	if cs.Size.GetRows() == 0 || cs.Size.GetCols() == 0 {
		cs.Size = &controlpb.Size{Rows: uint32(cfg.Agent.Size.Rows), Cols: uint32(cfg.Agent.Size.Cols)}
	}
	if cs.Size.Rows > 0xffff || cs.Size.Cols > 0xffff {
		return nil, fmt.Errorf("size %dx%d: want at most 65535 of each", cs.Size.Rows, cs.Size.Cols)
	}
	cs.Grace = cmp.Or(cs.Grace, int64(cfg.Agent.Grace))
	return lookupUser(cs.User)
}

// spawn starts a new child, and returns once its program runs. It takes ownership of by's delivery, whatever happens.
func (a *Agent) spawn(ctx context.Context, cs *controlpb.ChildSpec, by caller, adjust func(*child)) (*child, error) {
	drop := func(err error) {
		if by.fds != nil {
			by.fds.Refuse(err)
		}
	}
	c := newChild(cs)
	c.forks = by.forks
	var err error
	if len(cs.Argv) == 0 {
		err = errors.New("no command was given")
	} else {
		c.user, err = a.check(cs)
	}
	if err != nil {
		drop(err)
		return nil, status.Error(codes.InvalidArgument, err.Error())
	}
	if adjust != nil {
		adjust(c)
	}
	if err := a.register(c); err != nil {
		drop(err)
		return nil, err
	}
	err = a.start(ctx, c, by)
	c.failed = err
	c.ready.Close()
	if err != nil && c.configured && cs.Restart != controlpb.Restart_NO { // of the configuration: nobody else would try again
		a.tryLater(c, err)
		return c, err
	}
	if err != nil {
		a.mu.Lock()
		a.forget(c)
		c.finished.Close()
		a.mu.Unlock()
		return nil, err
	}
	return c, nil
}

// register gives c its id and record.
func (a *Agent) register(c *child) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.ending {
		return status.Error(codes.Unavailable, "muxd is stopping")
	}
	id := newID()
	for a.children[id] != nil {
		id = newID()
	}
	name := cmp.Or(c.spec.Name, id)
	for _, other := range []*child{a.children[name], a.named[name]} {
		if other != nil && (other.rec.Id == name || !other.over()) {
			return status.Errorf(codes.AlreadyExists, "name %q is in use by child %s", name, other.rec.Id)
		}
	}
	c.env, c.spec.Env = c.spec.Env, nil
	c.rec = &controlpb.Child{
		Id: id, Name: name, State: stStarting, Argv: c.spec.Argv, Cwd: c.spec.Cwd, User: c.spec.User,
		Created: time.Now().UnixNano(), Restart: c.spec.Restart, Remove: c.spec.Remove, Size: c.spec.Size,
	}
	a.children[id] = c
	a.name(c)
	if c.request != "" {
		a.requests[c.request] = c
	}
	return nil
}

// runAgain starts c once more, after its back-off.
func (a *Agent) runAgain(c *child) {
	a.mu.Lock()
	if c.rec.State != stBackoff || c.stopping {
		a.mu.Unlock()
		return
	}
	c.rec.State = stStarting
	c.rec.Exited, c.rec.Finished, c.rec.Holders, c.rec.Error = 0, 0, nil, ""
	a.mu.Unlock()
	if err := a.start(a.ctx, c, caller{}); err != nil {
		a.tryLater(c, err)
	}
}

// tryLater moves c, whose start has failed, from starting to backoff.
func (a *Agent) tryLater(c *child, err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	c.rec.Error = plainError(err).Error()
	if c.stopping || a.ending {
		a.over(c, stFailed)
		return
	}
	// What was wrong may be mended: a program that is being replaced, a sink's directory that is not there yet.
	c.rec.State = stBackoff
	wait := c.backoff
	c.backoff = min(2*c.backoff, c.backoffMax)
	a.emit(c, "restarting", "", fmt.Sprintf("in %v: %s", wait, c.rec.Error))
	c.restart = time.AfterFunc(wait, func() { a.follow(func() { a.runAgain(c) }) })
}

// errStopped is why the start of a child that was stopped meanwhile has failed.
var errStopped = status.Error(codes.FailedPrecondition, "the child was stopped while it was being started")

// start opens the sinks of c's next run and spawns its process. It takes ownership of by's delivery. On an error
// everything that it opened is closed again, and the state of c is the caller's to set.
func (a *Agent) start(ctx context.Context, c *child, by caller) (err error) {
	near := nearEnds{}
	defer near.close()
	acked := false
	defer func() {
		if by.fds != nil && !acked {
			by.fds.Refuse(errors.New("the child was not started"))
		}
	}()
	a.mu.Lock()
	c.rec.Run++
	run := c.rec.Run
	c.forgetRemoved()
	c.openings, c.rec.Sinks, c.cut, c.pending, c.started = nil, nil, false, nil, 0
	c.key = fmt.Sprintf("child/%s/%d", c.id(), run)
	sinksCtx, abort := context.WithCancelCause(ctx) // what waits for plugins ends when the child is stopped
	defer func() {
		abort(nil)
		a.mu.Lock()
		defer a.mu.Unlock()
		c.abort = nil // with it goes the call that asked for the start
	}()
	if c.abort = abort; c.stopping {
		abort(errStopped)
	}
	a.mu.Unlock()
	defer func() {
		if err != nil && context.Cause(sinksCtx) == errStopped {
			err = errStopped
		}
	}()
	pbChild := c.described(run)
	if c.sinks == nil {
		if c.sinks, err = a.choose(sinksCtx, c.spec, pbChild); err != nil {
			return invalid(err)
		}
		c.spec.Sinks = nil // as they were chosen they stay
	}
	if err := errors.Join(checkCaller(c, by), checkRuntime(c)); err != nil {
		return invalid(err)
	}
	if c.runtime != nil {
		if err := a.makeRuntimeDir(c); err != nil {
			return status.Error(codes.FailedPrecondition, err.Error())
		}
	}
	defer func() {
		if err != nil {
			a.undo(c)
		}
	}()
	for i, ch := range c.sinks {
		if err := a.open(sinksCtx, c, ch, i, pbChild, &near, by); err != nil {
			return err
		}
	}
	if c.user != nil {
		if err := near.chown(c.user.cred); err != nil {
			return status.Error(codes.FailedPrecondition, err.Error())
		}
	}
	if o, err := a.console(c); err == nil && by.attach != nil && o.choice.wiring != wiringSocket {
		if err := a.attach(sinksCtx, o, nil, by.session, by.attach); err != nil {
			return err
		}
		c.attached = true
	}
	if c.forks {
		if err := a.handOver(ctx, c, &near, by); err != nil {
			return err
		}
		return nil
	}
	a.mu.Lock()
	env, err := a.environment(c)
	if err != nil {
		a.mu.Unlock()
		return err
	}
	a.byKey[c.key] = c
	a.save(c) // before the process is there: an agent that takes over finds either both or neither
	a.mu.Unlock()
	p, pidfd, err := a.keeper.SpawnOpen(ctx, a.spawnMessage(c, env, &near), near.order())
	if err == nil && c.runtime != nil {
		near.close()
		pidfd.Close() // of the runtime
		pidfd = nil
		p, err = a.beginContainer(c, p).finish(p, by)
	}
	if err != nil {
		a.mu.Lock()
		delete(a.byKey, c.key)
		a.mu.Unlock()
		return spawnError(err)
	}
	if by.fds != nil {
		fd.CloseAll(by.fds.FDs)
		by.fds.Ack()
		acked = true
	}
	a.running(c, p, pidfd)
	rest.After()
	return nil
}

// running moves c from starting to running. It takes ownership of pidfd, which may be nil.
func (a *Agent) running(c *child, p *keeperpb.Process, pidfd *fd.FD) {
	a.mu.Lock()
	c.rec.State, c.rec.Pid, c.rec.Started = stRunning, p.Pid, p.Started
	c.env = nil                                 // the process has it, and the journal, if it may run again
	c.started, _ = keeper.StartTime(int(p.Pid)) // an error: it has been reaped already, and its exit is on the way
	if c.adopted {
		a.emit(c, "adopted", "", "")
	} else {
		a.emit(c, "spawned", "", fmt.Sprintf("pid %d", p.Pid))
	}
	a.save(c)
	stop := c.stopping
	if c.pidfd = pidfd; pidfd == nil {
		c.openPidfd()
	}
	if c.pending != nil {
		pending := c.pending
		c.pending = nil
		a.exited(c, pending)
	}
	for _, o := range c.openings {
		if o.endsAlone() {
			a.follow(func() { a.settle(o) })
		}
		for _, s := range o.streams {
			if s.kind == sinkpb.Stream_STDIN && s.rec.State == "eof" { // before the keeper had its copy
				a.dropInput(o, s)
			}
		}
		select {
		case <-o.plugin.Load().Gone(): // while c was starting, and revive passed over it
			a.follow(func() { a.revive(o.choice.spec.Name) })
		default:
		}
	}
	a.streamsOver(c)
	a.mu.Unlock()
	if stop {
		a.stop(c, time.Duration(c.spec.Grace))
	}
}

// undo takes back the openings of a start that failed.
func (a *Agent) undo(c *child) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(a.ctx), 5*time.Second)
	defer cancel()
	a.mu.Lock()
	openings := c.openings
	c.openings, c.rec.Sinks = nil, nil
	for _, o := range openings {
		o.undone = make(chan struct{})
		select {
		case <-o.plugin.Load().Gone(): // nobody will tell of it
			for _, s := range o.streams {
				s.done = true
			}
		default:
		}
		a.undoneIfDone(o)
	}
	a.mu.Unlock()
	if c.runtime != nil {
		os.RemoveAll(a.runtimeDir(c))
	}
	for _, o := range openings {
		o.sinks().End(ctx, &sinkpb.EndRequest{Opening: o.id})
		o.sinks().Cut(ctx, &sinkpb.CutRequest{Opening: o.id})
	}
	for _, o := range openings {
		select {
		case <-o.undone:
		case <-ctx.Done():
		}
		o.sinks().Forget(ctx, &sinkpb.ForgetRequest{Opening: o.id})
	}
	a.keeper.Drop(ctx, farPrefix(c.id()), true)
	a.mu.Lock()
	for _, o := range openings {
		delete(a.openings, o.id)
	}
	a.mu.Unlock()
}

// spawnMessage is the keeper's request for c's process, which gets env.
func (a *Agent) spawnMessage(c *child, env [][]byte, near *nearEnds) *keeperpb.Spawn {
	s := &keeperpb.Spawn{
		Key: c.key, Path: c.spec.Path, Argv: a.command(c), Env: c.user.environment(env), Cwd: c.spec.Cwd,
		Detaches: c.runtime != nil && c.runtime.pidFile,
		Fds:      []uint32{0, 1, 2}, Umask: c.spec.Umask, ControllingTerminal: near.terminal, Hold: near.holdNames,
		Cgroup: leafOf(c),
	}
	if c.user != nil {
		s.Credential = c.user.cred
	}
	for _, r := range c.spec.Rlimits {
		n, _ := config.Resource(r.Name) // checked
		s.Rlimits = append(s.Rlimits, &keeperpb.Rlimit{Resource: uint32(n), Soft: r.Soft, Hard: r.Hard})
	}
	return s
}

// nearEnds collects the descriptors of a child before it is spawned. It owns them.
type nearEnds struct {
	std       [3]*fd.FD
	terminal  bool // std[0] is the child's controlling terminal
	hold      []*fd.FD
	holdNames []string
}

// close closes what the process has by now, or will never have.
func (n *nearEnds) close() {
	fd.CloseAll(n.std[:])
	fd.CloseAll(n.hold)
}

// order lists the descriptors as keeperpb.Spawn wants them.
func (n *nearEnds) order() []int {
	return append(fd.Ints(n.std[:]), fd.Ints(n.hold)...)
}

// keep has the keeper hold f, of which it takes ownership.
func (n *nearEnds) keep(name string, f *fd.FD) {
	n.hold = append(n.hold, f)
	n.holdNames = append(n.holdNames, name)
}

// chown gives pipes, sockets and terminals to the child's user: otherwise opening /dev/stdout or its terminal again
// fails there. Files are the sink's to give.
func (n *nearEnds) chown(cred *keeperpb.Credential) error {
	for _, f := range n.std {
		var st unix.Stat_t
		if err := unix.Fstat(f.Int(), &st); err != nil {
			return fmt.Errorf("look at a near end: %w", err)
		}
		kind := st.Mode & unix.S_IFMT
		if kind != unix.S_IFIFO && kind != unix.S_IFSOCK && !n.terminal || st.Uid == cred.Uid {
			continue
		}
		if err := unix.Fchown(f.Int(), int(cred.Uid), -1); err != nil && kind != unix.S_IFSOCK {
			return fmt.Errorf("give a near end to user %d: %w", cred.Uid, err)
		}
	}
	return nil
}

func invalid(err error) error {
	if _, ok := status.FromError(err); ok {
		return err
	}
	if errors.Is(err, keeper.ErrGone) {
		return spawnError(err)
	}
	return status.Error(codes.InvalidArgument, err.Error())
}

// spawnError gives an error of the keeper its gRPC code.
func spawnError(err error) error {
	if _, ok := status.FromError(err); ok {
		return err
	}
	code := codes.FailedPrecondition
	switch {
	case errors.Is(err, keeper.ErrGone):
		code = codes.Unavailable
	case errors.Is(err, unix.ENOENT):
		code = codes.NotFound
	case errors.Is(err, unix.EACCES), errors.Is(err, unix.EPERM):
		code = codes.PermissionDenied
	case errors.Is(err, unix.EMFILE), errors.Is(err, unix.ENFILE), errors.Is(err, unix.EAGAIN), errors.Is(err, unix.ENOMEM):
		code = codes.ResourceExhausted
	case errors.Is(err, context.Canceled):
		code = codes.Canceled
	}
	return status.Error(code, err.Error())
}
