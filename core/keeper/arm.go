package keeper

import (
	"golang.org/x/sys/unix"

	"github.com/muxd/muxd/core/keeper/keeperpb"
)

// An agent wants to know when something is going on in a stream, without looking at it again and again, and without a descriptor of
// its own for each. The keeper has them all: it says once that there is something to read, and then no more until it is asked
// again, so that a busy stream costs nothing. Nothing is read.

// arm has the agent be told, once, when the descriptors of these names have something to read. k.mu is held, here and below.
func (k *keeper) arm(names []string) *Error {
	for _, name := range names {
		h := k.held.get(name)
		if h == nil {
			continue
		}
		op := unix.EPOLL_CTL_MOD
		if !h.armed {
			op = unix.EPOLL_CTL_ADD
		}
		n := h.fd.Int()
		err := k.watches.control(op, n, unix.EPOLLIN|unix.EPOLLONESHOT)
		if err == unix.EPERM {
			continue // a regular file always has something to read
		}
		if err != nil {
			return fail(errnoOf(err), "watch %s", name)
		}
		h.armed = true
		k.watches.names[n] = name
	}
	return nil
}

// stirred is called when an armed descriptor has something to read. It says false where n is none.
func (k *keeper) stirred(n int) bool {
	name, ok := k.watches.names[n]
	if ok {
		k.watches.told = append(k.watches.told, name)
	}
	return ok
}

// tellStirred tells the agent of all that stirred has been called with.
func (k *keeper) tellStirred() {
	k.mu.Lock()
	defer k.mu.Unlock()
	if len(k.watches.told) == 0 {
		return
	}
	k.session.tell(&keeperpb.Message{What: &keeperpb.Message_Stirred{Stirred: &keeperpb.Stirred{Names: k.watches.told}}})
	k.watches.told = nil
}

// letGo closes a descriptor that was held. It is taken out of the set first: others have it open, so that closing it would not.
func (k *keeper) letGo(h *held) {
	if n := h.fd.Int(); h.armed {
		delete(k.watches.names, n)
		k.watches.control(unix.EPOLL_CTL_DEL, n, 0)
	}
	h.fd.Close()
}
