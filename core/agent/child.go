package agent

import (
	"context"
	"fmt"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/muxd/muxd/control/controlpb"
	"github.com/muxd/muxd/core/agent/agentpb"
	"github.com/muxd/muxd/core/host"
	"github.com/muxd/muxd/core/keeper"
	"github.com/muxd/muxd/core/keeper/keeperpb"
	"github.com/muxd/muxd/internal/fd"
	"github.com/muxd/muxd/internal/latch"
	"github.com/muxd/muxd/sink/sinkpb"
)

// A child is in one of these states, which the API tells by these names:
//
//	starting  its sinks are being opened, or it is being spawned; spawn moves it to running, or undoes it
//	running   its process runs; the keeper's exit moves it to exited
//	exited    its process is reaped, and its streams are not all flushed; the last flushed, or the drain deadline with
//	          a cut, moves it to finished
//	backoff   finished, and it will be started again; the timer moves it to starting, a stop to finished
//	finished  nothing of it can change any more
//	failed    like finished, but its last start did not succeed
//
// All moves are made under Agent.mu.
const (
	stStarting = "starting"
	stRunning  = "running"
	stExited   = "exited"
	stBackoff  = "backoff"
	stFinished = "finished"
	stFailed   = "failed"
)

// Back-off of restarts, where the config does not say: it doubles, and begins anew after a run of backoffReset.
const (
	backoffFirst = 100 * time.Millisecond
	backoffMost  = 30 * time.Second
	backoffReset = 10 * time.Second
)

// removedFor is how long a finished child with --rm waits for the first Wait.
const removedFor = time.Minute

// child is a process that muxd spawned, over all its runs, or whose streams it adopted.
type child struct {
	spec       *controlpb.ChildSpec // as it was asked for, checked, without env; never changes
	env        [][]byte             // of its runs, until the journal has it
	user       *identity
	sinks      []*choice
	rec        *controlpb.Child // what the API tells
	key        string           // of the current run's process, at the keeper
	openings   []*opening       // of the current run
	pending    *keeperpb.Process
	started    uint64                  // of the current run's process, as keeper.StartTime tells it; 0: it could not be told
	pidfd      *fd.FD                  // while it runs
	killed     *time.Timer             // SIGKILL at the end of the grace time
	drain      *time.Timer             // the drain deadline
	abort      context.CancelCauseFunc // ends what its start waits for of plugins; nil: none is under way
	restart    *time.Timer
	stopping   bool
	ending     bool          // its openings are being forgotten
	waited     bool          // somebody has called Wait
	cut        bool          // the drain deadline has passed
	forks      bool          // the client forks it
	adopted    bool          // its process is somebody else's, or not known: rec.Pid is 0 then
	moving     bool          // one of its streams is on the way to another sink
	move       *agentpb.Move // that one
	moved      string        // the request id of the latest that was done
	resumed    *resumedMove  // the same, where an agent before this one began it
	attached   bool          // its spawn came with a viewer
	configured bool          // it is a [[child]] of the configuration
	request    string        // the client's request id of its spawn

	runtime *ociRuntime     // its command starts a container; nil: it does not
	start   *containerStart // of which the start is under way; nil: none is

	backoff, backoffFirst, backoffMax time.Duration

	ready    latch.Latch // closed when its first start is done, after failed is set
	failed   error
	finished latch.Latch // closed when it is finished or failed for good
}

// opening is streams of a child in the hands of one plugin. It outlives the plugin's process.
type opening struct {
	id      string
	run     uint32 // of the child
	child   *child
	plugin  atomic.Pointer[host.Plugin] // the process that serves it; a successor's after revive
	choice  *choice
	streams []*stream
	undone  chan struct{} // closed when its streams are done, of an opening that is taken back
	rewired sync.Mutex    // held while its plugin is given its far ends, or another one; taken before Agent.mu
}

// farName is the keeper's name of the far end of s.
func (o *opening) farName(s *stream) string {
	return farPrefix(o.child.id()) + o.id + "/" + streamName(s.kind)
}

// sinks is the gRPC service of the process that serves o, or did until it died.
func (o *opening) sinks() sinkpb.SinkClient { return o.plugin.Load().Sinks() }

// stream is one stream of an opening.
type stream struct {
	kind   sinkpb.Stream
	rec    *controlpb.Sink
	holder holderID      // of the near end
	as     *choice       // what it is of: its opening's, or where only this stream of it is a branch, one of its own
	branch string        // of a branch: the name that it has for what copies the stream; unique for ever
	closed bool          // of a branch: the keeper is told to drop its input
	next   bool          // its sink is being given another far end, which the keeper has as nextName
	armed  bool          // the keeper tells when its far end has something to read
	moving bool          // it is leaving its sink for another
	left   bool          // it has left it, and is none that a successor of its plugin gets
	end    *sinkpb.Event // what is told of its end while it is moving
	done   bool          // flushed or failed, or nothing will be told of it

	eventsFrom time.Time // see emitSome
}

func newChild(cs *controlpb.ChildSpec) *child {
	return &child{
		spec: cs, runtime: runtimeOf(cs.Argv),
		backoff: backoffFirst, backoffFirst: backoffFirst, backoffMax: backoffMost,
	}
}

func (c *child) id() string { return c.rec.Id }

// described is what plugins are told of c.
func (c *child) described(run uint32) *sinkpb.Child {
	d := &sinkpb.Child{Id: c.rec.Id, Name: c.rec.Name, Run: run}
	if len(c.spec.Argv) > 0 {
		d.Command = c.spec.Argv[0]
	}
	return d
}

// over says whether c is finished for good. Agent.mu is held.
func (c *child) over() bool {
	return c.rec.State == stFinished || c.rec.State == stFailed
}

// exited moves c from running to exited. Agent.mu is held.
func (a *Agent) exited(c *child, p *keeperpb.Process) {
	if c.rec.State == stStarting {
		c.pending = p // the reply of its spawn is on the way
		if c.start != nil {
			poke(c.start.ended)
		}
		return
	}
	delete(a.byKey, p.Key)
	c.pidfd.Close()
	r := c.rec
	r.State, r.Exited = stExited, p.Ended
	r.StatusKnown, r.Status = p.StatusKnown, p.Status
	r.UserUsec, r.SystemUsec, r.MaxRss = p.UserUsec, p.SystemUsec, p.MaxRssKib<<10
	if r.Pid != 0 {
		a.emit(c, "exited", "", statusText(r))
	}
	for _, o := range c.openings {
		if o.wantsEnd() {
			a.follow(func() { a.settle(o) })
		}
	}
	a.drainLater(c)
	a.save(c)
	a.maybeFinish(c)
}

// drainLater sets the drain deadline of c's run. Agent.mu is held.
func (a *Agent) drainLater(c *child) {
	run := c.rec.Run
	c.drain = time.AfterFunc(a.cfg.Load().Agent.Drain, func() { a.drained(c, run) })
}

// follow runs f in a goroutine that shutdown waits for.
func (a *Agent) follow(f func()) { a.work.Go(f) }

// drained is the drain deadline of a run: streams that are not put out by then are cut, and whoever holds them is named.
func (a *Agent) drained(c *child, run uint32) {
	a.mu.Lock()
	if c.rec.State != stExited || c.rec.Run != run || c.ending {
		a.mu.Unlock()
		return
	}
	c.cut = true
	var open []*stream
	var cut []*opening
	for _, o := range c.openings {
		late := false
		for _, s := range o.streams {
			if s.done {
				continue
			}
			late = true                                    // also one that has ended, and is not put out
			if s.as.from == nil && s.rec.State == "open" { // a branch is held by what copies to it
				open = append(open, s)
			}
		}
		if late {
			cut = append(cut, o)
		}
	}
	a.mu.Unlock()
	holders := findHolders(open)
	a.mu.Lock()
	for _, h := range holders {
		c.rec.Holders = append(c.rec.Holders, h)
		a.emit(c, "held", h.Stream, fmt.Sprintf("cut at the drain deadline: process %d (%s) still held it", h.Pid, h.Command))
	}
	a.save(c)
	stopping := c.stopping
	a.mu.Unlock()
	if stopping && !c.adopted { // what is cut is cut, but nobody is left to be surprised by it
		a.kill(a.ctx, c)
	}
	for _, o := range cut { // one plugin's answer is nothing that another one's streams wait for
		a.follow(func() { a.settle(o) })
	}
	a.forsakeBroken()
}

// wantsEnd says whether the plugin of o is told that the child has exited. Output on pipes ends by itself, and its sink hears of the
// exit with Forget; or before that with Cut, at the drain deadline.
func (o *opening) wantsEnd() bool {
	ch := o.choice
	return !ch.piped() || ch.copies || ch.from != nil ||
		slices.ContainsFunc(o.streams, func(s *stream) bool { return s.kind == sinkpb.Stream_STDIN })
}

// settle tells the plugin of o what has become of the child. It is done again whenever o comes to another process.
func (a *Agent) settle(o *opening) {
	c := o.child
	a.mu.Lock()
	exited, cut := c.rec.State == stExited, c.cut
	exited = exited || o.endsAlone()
	for _, s := range o.streams {
		if from := (branch{o, s}).copiedBy(); from != nil && !from.streams[0].done {
			cut = false // when that has ended: until then there may be more for it
		}
	}
	end := &sinkpb.EndRequest{Opening: o.id, HasStatus: c.rec.StatusKnown, Status: c.rec.Status}
	a.mu.Unlock()
	if p := o.plugin.Load(); exited && cut { // also where it does not answer the calls
		time.AfterFunc(cutMost, func() { a.untold(o, p) })
	}
	var err error
	if exited {
		_, err = o.sinks().End(a.ctx, end)
	}
	if exited && cut && err == nil {
		_, err = o.sinks().Cut(a.ctx, &sinkpb.CutRequest{Opening: o.id})
	}
	if err != nil && !pluginGone(err) {
		a.lost(o, err)
	}
}

// cutMost is how long after Cut a plugin that runs may take to tell how the streams ended. The SDK takes 2 seconds.
const cutMost = 10 * time.Second

// untold gives up what a plugin has told no end of, though it was cut: nobody shall wait for that, muxd's own end least of all.
func (a *Agent) untold(o *opening, p *host.Plugin) {
	select {
	case <-p.Gone(): // its successor is asked
		return
	default:
	}
	if o.plugin.Load() == p {
		a.lost(o, fmt.Errorf("%v after the stream was cut it has not told how it ended", cutMost))
	}
}

// pluginGone says whether a call failed because the plugin's process has ended: whatever was to be done will be done with its
// successor.
func pluginGone(err error) bool {
	code := status.Code(err)
	return code == codes.Unavailable || code == codes.Canceled
}

// lost says that the plugin of o runs and yet does not serve it any more: its streams have failed.
func (a *Agent) lost(o *opening, err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, s := range o.streams {
		if !s.done {
			a.failStream(o, s, fmt.Sprintf("sink %s: %v", o.choice.spec.Name, plainError(err)))
		}
	}
	a.maybeFinish(o.child)
}

// failStream marks s as failed. Agent.mu is held.
func (a *Agent) failStream(o *opening, s *stream, why string) {
	s.done, s.rec.State, s.rec.Error = true, "failed", why
	a.emit(o.child, "failed", partOf(s.rec), why)
	a.copiedAll(o)
	a.branchFailed(branch{o, s})
}

// maybeFinish moves c from exited to its end, if all its streams are done. Agent.mu is held.
func (a *Agent) maybeFinish(c *child) {
	if c.rec.State != stExited || c.ending || c.moving {
		return
	}
	for _, o := range c.openings {
		for _, s := range o.streams {
			if !s.done {
				return
			}
		}
	}
	c.ending = true
	c.drain.Stop()
	openings, stopping := c.openings, c.stopping
	a.follow(func() {
		a.release(c, openings, stopping)
		a.mu.Lock()
		defer a.mu.Unlock()
		a.finish(c)
	})
}

// forgetMost is how long a plugin may take to forget an opening.
const forgetMost = 5 * time.Second

// release lets go of what a run has at plugins and keeper.
func (a *Agent) release(c *child, openings []*opening, stopping bool) {
	if stopping && !c.adopted { // what it has left behind, and holds no stream
		a.kill(a.ctx, c)
		a.awaitNobody(c)
	}
	a.mu.Lock()
	known, ws := c.rec.StatusKnown, c.rec.Status
	a.mu.Unlock()
	var dropped sync.WaitGroup
	dropped.Go(func() { a.keeper.ForgetAll(a.ctx, c.key, farPrefix(c.id()), leafOf(c)) })
	var gone []*opening
	for _, o := range openings {
		a.lastNumbers(a.ctx, o)
		ctx, cancel := context.WithTimeout(a.ctx, forgetMost)
		_, err := o.sinks().Forget(ctx, &sinkpb.ForgetRequest{Opening: o.id, HasStatus: known, Status: ws})
		cancel()
		switch {
		case err != nil && pluginGone(err):
			gone = append(gone, o)
		case err != nil:
			a.log.Warn("sink does not forget a finished child", "opening", o.id, "error", plainError(err))
		}
	}
	a.mu.Lock()
	for _, o := range openings {
		delete(a.openings, o.id)
	}
	for _, s := range c.rec.Sinks { // those without an opening, of null and inherit, too
		if s.State == "open" {
			s.State = "closed"
		}
	}
	a.mu.Unlock()
	for _, o := range gone { // a successor may be told nothing of it any more
		a.dropParked(a.ctx, o)
	}
	dropped.Wait()
	if left := a.left(c); left != "" {
		a.mu.Lock()
		a.emit(c, "left", "", left)
		a.mu.Unlock()
	}
}

// finish moves c from exited to finished or backoff. Agent.mu is held.
func (a *Agent) finish(c *child) {
	c.ending = false
	if c.killed != nil {
		c.killed.Stop()
	}
	c.rec.Finished = time.Now().UnixNano()
	again := !c.stopping && !a.ending && (c.spec.Restart == controlpb.Restart_ALWAYS ||
		c.spec.Restart == controlpb.Restart_ON_FAILURE && !(c.rec.StatusKnown && c.rec.Status == 0))
	if !again {
		a.over(c, stFinished)
		return
	}
	if time.Duration(c.rec.Exited-c.rec.Started) >= backoffReset {
		c.backoff = c.backoffFirst
	}
	wait := c.backoff
	c.backoff = min(2*c.backoff, c.backoffMax)
	c.rec.State = stBackoff
	a.emit(c, "restarting", "", fmt.Sprintf("in %v", wait))
	c.restart = time.AfterFunc(wait, func() { a.follow(func() { a.runAgain(c) }) })
	a.save(c)
}

// poke wakes whoever waits on ch, a channel of capacity 1.
func poke(ch chan struct{}) {
	select {
	case ch <- struct{}{}:
	default:
	}
}

// over moves c to its last state. Agent.mu is held.
func (a *Agent) over(c *child, state string) {
	c.rec.State = state
	if c.rec.Finished == 0 {
		c.rec.Finished = time.Now().UnixNano()
	}
	c.openings = nil
	a.emit(c, state, "", c.rec.Error)
	a.save(c)
	c.finished.Close()
	switch {
	case c.spec.Remove && c.waited:
		a.forget(c)
	case c.spec.Remove:
		time.AfterFunc(removedFor, func() {
			a.mu.Lock()
			defer a.mu.Unlock()
			a.forget(c)
		})
	default:
		a.done = append(a.done, c)
		a.forgetOldest()
	}
}

// forget removes c from the list of children. Agent.mu is held.
func (a *Agent) forget(c *child) {
	if a.children[c.id()] == c {
		delete(a.children, c.id())
		a.unname(c)
		a.remains.drop(c.id())
		if i := slices.Index(a.done, c); i >= 0 {
			a.done = slices.Delete(a.done, i, i+1)
		}
		if err := a.journal.remove(c.id()); err != nil {
			a.log.Error("child is not removed from the journal", "child", c.id(), "error", err)
		}
	}
	if a.requests[c.request] == c {
		delete(a.requests, c.request)
	}
}

// forgetOldest keeps the number of finished children within the configured bound. Agent.mu is held.
func (a *Agent) forgetOldest() {
	for most := a.cfg.Load().Agent.KeepFinished; len(a.done) > most; {
		a.forget(a.done[0])
	}
}

// stop ends c: SIGTERM to its group now, SIGHUP too where that is a shell's on a console, SIGKILL to all of it after grace. It does not wait
// for that.
func (a *Agent) stop(c *child, grace time.Duration) {
	defer a.forsakeBroken() // its drain deadline may have passed long ago
	a.mu.Lock()
	c.stopping = true
	key := c.key
	if c.adopted && (c.rec.State == stRunning || c.rec.State == stExited) {
		a.stopAdopted(c)
		a.mu.Unlock()
		return
	}
	switch c.rec.State {
	case stBackoff:
		if c.restart.Stop() {
			a.over(c, stFinished)
		}
		a.mu.Unlock()
		a.kill(a.ctx, c) // what the run before has left behind
		a.awaitNobody(c)
		return
	case stRunning:
	case stExited: // its process is gone; what keeps its streams open may be of its group
	case stFinished, stFailed: // as long ago as may be, and what it has left behind may be there
		a.mu.Unlock()
		a.kill(a.ctx, c)
		a.awaitNobody(c)
		return
	default: // a spawn that is under way looks at c.stopping when it is done
		starting := c.start != nil
		if c.abort != nil { // nor for plugins
			c.abort(errStopped)
		}
		a.mu.Unlock()
		if starting { // it need not wait for the runtime
			a.keeper.Signal(a.ctx, key, unix.SIGTERM, true)
		}
		return
	}
	a.emit(c, "stopping", "", "")
	a.save(c)
	shell := slices.ContainsFunc(c.openings, (*opening).isConsole)
	if shell { // an interactive one ignores SIGTERM, and ends when its terminal hangs up
		ignored, _ := keeper.IgnoredSignals(int(c.rec.Pid)) // an error: it has ended
		shell = slices.Contains(ignored, os.Signal(unix.SIGTERM))
	}
	if grace > 0 {
		if c.killed != nil {
			c.killed.Stop()
		}
		c.killed = time.AfterFunc(grace, func() { a.kill(context.Background(), c) })
	}
	a.mu.Unlock()
	if grace <= 0 {
		a.kill(a.ctx, c)
		return
	}
	a.keeper.Signal(a.ctx, key, unix.SIGTERM, true)
	a.keeper.Signal(a.ctx, key, unix.SIGCONT, true) // a stopped process takes its SIGTERM then
	if shell {
		a.keeper.Signal(a.ctx, key, unix.SIGHUP, true)
	}
}

// statusText says in words how a child ended.
func statusText(r *controlpb.Child) string {
	if !r.StatusKnown {
		return "its exit status is not known"
	}
	ws := syscall.WaitStatus(r.Status)
	switch {
	case ws.Signaled() && ws.CoreDump():
		return fmt.Sprintf("killed by %s (core dumped)", unix.SignalName(ws.Signal()))
	case ws.Signaled():
		return fmt.Sprintf("killed by %s", unix.SignalName(ws.Signal()))
	}
	return fmt.Sprintf("exit status %d", ws.ExitStatus())
}
