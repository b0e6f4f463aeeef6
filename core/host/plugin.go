package host

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"time"

	plugin "github.com/hashicorp/go-plugin"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/muxd/muxd/core/keeper/keeperpb"
	"github.com/muxd/muxd/internal/fd"
	"github.com/muxd/muxd/internal/fdchan"
	"github.com/muxd/muxd/sink/sinkpb"
)

// Plugin is a running plugin process. Its states: starting (started is open), running, gone (gone is closed). run moves it.
type Plugin struct {
	host       *Host
	name       string
	key        string
	command    Command
	process    *keeperpb.Process
	client     *plugin.Client
	sinks      sinkpb.SinkClient
	desc       *sinkpb.Description
	protocol   int       // the version that was agreed on
	parks      parkCount // what it has parked; of park
	fds        *fdchan.Endpoint
	log        *pluginLog // set before started is closed; nil: it is not followed
	listener   string     // path of the socket on which a later muxd opens another fd channel
	file       fileID     // of the executable that was started
	stopping   atomic.Bool
	hung       atomic.Pointer[string] // why it was killed, of one that hung
	stir       chan struct{}          // capacity 1: see pulse, as of
	reconsider chan struct{}
	err        error             // why the start failed; set before started is closed
	started    chan struct{}     // closed when the start has ended
	end        *keeperpb.Process // set before exited is closed
	exited     chan struct{}     // closed when the process is reaped; never, where it could not be spawned
	gone       chan struct{}     // closed when the process is reaped, or could not be started
}

// Name is the name by which sink specs call the plugin.
func (p *Plugin) Name() string { return p.name }

// Description is what the plugin says of itself.
func (p *Plugin) Description() *sinkpb.Description { return p.desc }

// Sinks is the plugin's gRPC service.
func (p *Plugin) Sinks() sinkpb.SinkClient { return p.sinks }

// Gone is closed when the process has ended.
func (p *Plugin) Gone() <-chan struct{} { return p.gone }

// PID is the process's.
func (p *Plugin) PID() int { return int(p.process.Pid) }

// Key is the process's, at the keeper.
func (p *Plugin) Key() string { return p.key }

// ChannelName is the keeper's name of our end of the fd channel, and Channel returns a copy of that, owned by the caller.
func (p *Plugin) ChannelName() string      { return channelName(p.key) }
func (p *Plugin) Channel() (*fd.FD, error) { return p.fds.Dup() }

// Kill ends the process with SIGKILL, for a successor to go on, and waits for it.
func (p *Plugin) Kill() {
	p.host.o.Keeper.Signal(context.Background(), p.key, unix.SIGKILL, false)
	<-p.gone
}

// Stop ends the process and waits for it.
func (p *Plugin) Stop() {
	p.stopping.Store(true)
	<-p.started
	if p.err == nil {
		p.client.Kill()
	}
	<-p.gone
}

// Give hands copies of fds to the plugin under a new ticket, with the one call that call makes and that names the ticket. It does not
// take ownership, and returns after both have succeeded, or with the error of one.
func (p *Plugin) Give(ctx context.Context, fds []int, call func(ctx context.Context, ticket []byte) error) error {
	if p.fds == nil {
		return errNoConn // of Dead
	}
	t := fdchan.NewTicket()
	return call(context.WithValue(ctx, givenKey{}, given{t, fds}), t[:])
}

// Take is TakeFor of the plugin's fd channel.
func (p *Plugin) Take(ctx context.Context, call func(ctx context.Context, ticket []byte) error) (d *fdchan.Delivery, wait func() error, err error) {
	if p.fds == nil {
		return nil, nil, errNoConn
	}
	d, wait, err = p.fds.TakeFor(ctx, call)
	if fdchan.Broken(err) {
		err = errNoConn
	}
	return d, wait, err
}

// fail ends a plugin whose start did not succeed.
func (h *Host) fail(p *Plugin, err error) {
	p.err = err
	h.remove(p)
	close(p.started)
	if p.process != nil {
		<-p.exited
		h.o.Keeper.Forget(context.Background(), p.key)
	}
	h.dropEnds(p.key)
	close(p.gone)
}

// dropEnds has the keeper let go of our ends of what a process was started with.
func (h *Host) dropEnds(key string) {
	h.o.Keeper.Drop(context.Background(), channelName(key), false)
	h.o.Keeper.Drop(context.Background(), logName(key), false)
}

// run is the life of the process, from start, which makes it or finds it: begun says which.
func (p *Plugin) run(start func() error, begun string) {
	h := p.host
	err := start()
	if err != nil && p.command.Path == "" { // there is none of that name
		h.fail(p, err)
		return
	}
	h.note(p.name, func(s *Status) {
		s.is(p.command)
		s.Error = ""
		s.LastEnd, s.ended = s.ended, ""
		if err != nil {
			s.Error = err.Error()
			return
		}
		s.PID, s.Started, s.Running, s.Description, s.Protocol = int(p.process.Pid), time.Now(), true, p.desc, p.protocol
	})
	if err != nil {
		h.fail(p, err)
		return
	}
	h.o.Log.Info(begun, "plugin", p.name, "pid", p.process.Pid, "version", p.desc.Version)
	close(p.started)
	var followers sync.WaitGroup
	followers.Go(p.watch)
	followers.Go(p.pulse)
	<-p.exited
	p.log.settle()
	p.client.Kill() // its process is gone: this closes the connection and removes its socket's directory
	p.fds.Close()
	followers.Wait()
	p.removeSocket()
	asked := p.stopping.Load()
	how, crashed := describeExit(p.end), crashed(p.end)
	if why := p.hung.Load(); why != nil {
		how, crashed = "it hung: "+*why, true
	}
	cause := fmt.Errorf("plugin %s (pid %d) ended: %s", p.name, p.end.Pid, how)
	h.remove(p)
	h.note(p.name, func(s *Status) {
		s.Running, s.PID, s.crashed = false, 0, crashed && !asked
		if !asked {
			s.Error = cause.Error()
			s.Restarts++
			s.ended = cause.Error()
		}
	})
	h.dropEnds(p.key)
	h.o.Keeper.Forget(context.Background(), p.key)
	close(p.gone)
	if !asked {
		h.o.Log.Error("plugin ended unasked", "plugin", p.name, "pid", p.end.Pid, "how", how)
		h.o.Died(p.name, cause)
	}
}

func (h *Host) remove(p *Plugin) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.plugins[p.name] == p {
		delete(h.plugins, p.name)
	}
}

// watch passes on what the plugin tells, until the connection ends.
func (p *Plugin) watch() {
	stream, err := p.sinks.Watch(context.Background(), &sinkpb.WatchRequest{}, LargeAnswer())
	for err == nil {
		var ev *sinkpb.Event
		if ev, err = stream.Recv(); err == nil {
			p.host.o.Event(p.name, ev)
		}
	}
	if code := status.Code(err); code != codes.Unavailable && code != codes.Canceled && !errors.Is(err, io.EOF) {
		p.host.o.Log.Warn("plugin's events ended", "plugin", p.name, "error", err)
	}
}

// channel makes the plugin's fd channel, of which the keeper holds our end for the agent after this one, and returns the
// plugin's end, owned by the caller.
func (p *Plugin) channel() (*fd.FD, error) {
	ours, theirs, err := fd.Socketpair(seqpacket)
	if err != nil {
		return nil, err
	}
	if err := p.host.o.Keeper.Hold(context.Background(), channelName(p.key), nil, ours.Int()); err != nil {
		ours.Close()
		theirs.Close()
		return nil, err
	}
	conn, err := fdchan.New(ours)
	if err != nil {
		theirs.Close()
		return nil, err
	}
	p.fds = fdchan.NewEndpoint(conn, p.park)
	return theirs, nil
}
