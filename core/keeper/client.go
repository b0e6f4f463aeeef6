package keeper

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"syscall"

	"golang.org/x/sync/errgroup"
	"google.golang.org/protobuf/proto"

	"github.com/muxd/muxd/core/keeper/keeperpb"
	"github.com/muxd/muxd/internal/fd"
	"github.com/muxd/muxd/internal/fdchan"
)

// ErrGone is what calls fail with when the keeper has died: this agent becomes the next one, and whoever asked it asks another.
var ErrGone = errors.New("the keeper is gone")

// Client is the agent's half of the keeper channel. Its methods may be called from several goroutines. Each
// blocks until the keeper has answered, ctx is done, or the channel has closed; a call that ends by ctx may
// have had its effect all the same, and can be repeated (Spawn and Watch know their key again).
//
// The keeper forwards SIGTERM, SIGINT and SIGHUP to the agent from its first request on, and keeps those that
// come before: so install the agent's signal handlers before the first call.
type Client struct {
	conn   *fdchan.Conn
	onExit func(*keeperpb.Process)
	onStir func(name string)
	done   chan struct{}
	left   atomic.Bool // the keeper goes on as another program

	mu      sync.Mutex
	last    uint64
	waiting map[uint64]chan answer
	err     error // why done is closed
}

// answer is a reply and its descriptors, which are owned by whoever takes it.
type answer struct {
	reply *keeperpb.Reply
	fds   []*fd.FD
}

// Connect takes ownership of channel, whatever happens, and starts to receive. onExit is called for every
// process that exits, in order, and onStir for what Arm named, from the receiving goroutine: they must not block, and must not
// call the Client. The reply to a Spawn always comes before the exit of its process.
func Connect(channel *fd.FD, onExit func(*keeperpb.Process), onStir func(name string)) (*Client, error) {
	conn, _, err := newChannel(channel)
	if err != nil {
		return nil, err
	}
	c := &Client{conn: conn, onExit: onExit, onStir: onStir, done: make(chan struct{}), waiting: map[uint64]chan answer{}}
	go c.receive()
	return c, nil
}

// Close closes the channel and waits for the receiver to end. The keeper takes that for the agent's death.
func (c *Client) Close() error {
	err := c.conn.Close()
	<-c.done
	return err
}

// Done is closed when the channel has ended: the keeper is gone, or Close was called.
func (c *Client) Done() <-chan struct{} { return c.done }

// Spawn starts a process. fds are the child's descriptors, one for each of s.Fds, and then one for each of
// s.Hold; it does not take ownership of them. A key that the keeper knows already returns the first spawn's
// process.
func (c *Client) Spawn(ctx context.Context, s *keeperpb.Spawn, fds []int) (*keeperpb.Process, error) {
	p, pidfd, err := c.SpawnOpen(ctx, s, fds)
	pidfd.Close()
	return p, err
}

// SpawnOpen is Spawn, and returns the process's pidfd too, owned by the caller; nil where it has exited already, or there is none.
func (c *Client) SpawnOpen(ctx context.Context, s *keeperpb.Spawn, fds []int) (*keeperpb.Process, *fd.FD, error) {
	if len(fds) != len(s.GetFds())+len(s.GetHold()) {
		return nil, nil, fmt.Errorf("spawn %s: %d descriptors for %d numbers and %d names", s.GetKey(), len(fds), len(s.GetFds()), len(s.GetHold()))
	}
	a, err := c.ask(ctx, &keeperpb.Request{What: &keeperpb.Request_Spawn{Spawn: s}}, fds...)
	if err == nil {
		err = replyError(a.reply)
	}
	if err != nil || len(a.fds) != 1 {
		fd.CloseAll(a.fds)
		return a.reply.GetProcess(), nil, err
	}
	return a.reply.GetProcess(), a.fds[0], nil
}

// Signal sends sig to the process of that key, or to its group. ESRCH where there is none any more.
func (c *Client) Signal(ctx context.Context, key string, sig syscall.Signal, group bool) error {
	_, err := c.call(ctx, &keeperpb.Request{What: &keeperpb.Request_Signal{
		Signal: &keeperpb.Signal{Key: key, Signal: uint32(sig), Group: group}}})
	return err
}

// Hold gives the keeper a copy of descriptor n under name, in place of what it held there. It does not take
// ownership of n; the copy is safe when Hold returns nil.
func (c *Client) Hold(ctx context.Context, name string, note []byte, n int) error {
	_, err := c.call(ctx, &keeperpb.Request{What: &keeperpb.Request_Hold{Hold: &keeperpb.Hold{Name: name, Note: note}}}, n)
	return err
}

// HoldSeries gives the keeper copies of descriptors under the names that are prefix and their number, 000, 001, …, in place of all that it
// holds under names with that prefix: all in one step. It does not take ownership.
func (c *Client) HoldSeries(ctx context.Context, prefix string, fds []int) error {
	_, err := c.call(ctx, &keeperpb.Request{What: &keeperpb.Request_Hold{Hold: &keeperpb.Hold{Name: prefix, Series: true}}}, fds...)
	return err
}

// Fetch returns a copy of the descriptor under name, owned by the caller. ENOENT where there is none.
func (c *Client) Fetch(ctx context.Context, name string) (*fd.FD, error) {
	a, err := c.ask(ctx, &keeperpb.Request{What: &keeperpb.Request_Fetch{Fetch: &keeperpb.Fetch{Name: name}}})
	if err != nil {
		return nil, err
	}
	if err := replyError(a.reply); err != nil {
		fd.CloseAll(a.fds)
		return nil, err
	}
	if len(a.fds) != 1 {
		fd.CloseAll(a.fds)
		return nil, fmt.Errorf("fetch %s from the keeper: it answered with %d descriptors", name, len(a.fds))
	}
	return a.fds[0], nil
}

// fetchAtOnce is how many requests of FetchAll are under way: one after the other, each would wait for both processes to wake up.
const fetchAtOnce = 32

// FetchAll returns copies of the descriptors under names, in their order, owned by the caller. It blocks until all are there. nil stands for
// one that could not be had; the error is of one of them.
func (c *Client) FetchAll(ctx context.Context, names []string) ([]*fd.FD, error) {
	out := make([]*fd.FD, len(names))
	var g errgroup.Group
	g.SetLimit(fetchAtOnce)
	for i, name := range names {
		g.Go(func() (err error) {
			out[i], err = c.Fetch(ctx, name)
			return err
		})
	}
	return out, g.Wait()
}

// Drop closes the keeper's descriptor under name, or with prefix those of all names that begin with it. A
// name that is not there is no error.
func (c *Client) Drop(ctx context.Context, name string, prefix bool) error {
	_, err := c.call(ctx, &keeperpb.Request{What: &keeperpb.Request_Drop{Drop: &keeperpb.Drop{Name: name, Prefix: prefix}}})
	return err
}

// Arm has onStir called, once for each, when what the keeper holds under names has something to read, or has come to its end. Until
// then it costs nothing. A name that is not there is no error.
func (c *Client) Arm(ctx context.Context, names []string) error {
	_, err := c.call(ctx, &keeperpb.Request{What: &keeperpb.Request_Arm{Arm: &keeperpb.Arm{Names: names}}})
	return err
}

// List returns what the keeper holds and all processes that are not forgotten, each sorted by name or key.
func (c *Client) List(ctx context.Context) ([]*keeperpb.Held, []*keeperpb.Process, error) {
	r, err := c.call(ctx, &keeperpb.Request{What: &keeperpb.Request_List{List: &keeperpb.List{}}})
	return r.GetHeld(), r.GetProcesses(), err
}

// Forget removes the record of an exited process; EBUSY while it runs, unless it is only watched. A key that is not there is no
// error.
func (c *Client) Forget(ctx context.Context, key string) error {
	return c.ForgetAll(ctx, key, "", "")
}

// ForgetAll is Forget, and Drop of all names that begin with prefix. And it has a cgroup removed, if there is one of that name, as soon
// as nobody is in it any more.
func (c *Client) ForgetAll(ctx context.Context, key, prefix, cgroup string) error {
	_, err := c.call(ctx, &keeperpb.Request{What: &keeperpb.Request_Forget{
		Forget: &keeperpb.Forget{Key: key, Drop: prefix, Cgroup: cgroup}}})
	return err
}

// Kill has the process group of that key killed, and all that is in a cgroup, if there is one of that name. There may be neither.
func (c *Client) Kill(ctx context.Context, key, cgroup string) error {
	_, err := c.call(ctx, &keeperpb.Request{What: &keeperpb.Request_Kill{Kill: &keeperpb.Kill{Key: key, Cgroup: cgroup}}})
	return err
}

// Watch gives the keeper a copy of pidfd, of a process pid that somebody else started, so that its exit is
// told as any other's. It does not take ownership of pidfd.
func (c *Client) Watch(ctx context.Context, key string, pid int, note []byte, pidfd int) (*keeperpb.Process, error) {
	r, err := c.call(ctx, &keeperpb.Request{What: &keeperpb.Request_Watch{
		Watch: &keeperpb.Watch{Key: key, Pid: int32(pid), Note: note}}}, pidfd)
	return r.GetProcess(), err
}

// Follow makes a record, under key, of a process pid that the one under of has left behind. It is the keeper's child by now, or else
// pidfd refers to it, which may be -1, and which it does not take ownership of. ECHILD where it is not the keeper's to follow.
func (c *Client) Follow(ctx context.Context, key, of string, pid, pidfd int) (*keeperpb.Process, error) {
	var fds []int
	if pidfd >= 0 {
		fds = append(fds, pidfd)
	}
	r, err := c.call(ctx, &keeperpb.Request{What: &keeperpb.Request_Follow{
		Follow: &keeperpb.Follow{Key: key, Of: of, Pid: int32(pid)}}}, fds...)
	return r.GetProcess(), err
}

// Accept has the keeper accept a connection at the listening socket that it holds under name, which must not block, and hold it under
// as. EAGAIN where there is none.
func (c *Client) Accept(ctx context.Context, name, as string) error {
	_, err := c.call(ctx, &keeperpb.Request{What: &keeperpb.Request_Accept{Accept: &keeperpb.Accept{Name: name, As: as}}})
	return err
}

// Upgrade has the keeper go on as the program exe, in place, and the agents after this one with it. It does not take ownership of
// exe. It returns only an error, after which nothing has changed: otherwise the new keeper kills this process. From the moment at which
// the keeper stops to answer, calls of the Client wait, so that nothing is undone that was done; Done is closed then.
func (c *Client) Upgrade(ctx context.Context, exe int) error {
	c.left.Store(true)
	_, err := c.call(ctx, &keeperpb.Request{What: &keeperpb.Request_Upgrade{Upgrade: &keeperpb.Upgrade{}}}, exe)
	c.left.Store(false)
	return err
}

// Upgrading says whether the keeper has been asked to go on as another program.
func (c *Client) Upgrading() bool { return c.left.Load() }

// Ready says that this agent has taken over what there was, and serves.
func (c *Client) Ready(ctx context.Context) error {
	_, err := c.call(ctx, &keeperpb.Request{What: &keeperpb.Request_Ready{Ready: &keeperpb.Ready{}}})
	return err
}

// Stop ends the keeper and whatever processes it still has, by SIGKILL, and returns when the channel has
// closed. The agent should exit then: the keeper waits for it a moment, and kills it.
func (c *Client) Stop(ctx context.Context) error {
	b, err := proto.Marshal(wrap(&keeperpb.Request{What: &keeperpb.Request_Stop{Stop: &keeperpb.Stop{}}}))
	if err != nil {
		return err
	}
	if err := send(c.conn, b); err != nil {
		return fmt.Errorf("stop the keeper: %w", err)
	}
	select {
	case <-c.done:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("stop the keeper: %w", context.Cause(ctx))
	}
}

func wrap(r *keeperpb.Request) *keeperpb.Message {
	return &keeperpb.Message{What: &keeperpb.Message_Request{Request: r}}
}

// call asks for something whose answer has no descriptors.
func (c *Client) call(ctx context.Context, r *keeperpb.Request, fds ...int) (*keeperpb.Reply, error) {
	a, err := c.ask(ctx, r, fds...)
	if err != nil {
		return nil, err
	}
	fd.CloseAll(a.fds)
	if err := replyError(a.reply); err != nil {
		return nil, err
	}
	return a.reply, nil
}

// ask sends r and waits for the answer, whose descriptors are owned by the caller.
func (c *Client) ask(ctx context.Context, r *keeperpb.Request, fds ...int) (answer, error) {
	if len(fds) > maxRequestFDs {
		return answer{}, &Error{Errno: syscall.E2BIG,
			Text: fmt.Sprintf("%d descriptors in one request to the keeper, the most is %d", len(fds), maxRequestFDs)}
	}
	ch := make(chan answer, 1)
	c.mu.Lock()
	c.last++
	r.Id = c.last
	c.waiting[r.Id] = ch
	c.mu.Unlock()
	defer c.abandon(r.Id, ch)

	b, err := proto.Marshal(wrap(r))
	if err != nil {
		return answer{}, fmt.Errorf("ask the keeper: %w", err)
	}
	switch err := send(c.conn, b, fds...); {
	case fdchan.Broken(err):
		c.wait(ctx)
		return answer{}, fmt.Errorf("%w: %w", ErrGone, err)
	case err != nil:
		return answer{}, fmt.Errorf("ask the keeper: %w", err)
	}
	select {
	case a := <-ch:
		return a, nil
	case <-c.done:
	case <-ctx.Done():
		return answer{}, fmt.Errorf("wait for the keeper: %w", context.Cause(ctx))
	}
	select {
	case a := <-ch: // it came just before the end
		return a, nil
	default:
		c.wait(ctx)
		return answer{}, fmt.Errorf("%w: %w", ErrGone, c.err)
	}
}

// wait blocks until ctx is done, where the keeper is gone because it goes on as another program.
func (c *Client) wait(ctx context.Context) {
	if c.left.Load() {
		<-ctx.Done()
	}
}

// abandon closes the descriptors of an answer that nobody took.
func (c *Client) abandon(id uint64, ch chan answer) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.waiting, id)
	select {
	case a := <-ch:
		fd.CloseAll(a.fds)
	default:
	}
}

func (c *Client) receive() {
	defer close(c.done)
	for {
		m, fds, err := receive(c.conn)
		switch {
		case errors.Is(err, fdchan.ErrTruncated), errors.Is(err, fdchan.ErrMalformed):
			continue // whoever waits for it is told by its context
		case err != nil:
			c.conn.Close()
			c.err = err
			return
		}
		if !c.dispatch(m, fds) {
			fd.CloseAll(fds)
		}
	}
}

// dispatch says whether it has taken ownership of fds.
func (c *Client) dispatch(m *keeperpb.Message, fds []*fd.FD) bool {
	if e := m.GetExit(); e != nil {
		if c.onExit != nil {
			c.onExit(e.GetProcess())
		}
		return false
	}
	if st := m.GetStirred(); st != nil {
		for _, name := range st.GetNames() {
			c.onStir(name)
		}
		return false
	}
	r := m.GetReply()
	c.mu.Lock()
	defer c.mu.Unlock()
	ch, ok := c.waiting[r.GetId()]
	if !ok {
		return false
	}
	delete(c.waiting, r.GetId())
	ch <- answer{reply: r, fds: fds}
	return true
}
