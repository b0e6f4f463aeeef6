package keeper

import (
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/muxd/muxd/internal/fd"
)

// Options is what a keeper needs to know.
type Options struct {
	RuntimeDir string   // made with mode 0700 where it does not exist
	Agent      []string // the agent's argv
	Exe        string   // its executable; empty: the first of Agent
	Env        []string // the agent's environment; nil: the keeper's own
	Again      []string // argv of the keeper that goes on as another program
	Takeover   *fd.FD   // from Become: what this process had before; Run takes ownership; nil: nothing
	Cgroup     bool     // the cgroup of this process is muxd's to divide, whether it is marked so or not
	Version    string   // what the agent finds in MUXD_KEEPER_VERSION

	// Stderr is for the keeper's own words, and becomes the agent's stdout and stderr. Run does not take
	// ownership. nil: os.Stderr.
	Stderr *os.File
}

// Exit statuses of Run, and of an agent.
const (
	// ExitFailed is Run's when it could not start, or could not end in good order.
	ExitFailed = 1
	// ExitConfig is an agent's that cannot start because of its configuration (EX_CONFIG, sysexits.h), and
	// has said so. The keeper does not start it again, unless it keeps something for an earlier one.
	ExitConfig = 78
)

// keeper is the state of Run. Its goroutines: Run's own, which minds the agent; the reaper; the spawner's
// thread; two of the session, to receive and to send; one for all watches and what is armed.
type keeper struct {
	stderr    *fd.FD
	dir       *runtimeDir
	listeners [2]*fd.FD // control.sock, fd.sock
	spawner   *spawner
	signals   chan os.Signal // SIGTERM, SIGINT, SIGHUP
	children  chan os.Signal // SIGCHLD
	cleanup   []func()       // undoes what newKeeper did, the last first

	serving chan struct{} // an agent has sent its first request
	stop    chan struct{} // the agent has asked for the end
	reaped  chan struct{} // a process was reaped
	next    chan upgrade  // the program to go on as

	again   []string // argv after an upgrade
	version string
	before  *fd.FD // the program before the upgrade; nil: there was none, or the new one works
	follows bool   // an agent of that program may be there

	mu        sync.Mutex
	agent     agent
	session   *session // with the agent; nil where there is none
	procs     map[string]*process
	pids      map[int]*process // those that have not exited
	held      holdings
	watches   *watches
	store     *store // nil: no service manager keeps copies
	groups    *groups
	spawning  bool // a fork is under way whose pid is not recorded yet
	reapSoon  bool // somebody may be reaped now who was not before
	scanning  bool // orphans are looked for soon
	cutShort  bool // that ended at a process which may be the one whose fork is under way
	blind     int  // children whose exits only SIGCHLD tells
	detaching int  // records of processes that leave one behind
	ending    bool
}

// Run is the keeper. It returns the exit status of muxd, when the agent has asked for the end, or when there
// can be none: then it has said why on o.Stderr. It takes over signals and children of the whole process, so
// a process calls it once, from main.
func Run(o Options) int {
	if o.Stderr == nil {
		o.Stderr = os.Stderr
	}
	k, err := newKeeper(o)
	if err != nil && pointOut(err, o.Stderr) {
		return 0
	}
	if err != nil {
		fmt.Fprintf(o.Stderr, "muxd: %v\n", err)
		return ExitFailed
	}
	return k.run()
}

func newKeeper(o Options) (_ *keeper, err error) {
	if len(o.Agent) == 0 {
		return nil, errors.New("start the agent: no command")
	}
	kept := listenFDs()
	if err := closeInherited(); err != nil {
		return nil, err
	}
	k := &keeper{
		signals:  make(chan os.Signal, 16),
		children: make(chan os.Signal, 1), // one that waits stands for all that come meanwhile
		serving:  make(chan struct{}, 1),
		stop:     make(chan struct{}, 1),
		reaped:   make(chan struct{}, 1),
		next:     make(chan upgrade, 1),
		again:    o.Again,
		version:  o.Version,
		procs:    map[string]*process{},
		pids:     map[int]*process{},
		held:     newHoldings(),
	}
	defer func() {
		if err != nil {
			k.undo()
		}
	}()
	if err := takeIgnored(); err != nil {
		return nil, err
	}
	signal.Notify(k.signals, syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP)
	signal.Notify(k.children, syscall.SIGCHLD)
	k.later(func() { signal.Stop(k.signals); signal.Stop(k.children) })

	if k.stderr, err = fd.DupFile(o.Stderr); err != nil {
		return nil, fmt.Errorf("copy stderr: %w", err)
	}
	k.later(func() { k.stderr.Close() })
	took, err := takeover(o.Takeover)
	if err != nil {
		return nil, err
	}
	if u := took.GetUpgraded(); u != nil {
		k.dir, err = inheritRuntimeDir(o.RuntimeDir, u)
	} else {
		k.dir, err = openRuntimeDir(o.RuntimeDir)
	}
	if err != nil {
		return nil, err
	}
	k.later(k.dir.remove)
	for i, s := range []struct {
		name string
		typ  int
	}{{controlSock, unix.SOCK_STREAM}, {fdSock, unix.SOCK_SEQPACKET}} {
		var l *fd.FD
		if took != nil {
			l = fd.New(int([]uint32{took.GetControl(), took.GetSessions()}[i]))
		} else if l, err = k.dir.listen(s.name, s.typ); err != nil {
			return nil, err
		}
		k.listeners[i] = l
		k.later(func() { l.Close() })
	}
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return nil, fmt.Errorf("become subreaper: %w", err)
	}
	k.groups = newGroups(k.dir.path, o.Cgroup, k.logf) // before anything is started, which would be outside
	k.later(k.groups.close)
	if k.spawner, err = newSpawner(); err != nil {
		return nil, fmt.Errorf("start the spawner: %w", err)
	}
	k.later(k.spawner.close)
	if err := k.startWatches(); err != nil {
		return nil, fmt.Errorf("make an epoll set: %w", err)
	}
	if k.store, err = openStore(took == nil && len(kept) == 0); err != nil {
		k.logf("%v", err) // it is only a third copy
	} else if k.store != nil {
		k.later(func() { k.store.sock.Close() })
	}
	k.takeStored(kept)
	k.agent = newAgent(o)
	if took != nil {
		k.adopt(took)
	}
	if u := took.GetUpgraded(); u != nil {
		k.upgraded(u)
	}
	return k, nil
}

// later adds f to what undo does.
func (k *keeper) later(f func()) { k.cleanup = append(k.cleanup, f) }

func (k *keeper) undo() {
	for i := len(k.cleanup) - 1; i >= 0; i-- {
		k.cleanup[i]()
	}
	k.cleanup = nil
}

// logf says something to the person who runs muxd.
func (k *keeper) logf(format string, args ...any) {
	line := []byte("muxd: " + fmt.Sprintf(format, args...) + "\n")
	unix.Write(k.stderr.Int(), line) // nothing can be done about an error here
}

// run minds the agent until the end.
func (k *keeper) run() int {
	reaperEnd := make(chan struct{})
	go func() {
		defer close(reaperEnd)
		for range k.children {
			k.childExited()
		}
	}()
	k.later(func() { // runs first: signal.Stop comes later, and a send to a closed channel cannot be
		signal.Stop(k.children)
		close(k.children)
		<-reaperEnd
	})
	k.reap() // what has exited before there was a handler
	if k.follows {
		k.endBefore()
	}
	code := k.mind()
	k.end()
	return code
}

// SocketPaths returns the paths of control.sock and fd.sock in a runtime dir.
func SocketPaths(runtimeDir string) (control, fd string) {
	return filepath.Join(runtimeDir, controlSock), filepath.Join(runtimeDir, fdSock)
}
