package stage

import (
	"errors"
	"fmt"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/muxd/muxd/internal/fd"
)

// Add takes ownership of src, a pipe's read end or a connected stream socket, and of the branches' pipes, and begins to copy src. A source whose key a
// predecessor knew goes on where that one was, and so do its branches, by their keys; what was left of branches
// that are not among these is thrown away.
func (f *Fan) Add(src *fd.FD, key string, branches []Branch, h FanHandler) (*FanSource, error) {
	fail := func(err error) (*FanSource, error) {
		src.Close()
		for _, b := range branches {
			b.Close()
		}
		return nil, err
	}
	if key == "" || len(key) > fanKeyMost {
		return fail(fmt.Errorf("key of %d bytes for a stream, want 1 to %d", len(key), fanKeyMost))
	}
	size, err := unix.FcntlInt(uintptr(src.Int()), unix.F_GETPIPE_SZ, 0)
	s := &FanSource{fan: f, src: src, h: h, pipeSize: size}
	if err != nil { // a socket
		s.pipeSize, s.noGrow, s.unix = pipeSmall, true, isUnix(src.Int())
		if err = unix.SetNonblock(src.Int(), true); err != nil {
			return fail(fmt.Errorf("set O_NONBLOCK on a stream: %w", err))
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	f.mu.Lock()
	switch {
	case f.closed:
		err = errors.New("it is closed")
	case !f.place(s, key):
		err = ErrTooMany
	}
	f.gen++
	s.gen = f.gen
	f.mu.Unlock()
	if err != nil {
		return fail(err)
	}
	if err = s.resume(branches); err == nil {
		err = f.prepare(len(branches))
	}
	for _, b := range branches {
		if err == nil && !slices.ContainsFunc(s.branches, func(have *branch) bool { return have.Key == b.Key }) {
			err = s.add(b)
		}
	}
	if err != nil {
		f.free1(s)
		return fail(err)
	}
	f.kick(s)
	return s, nil
}

// place finds the slot of a source: its own of before, or a free one. f.mu is held.
func (f *Fan) place(s *FanSource, key string) bool {
	if k, ok := f.known[key]; ok {
		delete(f.known, key)
		s.k, s.slot = k, f.mem.slot(k)
		f.sources[k] = s
		return true
	}
	switch {
	case len(f.free) > 0:
		s.k = f.free[len(f.free)-1]
		f.free = f.free[:len(f.free)-1]
	case len(f.sources) == fanSlotsMost:
		return false
	default:
		s.k = len(f.sources)
		f.sources = append(f.sources, nil)
	}
	f.sources[s.k] = s
	s.slot = f.mem.claim(s.k, key)
	return true
}

// add makes a branch that gets the stream from here on. s.mu is held.
func (s *FanSource) add(b Branch) error {
	if err := b.check(int64(max(s.fan.most, pipeSmall))); err != nil {
		return err
	}
	for n := range BranchesMost {
		slot := s.slot.branch(n)
		if slot.key() != "" {
			continue
		}
		slot.claim(b.Key, s.slot.committed())
		s.branches = append(s.branches, &branch{Branch: b, s: s, b: n, slot: slot, gone: make(chan struct{})})
		return nil
	}
	return fmt.Errorf("a stream has %d sinks, and no more fit", BranchesMost)
}

// AddBranch takes ownership of b's pipe, which gets the stream from the next chunk on. A branch that there is stays as it is.
func (s *FanSource) AddBranch(b Branch) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.over {
		b.Close()
		return errors.New("the stream has ended")
	}
	if s.find(b.Key) != nil {
		b.Close()
		return nil
	}
	err := s.fan.prepare(len(s.branches) + 1)
	if err == nil {
		err = s.add(b)
	}
	if err != nil {
		b.Close()
		return err
	}
	if s.turnLocked() { // it may have waited for a branch
		s.watch(true)
	}
	return nil
}

// RemoveBranch ends a branch between two chunks. What the branch holds still goes to it, unless discard says otherwise.
// The channel is closed when the branch's pipe is; of a branch that there is not, at once.
func (s *FanSource) RemoveBranch(key string, discard bool) (gone <-chan struct{}, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	b := s.find(key)
	if b == nil {
		none := make(chan struct{})
		close(none)
		return none, nil
	}
	b.leaving = true
	if discard {
		if err := b.discard(); err != nil {
			return nil, err
		}
	}
	if s.turnLocked() {
		s.watch(true)
	}
	return b.gone, nil
}

// find returns the branch of that key. s.mu is held.
func (s *FanSource) find(key string) *branch {
	for _, b := range s.branches {
		if b.Key == key {
			return b
		}
	}
	return nil
}

// BranchStat is what is known of a branch.
type BranchStat struct {
	Key     string
	Bytes   uint64 // that went into its pipe
	Dropped uint64
	Waiting uint64 // that it holds
}

// Stat tells of the branches.
func (s *FanSource) Stat() []BranchStat {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []BranchStat
	for _, b := range s.branches {
		st := BranchStat{Key: b.Key, Dropped: b.slot.dropped(), Waiting: uint64(b.holds())}
		st.Bytes = s.slot.committed() - b.slot.begin() - st.Dropped - st.Waiting
		out = append(out, st)
	}
	return out
}

// Dup returns a copy of the far end that the source reads, owned by the caller.
func (s *FanSource) Dup() (*fd.FD, error) { return s.src.Dup() }

// What DupBranches names behind the key of a branch and a slash.
const (
	EndIn    = "in"    // the pipe
	EndGaps  = "gaps"  // the memory of what is missing
	EndSpill = "spill" // the file
)

// DupBranches returns copies of what the branches have, owned by the caller, by their keys and EndIn, EndGaps or EndSpill.
func (s *FanSource) DupBranches() map[string]*fd.FD {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := map[string]*fd.FD{}
	keep := func(key, end string, dup func() (*fd.FD, error)) {
		if d, err := dup(); err == nil {
			out[key+"/"+end] = d
		}
	}
	for _, b := range s.branches {
		keep(b.Key, EndIn, b.To.Dup)
		if b.Gaps != nil {
			keep(b.Key, EndGaps, b.Gaps.Dup)
		}
		if b.Policy == Spill {
			keep(b.Key, EndSpill, b.File.Dup)
		}
	}
	return out
}

// Unread is how much stands in the source's pipe and was not taken.
func (s *FanSource) Unread() int {
	n, err := pending(s.src.Int())
	if err != nil {
		return 0
	}
	return n
}

// Committed is how many bytes of the stream all branches have got, in their pipes or on the way there.
func (s *FanSource) Committed() uint64 { return s.slot.committed() }

// change changes the source and moves it on.
func (s *FanSource) change(f func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f()
	if s.turnLocked() {
		s.watch(true)
	}
}

// Cut ends the stream as soon as nothing can be read from it without waiting, whoever may still write to it.
func (s *FanSource) Cut() { s.change(func() { s.cut = true }) }

// GiveUp ends the source now. What the branches do not take is lost.
func (s *FanSource) GiveUp() { s.change(func() { s.quit = true }) }

// Leave ends the source between two chunks, when the branches have passed on what they hold, though its stream goes on. Stay
// takes it back.
func (s *FanSource) Leave() { s.change(func() { s.leave = true }) }

// Stay takes a Leave back. It says false where the source has ended.
func (s *FanSource) Stay() (stays bool) {
	s.change(func() {
		if stays = !s.over; stays {
			s.leave = false
		}
	})
	return stays
}

// Forget closes the stream and frees its slot. It may be called after Handler.Done only.
func (s *FanSource) Forget() { s.fan.free1(s) }

// free1 frees the slot of a source that has ended, or was never there.
func (f *Fan) free1(s *FanSource) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed || f.sources[s.k] != s {
		return
	}
	s.src.Close()
	f.mem.clear(s.k)
	f.sources[s.k] = nil
	f.free = append(f.free, s.k)
}
