// Package agent is the process that decides: it reads the configuration, serves the control API, runs the plugins through
// core/host, has the keeper spawn children, and follows each of them to its end. No byte of a stream passes here.
package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc"

	"github.com/muxd/muxd/control/controlpb"
	"github.com/muxd/muxd/core/cgroup"
	"github.com/muxd/muxd/core/config"
	"github.com/muxd/muxd/core/host"
	"github.com/muxd/muxd/core/keeper"
	"github.com/muxd/muxd/core/keeper/keeperpb"
	"github.com/muxd/muxd/internal/fd"
	"github.com/muxd/muxd/internal/localrpc"
	"github.com/muxd/muxd/internal/peercred"
)

// Options are what an agent gets at birth.
type Options struct {
	ConfigPath string // empty: defaults only
	RuntimeDir string
	Version    string
	Keeper     *fd.FD   // the keeper channel
	Control    *fd.FD   // listening socket of the control API
	Sessions   *fd.FD   // listening socket of clients' fd channels
	Path       string   // where this program is: what an upgrade replaces it by
	Become     []string // argv of the keeper that this process becomes when its own dies
}

// ConfigError is the exit status that tells the keeper not to start the agent again.
const ConfigError = 78 // EX_CONFIG of sysexits.h

// Agent is the one agent of a process. Its state is under mu; calls to keeper and plugins are made without it.
type Agent struct {
	o        Options
	keeper   *keeper.Client
	journal  *journal
	host     *host.Host
	log      *slog.Logger
	level    slog.LevelVar
	cfg      atomic.Pointer[config.Config]
	started  time.Time
	sessions *sessions
	control  *fd.FD // the listening sockets, for a keeper that this process has to become
	fdSock   *fd.FD
	groups   *cgroup.Tree // of the children; nil: muxd has none to divide
	events   *eventHistory
	verdicts verdicts
	ctx      context.Context // done when the agent ends
	cancel   context.CancelFunc
	work     sync.WaitGroup // goroutines that follow children
	remains  *remains       // of consoles

	mu        sync.Mutex
	children  map[string]*child            // by id
	byKey     map[string]*child            // by keeper key of the current run
	early     []*keeperpb.Process          // exits that were told before the children were restored
	restored  bool                         // they are
	openings  map[string]*opening          // by id
	discards  int                          // openings that are being discarded
	requests  map[string]*child            // by the client's request id
	named     map[string]*child            // by names that are not ids: who has it, or had it last
	done      []*child                     // finished, in that order, and to be remembered
	deaths    map[string][]time.Time       // of plugins, the latest few
	copies    map[string]map[string]*fd.FD // of what belongs to a dead plugin, by its name and the keeper's
	reviving  map[string]bool              // plugins whose openings are being handed to a successor
	broken    map[string]bool              // plugins that died too often to be started again unasked
	upgrading *upgrade                     // the latest; nil: there was none
	ending    bool
	ended     chan struct{} // closed when shutdown is complete
	endOnce   sync.Once
}

// Run is the agent's life; it takes ownership of the descriptors in o and returns the exit status.
func Run(o Options) int {
	a := &Agent{
		o: o, started: time.Now(), sessions: newSessions(),
		children: map[string]*child{}, byKey: map[string]*child{}, openings: map[string]*opening{},
		requests: map[string]*child{}, named: map[string]*child{}, deaths: map[string][]time.Time{}, reviving: map[string]bool{}, copies: map[string]map[string]*fd.FD{},
		broken: map[string]bool{}, ended: make(chan struct{}), groups: cgroup.Find(),
	}
	a.ctx, a.cancel = context.WithCancel(context.Background())
	defer a.cancel()
	cfg, err := a.loadConfig()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return ConfigError
	}
	a.cfg.Store(cfg)
	a.log = newLogger(cfg, &a.level)
	if err := a.run(); err != nil {
		a.log.Error("agent ends", "error", err)
		return 1
	}
	return 0
}

func (a *Agent) loadConfig() (*config.Config, error) {
	if a.o.ConfigPath == "" {
		return config.Default(), nil
	}
	return config.Load(a.o.ConfigPath)
}

func newLogger(cfg *config.Config, level *slog.LevelVar) *slog.Logger {
	level.Set(cfg.Agent.LogLevel)
	opts := &slog.HandlerOptions{Level: level}
	if cfg.Agent.LogFormat == "json" {
		return slog.New(slog.NewJSONHandler(os.Stderr, opts))
	}
	return slog.New(slog.NewTextHandler(os.Stderr, opts))
}

func (a *Agent) run() error {
	signals := make(chan os.Signal, 8)
	signal.Notify(signals, unix.SIGTERM, unix.SIGINT, unix.SIGHUP)
	signal.Notify(make(chan os.Signal, 1), unix.SIGPIPE) // a log without a reader is no reason to die

	var err error
	if a.keeper, err = keeper.Connect(a.o.Keeper, a.processExited, a.streamStirred); err != nil {
		return err
	}
	n, err := unix.PidfdOpen(os.Getppid(), 0)
	if err != nil {
		return fmt.Errorf("look at the keeper: %w", err)
	}
	pidfd := fd.New(n)
	defer pidfd.Close()
	parent, err := keeperName()
	if err != nil {
		return fmt.Errorf("look at the keeper: %w", err)
	}
	var from origin
	var lost int
	if a.journal, from, lost, err = openJournal(a.o.RuntimeDir, parent); err != nil {
		return err
	}
	defer func() { a.journal.close() }()
	if lost > 0 {
		a.log.Error("children of a muxd that ran before the machine was started anew are gone", "children", lost)
	}
	a.remains = newRemains(a.journal.dir, a.log)
	a.events = newEvents(a.o.RuntimeDir, from == ownFirst, a.log)
	defer a.events.close()
	plugins := filepath.Join(a.o.RuntimeDir, "plugins")
	if err := os.MkdirAll(plugins, 0o711); err != nil {
		return fmt.Errorf("make the plugins' directory: %w", err)
	}
	h := host.New(host.Options{
		Keeper: a.keeper, Dir: plugins, Version: a.o.Version,
		Lookup: a.pluginCommand, Names: a.pluginNames,
		StartTimeout: func() time.Duration { return a.cfg.Load().Agent.PluginStartTimeout },
		Hang:         func() time.Duration { return a.cfg.Load().Agent.PluginHang }, Calm: a.calm,
		Event: a.sinkEvent, Live: a.liveOpenings, Wants: a.wants, Died: a.pluginDied, Log: a.log,
	})
	a.mu.Lock()
	a.host = h
	a.mu.Unlock()
	if a.control, err = a.o.Control.Dup(); err != nil {
		return err
	}
	if a.fdSock, err = a.o.Sessions.Dup(); err != nil {
		return err
	}
	control, err := listener(a.o.Control, "control.sock")
	if err != nil {
		return err
	}
	sessionsL, err := listener(a.o.Sessions, "fd.sock")
	if err != nil {
		return err
	}
	server := grpc.NewServer(append(localrpc.Server(), grpc.Creds(peercred.Server{}), grpc.MaxRecvMsgSize(16<<20))...)
	controlpb.RegisterControlServer(server, &api{a: a})
	_, processes, err := a.keeper.List(a.ctx) // from the first call on the keeper forwards signals
	if err == nil && from != ownFirst {
		err = a.recover(a.ctx, processes, from, parent)
	}
	if err == nil {
		err = a.keeper.Ready(a.ctx)
	}
	if err != nil {
		if errors.Is(err, keeper.ErrGone) { // it died over that
			return a.becomeKeeper()
		}
		select {
		case <-a.keeper.Done(): // and something else failed of it
			return a.becomeKeeper()
		default:
		}
		return fmt.Errorf("take over from the agent before: %w", err)
	}
	a.takeExits()
	if err := a.resumeUpgrade(); err != nil { // before the client that asked for it asks again
		a.log.Error("upgrade is lost", "error", err)
	}
	go server.Serve(control)
	go a.sessions.serve(sessionsL, a.log)
	a.log.Info("muxd is ready", "runtime_dir", a.o.RuntimeDir, "version", a.o.Version, "pid", os.Getpid())
	if from != ownAgain {
		a.startConfigured(a.cfg.Load(), a.names())
	}

	for done := false; !done; {
		select {
		case s := <-signals:
			switch s {
			case unix.SIGHUP:
				a.reload()
			default:
				a.log.Info("stopping", "signal", s.String())
				go a.shutdown(a.isEnding()) // the second signal does not wait for grace times
			}
		case <-a.keeper.Done():
			return a.keeperGone(pidfd)
		case <-a.ended:
			done = true
		}
	}
	stopped := make(chan struct{})
	go func() { server.GracefulStop(); close(stopped) }()
	select {
	case <-stopped:
	case <-time.After(time.Second):
		server.Stop() // a client that follows events does not hold up the end
	}
	a.sessions.close()
	return a.keeper.Stop(context.Background())
}

// listener takes ownership of f.
func listener(f *fd.FD, name string) (net.Listener, error) {
	file := f.File(name)
	defer file.Close()
	l, err := net.FileListener(file)
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w", name, err)
	}
	if u, ok := l.(*net.UnixListener); ok {
		u.SetUnlinkOnClose(false) // the keeper's, for the next agent
	}
	return l, nil
}

// processExited is told by the keeper. It does not block.
func (a *Agent) processExited(p *keeperpb.Process) {
	a.mu.Lock()
	defer a.mu.Unlock()
	switch {
	case a.host == nil: // List will tell it
		return
	case isPluginKey(p.Key):
		a.host.Exited(p)
		return
	case !a.restored:
		a.early = append(a.early, p)
		return
	}
	if c := a.byKey[p.Key]; c != nil {
		a.exited(c, p)
	}
}

// takeExits follows exits from now on, and those first that were told before.
func (a *Agent) takeExits() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.restored = true
	for _, p := range a.early {
		if c := a.byKey[p.Key]; c != nil {
			a.exited(c, p)
		}
	}
	a.early = nil
}

func (a *Agent) isEnding() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.ending
}

// shutdown stops every child, then the plugins, and closes ended. A second call, now, kills what is left.
func (a *Agent) shutdown(now bool) {
	a.mu.Lock()
	a.ending = true
	var all []*child
	for _, c := range a.children {
		if !c.over() {
			all = append(all, c)
		}
	}
	a.mu.Unlock()
	var wg sync.WaitGroup
	for _, c := range all {
		wg.Go(func() {
			grace := time.Duration(c.spec.Grace)
			if now {
				grace = 0
			}
			a.stop(c, grace)
			<-c.finished.C()
		})
	}
	wg.Wait()
	a.endOnce.Do(func() {
		a.host.Close()
		a.cancel()
		a.work.Wait()
		close(a.ended)
	})
}
