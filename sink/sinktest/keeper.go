package sinktest

import (
	"maps"
	"slices"
	"strings"
	"sync"

	"github.com/muxd/muxd/internal/fd"
	"github.com/muxd/muxd/sink/sinkpb"
)

// keeper holds what a plugin parks, for its next process: section 5 of PROTOCOL.md.
type keeper struct {
	mu     sync.Mutex
	held   map[string][]*fd.FD
	before func(name string) // called before something is held; may be nil
	after  func(name string) // called when it is held, and the plugin does not know yet
	count  int               // of Park packets
}

func newKeeper() *keeper { return &keeper{held: map[string][]*fd.FD{}} }

// park holds copies of fds under name, in place of what is there.
func (k *keeper) park(name string, fds []*fd.FD) error {
	k.mu.Lock()
	before, after := k.before, k.after
	k.mu.Unlock()
	if before != nil {
		before(name)
	}
	if err := k.hold(name, fds); err != nil {
		return err
	}
	if after != nil {
		after(name)
	}
	return nil
}

func (k *keeper) hold(name string, fds []*fd.FD) error {
	var copies []*fd.FD
	for _, f := range fds {
		c, err := f.Dup()
		if err != nil {
			fd.CloseAll(copies)
			return err
		}
		copies = append(copies, c)
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.count++
	fd.CloseAll(k.held[name])
	delete(k.held, name)
	if len(copies) > 0 {
		k.held[name] = copies
	}
	return nil
}

// hooks has before and after called from now on.
func (k *keeper) hooks(before, after func(name string)) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.before, k.after = before, after
}

// farEnds begins the names of far ends that Repark parks: those are the openings', not the plugin's.
const farEnds = "far/"

// batches are the names and descriptors for calls of Recover, as many in each as a packet takes. The descriptors stay the keeper's.
func (k *keeper) batches() (all [][]*sinkpb.RecoverRequest_Parked, fds [][]int) {
	k.mu.Lock()
	defer k.mu.Unlock()
	const most = 250
	for _, name := range slices.Sorted(maps.Keys(k.held)) {
		f := k.held[name]
		if strings.HasPrefix(name, farEnds) {
			continue
		}
		if n := len(fds); n == 0 || len(fds[n-1])+len(f) > most {
			all, fds = append(all, nil), append(fds, nil)
		}
		n := len(fds) - 1
		all[n] = append(all[n], &sinkpb.RecoverRequest_Parked{Name: name, Fds: uint32(len(f))})
		fds[n] = append(fds[n], fd.Ints(f)...)
	}
	return all, fds
}

// list is the names under which something is held, with the number of descriptors.
func (k *keeper) list() map[string]int {
	k.mu.Lock()
	defer k.mu.Unlock()
	out := map[string]int{}
	for name, f := range k.held {
		out[name] = len(f)
	}
	return out
}

// drop lets go of everything, as a keeper that dies does.
func (k *keeper) drop() {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, f := range k.held {
		fd.CloseAll(f)
	}
	k.held = map[string][]*fd.FD{}
}
