// Package host runs sink plugins: it starts each the first time a sink needs it, through the keeper, talks
// to it with gRPC behind hashicorp/go-plugin, and exchanges descriptors with it on its fd channel.
package host

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/muxd/muxd/core/keeper"
	"github.com/muxd/muxd/core/keeper/keeperpb"
	"github.com/muxd/muxd/sink/sinkpb"
)

// Command is how a plugin is run.
type Command struct {
	Path   string
	Self   bool     // the program that runs here, whatever is at Path by now
	Args   []string // behind argv[0]
	Env    []string // in addition to what every plugin gets
	SHA256 string   // hex; empty: not checked

	User    *keeperpb.Credential // nil: muxd's own
	Rlimits []*keeperpb.Rlimit
	// What the process may reach in the file system, by absolute path, beside what every program needs. nil: all that its user may.
	Bounds *Bounds
}

// Options are what a Host needs. All are required, but for Log.
type Options struct {
	Keeper  *keeper.Client
	Dir     string // where plugins' sockets are; exists, and is the owner's alone
	Version string
	// Lookup finds the command of a sink's name, or says in a sentence why there is none.
	Lookup func(name string) (Command, error)
	// Names lists the plugins that are known.
	Names func() []string
	// StartTimeout bounds a plugin's start, handshake included.
	StartTimeout func() time.Duration
	// Event is told of what Watch of each plugin tells, in order. It must not block.
	Event func(plugin string, ev *sinkpb.Event)
	// Hang is how long a plugin may be silent, while there is something to do for it, before it is killed; 0: for ever.
	Hang func() time.Duration
	// Calm is told that a plugin has just answered. It says whether the plugin need not be asked again before it is stirred, and
	// sees to that being done.
	Calm func(plugin string) bool
	// Live lists the openings of a plugin that will be opened again in its successor.
	Live func(plugin string) []string
	// Wants says whether the keeper shall hold the far end of an opening's stream, or with "in" for a stream the input of the branch
	// that the opening is.
	Wants func(opening, stream string) bool
	// Died is told that a plugin's process has ended without being asked to.
	Died func(plugin string, err error)
	Log  *slog.Logger
}

// Host is the plugins of one agent.
type Host struct {
	o Options

	mu      sync.Mutex
	plugins map[string]*Plugin // started, or being started
	history map[string]*Status
	waiting map[string]*Plugin           // spawned and not reaped, by keeper key
	ended   map[string]*keeperpb.Process // reaped, and not waited for, by keeper key
	starts  int
	closed  bool
}

// Status is what is known of a plugin, running or not.
type Status struct {
	Name        string
	PID         int
	Started     time.Time
	Command     []string
	User        *keeperpb.Credential // nil: muxd's own
	Bounds      *Bounds              // nil: all that its user may reach
	Restarts    int
	Error       string // why it ended last, or could not be started
	LastEnd     string // how the process before that one ended; empty: there was none
	Running     bool
	Protocol    int                 // the version that was agreed on with the running process
	Description *sinkpb.Description // of its last start
	crashed     bool                // its last end was not of somebody's making
	ended       string              // how its last process ended, until there is another
}

// is has s tell of c.
func (s *Status) is(c Command) {
	s.Command, s.User, s.Bounds = append([]string{c.Path}, c.Args...), c.User, c.Bounds
}

// New makes a host without plugins. Close ends it.
func New(o Options) *Host {
	return &Host{
		o: o, plugins: map[string]*Plugin{}, history: map[string]*Status{},
		waiting: map[string]*Plugin{}, ended: map[string]*keeperpb.Process{},
	}
}

// KeyPrefix begins the keeper's key of every plugin.
const KeyPrefix = "plugin/"

// Exited tells the host of the exit of a process whose key has KeyPrefix. It does not block.
func (h *Host) Exited(p *keeperpb.Process) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if w, ok := h.waiting[p.Key]; ok {
		delete(h.waiting, p.Key)
		w.end = p
		close(w.exited)
		return
	}
	h.ended[p.Key] = p
	go h.Bury(p.Key) // of an earlier agent, and not reattached
}

// Bury forgets a plugin's process that has exited, and that no Plugin stands for.
func (h *Host) Bury(key string) {
	h.dropEnds(key)
	h.o.Keeper.Forget(context.Background(), key)
}

// ErrClosed says that muxd is ending.
var ErrClosed = errors.New("muxd is stopping")

// Get returns the running plugin of that name. It starts it where it does not run, and blocks meanwhile.
func (h *Host) Get(ctx context.Context, name string) (*Plugin, error) {
	h.mu.Lock()
	if h.closed {
		h.mu.Unlock()
		return nil, ErrClosed
	}
	p, ok := h.plugins[name]
	if !ok {
		h.starts++
		// Unlike every key of this agent, and of those before it: the keeper would answer with an old process.
		p = newPlugin(h, name, fmt.Sprintf("%s%s/%d-%d-%d", KeyPrefix, name, time.Now().UnixNano(), os.Getpid(), h.starts))
		h.plugins[name] = p
		go p.run(p.start, "plugin started")
	}
	h.mu.Unlock()
	select {
	case <-p.started:
		return p, p.err
	case <-ctx.Done():
		return nil, fmt.Errorf("start plugin %s: %w", name, context.Cause(ctx))
	}
}

// Running returns the plugin of that name if it runs.
func (h *Host) Running(name string) *Plugin {
	h.mu.Lock()
	defer h.mu.Unlock()
	p := h.plugins[name]
	if p == nil {
		return nil
	}
	select {
	case <-p.started:
		if p.err == nil {
			return p
		}
	default:
	}
	return nil
}

// All lists the plugins that run.
func (h *Host) All() []*Plugin {
	h.mu.Lock()
	defer h.mu.Unlock()
	var out []*Plugin
	for _, p := range h.plugins {
		select {
		case <-p.started:
			if p.err == nil {
				out = append(out, p)
			}
		default:
		}
	}
	return out
}

// List returns what is known of every plugin, by name.
func (h *Host) List() []Status {
	names := h.o.Names()
	h.mu.Lock()
	defer h.mu.Unlock()
	for name := range h.history {
		if !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	var out []Status
	for _, name := range names {
		if s := h.history[name]; s != nil {
			out = append(out, *s)
			continue
		}
		s := Status{Name: name}
		if c, err := h.o.Lookup(name); err == nil {
			s.is(c)
		} else {
			s.Error = err.Error()
		}
		out = append(out, s)
	}
	return out
}

// note changes what List says of a plugin.
func (h *Host) note(name string, change func(s *Status)) {
	h.mu.Lock()
	defer h.mu.Unlock()
	s := h.history[name]
	if s == nil {
		s = &Status{Name: name}
		h.history[name] = s
	}
	change(s)
}

// Close ends every plugin, as go-plugin does it (Shutdown, then a kill), and waits for them.
func (h *Host) Close() {
	h.mu.Lock()
	h.closed = true
	var all []*Plugin
	for _, p := range h.plugins {
		all = append(all, p)
	}
	h.mu.Unlock()
	var wg sync.WaitGroup
	for _, p := range all {
		wg.Go(p.Stop)
	}
	wg.Wait()
}
