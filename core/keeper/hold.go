package keeper

import (
	"fmt"
	"strings"
	"syscall"

	"github.com/google/btree"
	"golang.org/x/sys/unix"

	"github.com/muxd/muxd/core/keeper/keeperpb"
	"github.com/muxd/muxd/internal/fd"
)

// held is a descriptor that the keeper owns under a name.
type held struct {
	name  string
	fd    *fd.FD
	note  []byte
	armed bool // it is in the set of watches
}

// holdings are what is held, by name, such that those with the same beginning stand together: what is done with a child's costs the same
// however many others there are.
type holdings struct{ tree *btree.BTreeG[*held] }

func newHoldings() holdings {
	return holdings{btree.NewG(16, func(a, b *held) bool { return a.name < b.name })}
}

// get returns nil where there is none.
func (h holdings) get(name string) *held {
	f, _ := h.tree.Get(&held{name: name})
	return f
}

// under lists those whose names begin with prefix, in order.
func (h holdings) under(prefix string) []*held {
	var out []*held
	h.tree.AscendGreaterOrEqual(&held{name: prefix}, func(f *held) bool {
		if !strings.HasPrefix(f.name, prefix) {
			return false
		}
		out = append(out, f)
		return true
	})
	return out
}

// reserve is how many descriptors the keeper never gives to anybody: for the next request's own, for a fork's
// pipe, for the next agent's channel.
const reserve = 64

// room refuses when fds reach into the reserve. A descriptor is always the lowest free number (open(2)), so
// one whose number is n says that n others are open.
func room(fds ...*fd.FD) *Error {
	var lim unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &lim); err != nil {
		return fail(err.(syscall.Errno), "get RLIMIT_NOFILE")
	}
	for _, f := range fds {
		if uint64(f.Int())+reserve >= lim.Cur {
			return fail(syscall.EMFILE, "muxd's keeper may have %d descriptors open (RLIMIT_NOFILE) and keeps %d in reserve: "+
				"raise the limit of muxd (ulimit -n, or LimitNOFILE= in its systemd unit), or end something", lim.Cur, reserve)
		}
	}
	return nil
}

// hold takes fds. k.mu is held, here and below.
func (k *keeper) hold(h *keeperpb.Hold, fds []*fd.FD) *Error {
	if len(fds) != 1 && !h.GetSeries() {
		return fail(syscall.EINVAL, "hold %s: %d descriptors came, want 1", h.GetName(), len(fds))
	}
	if h.GetName() == "" {
		return fail(syscall.EINVAL, "hold a descriptor without a name")
	}
	if err := room(fds...); err != nil {
		return err
	}
	if !h.GetSeries() {
		k.keep(h.GetName(), h.GetNote(), fds[0])
		fds[0] = nil
		return nil
	}
	k.drop(h.GetName(), true)
	for i, f := range fds {
		k.keep(fmt.Sprintf("%s%03d", h.GetName(), i), h.GetNote(), f)
	}
	clear(fds)
	return nil
}

// keep takes ownership of f, and closes what had the name before.
func (k *keeper) keep(name string, note []byte, f *fd.FD) {
	if old, had := k.held.tree.ReplaceOrInsert(&held{name: name, fd: f, note: note}); had {
		k.letGo(old)
	}
	k.changed(name)
}

// fetch returns a copy, owned by the caller.
func (k *keeper) fetch(name string) ([]*fd.FD, *Error) {
	h := k.held.get(name)
	if h == nil {
		return nil, fail(syscall.ENOENT, "the keeper holds no descriptor named %s", name)
	}
	n, err := unix.FcntlInt(uintptr(h.fd.Int()), unix.F_DUPFD_CLOEXEC, 3)
	if err != nil {
		return nil, fail(err.(syscall.Errno), "copy descriptor %s", name)
	}
	f := fd.New(n)
	if err := room(f); err != nil {
		f.Close()
		return nil, err
	}
	return []*fd.FD{f}, nil
}

// drop closes what is held under name, or under all names with that prefix.
func (k *keeper) drop(name string, prefix bool) {
	all := []*held{k.held.get(name)}
	if prefix {
		all = k.held.under(name)
	}
	for _, h := range all {
		if h != nil {
			k.held.tree.Delete(h)
			k.letGo(h)
			k.changed(h.name)
		}
	}
}

// holdings returns what is held, sorted by name.
func (k *keeper) holdings() []*keeperpb.Held {
	out := make([]*keeperpb.Held, 0, k.held.tree.Len())
	for _, h := range k.held.under("") {
		out = append(out, &keeperpb.Held{Name: h.name, Note: h.note})
	}
	return out
}

// empty says whether the keeper keeps nothing for anybody.
func (k *keeper) empty() bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return len(k.procs) == 0 && k.held.tree.Len() == 0
}
