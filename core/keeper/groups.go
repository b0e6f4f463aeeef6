package keeper

import (
	"encoding/binary"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/muxd/muxd/core/cgroup"
)

// groups are the cgroups of the children, where muxd has been given one to divide. Nothing here is known of a child: the agent says the
// name of its leaf with each request, so that a keeper which follows another needs no more than that.
//
// A leaf is removed when its child is forgotten. Where processes are left in it that the child has started, the kernel says when they are gone
// (inotify(7) on cgroup.events), and it is removed then. A keeper that starts does so with every leaf that it finds.
type groups struct {
	tree *cgroup.Tree // nil: there is none, and the methods do nothing
	logf func(format string, args ...any)

	events  *os.File // the inotify instance; nil: the kernel gave none
	watch   func(path string) (wd int, err error)
	unwatch func(wd int32)
	done    chan struct{}

	mu      sync.Mutex
	filling map[string]bool  // leaves into which a process is being started: nobody removes them
	leaving map[int32]string // leaves to remove when they are empty, by the watch of their events
}

// newGroups takes possession of the cgroup that this process is in, if it was delegated, in the name of owner. It is marked as that first,
// where whoever runs muxd says so.
func newGroups(owner string, mark bool, logf func(format string, args ...any)) *groups {
	g := &groups{logf: logf, filling: map[string]bool{}, leaving: map[int32]string{}}
	if mark {
		if err := cgroup.Mark(); err != nil {
			logf("children get no cgroups of their own: %v", err)
		}
	}
	t := cgroup.Find()
	if t == nil {
		return g
	}
	if err := t.Claim(owner); err != nil {
		logf("children get no cgroups of their own: %v", err)
		return g
	}
	g.tree = t
	g.listen()
	left, err := t.Leaves()
	if err != nil {
		logf("look for cgroups of children: %v", err)
	}
	for _, leaf := range left {
		g.remove(leaf)
	}
	return g
}

// listen starts the goroutine that hears of leaves that are empty by now.
func (g *groups) listen() {
	n, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		g.logf("cgroups in which children leave processes behind stay until muxd starts again or ends: inotify_init1: %v", err)
		return
	}
	events := os.NewFile(uintptr(n), "cgroup events")
	g.events = events
	g.watch = func(path string) (int, error) { return unix.InotifyAddWatch(n, path, unix.IN_MODIFY) }
	g.unwatch = func(wd int32) { unix.InotifyRmWatch(n, uint32(wd)) } // EINVAL: the kernel has ended it with the file
	g.done = make(chan struct{})
	go func() {
		defer close(g.done)
		buf := make([]byte, 4096)
		for {
			got, err := events.Read(buf)
			if err != nil {
				return
			}
			for b := buf[:got]; len(b) >= unix.SizeofInotifyEvent; { // a watch has no names (inotify(7))
				g.changed(int32(binary.NativeEndian.Uint32(b)))
				b = b[unix.SizeofInotifyEvent+int(binary.NativeEndian.Uint32(b[12:])):]
			}
		}
	}()
}

// close ends the goroutine. What is not empty by then stays.
func (g *groups) close() {
	g.mu.Lock()
	events := g.events
	g.events = nil
	g.mu.Unlock()
	if events != nil {
		events.Close()
		<-g.done
	}
}

// make makes the leaf of a process that is about to be started, and returns its path; empty where it shall have none.
func (g *groups) make(leaf string) (string, *Error) {
	if g.tree == nil || leaf == "" {
		return "", nil
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if err := g.tree.Make(leaf); err != nil {
		return "", fail(errnoOf(err), "make cgroup %s", g.tree.Path(leaf))
	}
	g.filling[leaf] = true
	return g.tree.Path(leaf), nil
}

// made is called after make, when the process is in the leaf, or never will be.
func (g *groups) made(leaf string, started bool) {
	g.mu.Lock()
	delete(g.filling, leaf)
	g.mu.Unlock()
	if !started {
		g.remove(leaf)
	}
}

// kill kills everything in a leaf.
func (g *groups) kill(leaf string) *Error {
	if g.tree == nil || leaf == "" {
		return nil
	}
	if err := g.tree.Kill(leaf); err != nil {
		return fail(errnoOf(err), "kill what is in cgroup %s", g.tree.Path(leaf))
	}
	return nil
}

// remove removes a leaf, now or when it is empty.
func (g *groups) remove(leaf string) {
	if g.tree == nil || leaf == "" {
		return
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.removed(leaf) || g.events == nil {
		return
	}
	wd, err := g.watch(g.tree.Events(leaf))
	if err == nil {
		g.leaving[int32(wd)] = leaf
		g.try(int32(wd)) // it may have become empty before it was watched
		return
	}
	if !g.removed(leaf) {
		g.logf("cgroup %s stays until muxd starts again or ends: inotify_add_watch: %v", g.tree.Path(leaf), err)
	}
}

// removed says whether nothing is to be done about a leaf any more, and removes it where that is possible. g.mu is held.
func (g *groups) removed(leaf string) bool {
	if g.filling[leaf] {
		return true // its next process is forgotten some time, too
	}
	populated, err := g.tree.Remove(leaf)
	if err != nil {
		g.logf("%v", err)
	}
	return !populated
}

// changed is told that the events of a leaf have changed.
func (g *groups) changed(wd int32) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.try(wd)
}

// try removes a leaf that is watched, if it can be. g.mu is held.
func (g *groups) try(wd int32) {
	if leaf, ok := g.leaving[wd]; ok && g.events != nil && g.removed(leaf) {
		delete(g.leaving, wd)
		g.unwatch(wd)
	}
}

// end kills whatever is left of the children, and removes all leaves.
func (g *groups) end() {
	if g.tree == nil {
		return
	}
	left, _ := g.tree.Leaves()
	for _, leaf := range left {
		g.kill(leaf)
	}
	deadline := time.Now().Add(killGrace)
	for _, leaf := range left {
		g.tree.WaitEmpty(leaf, time.Until(deadline))
		g.remove(leaf)
	}
	g.tree.Leave()
}
