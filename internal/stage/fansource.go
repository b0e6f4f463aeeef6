package stage

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/muxd/muxd/internal/fd"
)

// FanSource is a stream that a Fan copies. Whoever calls turn moves it: the loops of the Fan, when its source or a branch
// can go on, and the methods below.
type FanSource struct {
	fan  *Fan
	src  *fd.FD
	h    FanHandler
	k    int // slot number
	slot fanSlot
	gen  int32 // tells it from an earlier source of the same slot

	mu       sync.Mutex
	branches []*branch
	pipeSize int
	unix     bool // a Unix socket
	noGrow   bool
	eof      bool // the stream has ended, and the branches may still hold some of it
	told     bool // Handler.Eof was called
	cut      bool // EAGAIN is the end
	leave    bool // the stream ends here, though it goes on elsewhere
	quit     bool // given up
	over     bool // Handler.Done was called
}

// turn moves the source on, as far as it goes without waiting. It says true where the source is to be left alone for
// batchWait; otherwise it is watched.
func (s *FanSource) turn() (later bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.turnLocked()
}

func (s *FanSource) turnLocked() (later bool) {
	if s.over {
		return false
	}
	if s.quit {
		s.finish(s.given())
		return false
	}
	for range roundsMost {
		if err := s.drain(); err != nil {
			s.finish(err)
			return false
		}
		if slices.ContainsFunc(s.branches, (*branch).blocks) {
			break
		}
		if s.eof || s.leave {
			if s.holds() == 0 {
				s.finish(nil)
				return false
			}
			break
		}
		n, err := s.fill()
		switch {
		case errors.Is(err, errAlone) && s.cut:
			s.finish(fmt.Errorf("%w, and %d bytes of it were not put out", err, s.Unread()))
			return false
		case errors.Is(err, errAlone), errors.Is(err, errStarved):
			s.watch(false)
			return false
		case errors.Is(err, unix.ECONNRESET) && s.unix:
			continue // as in worker.serve
		case errors.Is(err, unix.EAGAIN) && s.cut, err == nil && n == 0:
			s.eof, s.told = true, true
			s.h.Eof(s.slot.committed())
			continue
		case errors.Is(err, unix.EAGAIN):
			s.rest()
			return false
		case err != nil:
			s.finish(err)
			return false
		}
		if n >= min(s.pipeSize, s.smallest())/2 { // it filled what there was to fill: more is on the way
			s.speedUp()
			continue
		}
		if err := s.drain(); err != nil {
			s.finish(err)
			return false
		}
		if !s.cut && !slices.ContainsFunc(s.branches, (*branch).blocks) {
			s.watch(false)
			return true
		}
	}
	s.rest()
	return false
}

// rest gives back what is not needed, and waits for whatever can move the source.
func (s *FanSource) rest() {
	for _, b := range s.branches {
		b.giveBack(&b.stage)
	}
	s.watch(true)
}

// drain has every branch go on, and ends those that were leaving and hold nothing.
func (s *FanSource) drain() error {
	for _, b := range s.branches {
		if err := b.drain(); err != nil {
			return err
		}
	}
	s.branches = slices.DeleteFunc(s.branches, func(b *branch) bool {
		done := b.leaving && b.holds() == 0
		if done {
			b.close(true)
		}
		return done
	})
	return nil
}

// holds is how many bytes the branches have not passed on.
func (s *FanSource) holds() int {
	n := 0
	for _, b := range s.branches {
		n += b.holds()
	}
	return n
}

// errAlone says that there is no branch to take anything.
var errAlone = errors.New("the stream has no sink left")

// errStarved says that there are not enough stages. One that comes back moves the source.
var errStarved = errors.New("no stage is free")

// takeStages has every branch that gets the next chunk have an empty stage. Where there are not enough of them it has none
// wait for those that others need.
func (s *FanSource) takeStages(to []*branch) error {
	for {
		missing := 0
		for _, b := range to {
			if b.stage == nil {
				b.stage = s.fan.take(binding{s.k, b.b, roleStage})
			}
			if b.stage == nil {
				missing++
			}
		}
		if missing == 0 {
			return nil
		}
		for _, b := range to {
			b.giveBack(&b.stage)
		}
		s.fan.mu.Lock()
		starved := len(s.fan.spare) < len(to)
		if starved {
			s.fan.starved = append(s.fan.starved, s)
		}
		s.fan.mu.Unlock()
		if starved {
			return errStarved
		}
	}
}

// fill takes a chunk from the source into the empty stages of all branches, and says how much that was. EAGAIN where there
// is nothing; 0 is the source's end. Between the two records a successor can tell from the first stage whether the source still has
// the chunk.
func (s *FanSource) fill() (int, error) {
	var to []*branch
	for _, b := range s.branches {
		if !b.leaving {
			to = append(to, b)
		}
	}
	if len(to) == 0 {
		return 0, errAlone
	}
	if err := s.takeStages(to); err != nil {
		return 0, err
	}
	// The smallest first: what it takes, the others take.
	slices.SortStableFunc(to, func(x, y *branch) int { return cmp.Compare(x.stage.size, y.stage.size) })
	first := to[0]
	mask := 0
	for _, b := range to {
		mask |= 1 << b.b
	}
	s.slot.moving(first.b, mask)
	s.fan.step(StepMoving)
	n, err := first.stage.moveFrom(s.src.Int(), first.stage.size)
	if err != nil || n == 0 {
		s.slot.still()
		return 0, err
	}
	s.fan.step(StepFirst)
	if err := s.tee(first, to[1:]); err != nil {
		return 0, err // a successor does it again
	}
	s.slot.commit(n)
	s.fan.step(StepCounted)
	return n, nil
}

// tee copies the chunk that first has into the stages of others, where it is not yet.
func (s *FanSource) tee(first *branch, others []*branch) error {
	n := first.stage.n
	for _, b := range others {
		if b.stage.n == 0 {
			k, err := b.stage.copyFrom(first.stage.r.Int(), n)
			if err != nil {
				return fmt.Errorf("copy a chunk of %d bytes to branch %s: %w", n, b.Key, err)
			}
			if k > 0 {
				s.fan.step(StepTeed)
			}
		}
		if b.stage.n != n {
			return fmt.Errorf("copy a chunk of %d bytes to branch %s: %d of them, %w", n, b.Key, b.stage.n, io.ErrShortWrite)
		}
	}
	return nil
}

// smallest is the size of the smallest stage.
func (s *FanSource) smallest() int {
	n := pipeBig
	for _, b := range s.branches {
		if b.stage != nil {
			n = min(n, b.stage.size)
		}
	}
	return n
}

// speedUp enlarges the pipes of a busy source, as far as the kernel allows.
func (s *FanSource) speedUp() {
	for _, b := range s.branches {
		b.speedUp()
	}
	if s.pipeSize < s.fan.most && !s.noGrow {
		before := s.pipeSize
		s.pipeSize = resize(s.src.Int(), s.fan.most)
		s.noGrow = s.pipeSize <= before
	}
}

// watch waits for the pipes of branches that hold something, and for the source, where a chunk of it is wanted.
func (s *FanSource) watch(source bool) {
	takes := false
	for _, b := range s.branches {
		takes = takes || !b.leaving
		source = source && !b.blocks()
		if b.holds() > 0 {
			s.fan.watch(b.To, unix.EPOLLOUT, s)
		}
	}
	if source && takes && !s.eof && !s.leave {
		s.fan.watch(s.src, unix.EPOLLIN, s)
	}
}

// watch has s stepped when n is ready. The events of a registration count once.
func (f *Fan) watch(n *fd.FD, events uint32, s *FanSource) {
	ev := unix.EpollEvent{Events: events | unix.EPOLLONESHOT, Fd: int32(s.k), Pad: s.gen}
	if unix.EpollCtl(f.ep.Int(), unix.EPOLL_CTL_MOD, n.Int(), &ev) == unix.ENOENT {
		unix.EpollCtl(f.ep.Int(), unix.EPOLL_CTL_ADD, n.Int(), &ev)
	}
}

// unwatch ends watch. It comes before the close: others have the same open file, which would stay in the set.
func (f *Fan) unwatch(n *fd.FD) {
	unix.EpollCtl(f.ep.Int(), unix.EPOLL_CTL_DEL, n.Int(), nil)
}

// given is why a source that is given up has not put out everything; nil where it has.
func (s *FanSource) given() error {
	s.drain()
	unread := s.Unread()
	if n := s.holds(); n+unread > 0 {
		return fmt.Errorf("the stream was given up, and its branches did not get %d bytes of it, nor %d that they hold", unread, n)
	}
	return nil
}

// finish ends the source. Its far end stays open until Forget, so that its writers do not get EPIPE.
func (s *FanSource) finish(err error) {
	s.over = true
	if err == nil && !s.told {
		s.h.Eof(s.slot.committed())
	}
	if err == nil {
		s.slot.end()
	}
	s.fan.unwatch(s.src)
	for _, b := range s.branches {
		b.discard()
		b.close(false)
	}
	s.branches = nil
	s.h.Done(s.slot.committed(), err)
}
