package stage

import (
	"errors"
	"fmt"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/muxd/muxd/internal/fd"
)

// onward is a pipe into which a source's bytes go on when its handler has put them out. The stage is consumed into that,
// in place of /dev/null: pipe to pipe splice(2) takes out of the stage what the pipe has accepted, so that what the
// stage still holds is what the pipe has not got, whatever dies. The stream waits where the pipe is full.
type onward struct {
	key  string
	room chan struct{} // capacity 1: poll has seen that the way onward may take more
	gone chan struct{} // closed when its pipe is

	mu      sync.Mutex // taken after Engine.mu, where both are; held for calls that do not block
	to      *fd.FD     // nil: closed
	leaving bool       // it is closed when the chunk in hand has gone on; Engine.mu
	watched bool
	grown   bool
}

func newOnward(b Branch) (*onward, error) {
	if b.Policy != Block {
		return nil, fmt.Errorf("branch %s drops, and a stream that is put out has one that blocks", b.Key)
	}
	if _, err := unix.FcntlInt(uintptr(b.To.Int()), unix.F_GETPIPE_SZ, 0); err != nil {
		return nil, fmt.Errorf("branch %s is no pipe: %w", b.Key, err)
	}
	return &onward{key: b.Key, to: b.To, room: make(chan struct{}, 1), gone: make(chan struct{})}, nil
}

// take moves bytes of the pipe from on, n at most. It does not block: EAGAIN where there is no room, and then room tells. EPIPE where
// nobody reads, or the way onward is closed.
func (o *onward) take(s *Source, from, n int) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.to == nil {
		return 0, unix.EPIPE
	}
	k, err := splice(from, o.to.Int(), n)
	if !errors.Is(err, unix.EAGAIN) {
		return k, err
	}
	if !o.grown { // small pieces fill a small pipe's slots
		o.grown = true
		resize(o.to.Int(), pipeBig)
	}
	op := unix.EPOLL_CTL_MOD
	if !o.watched {
		op, o.watched = unix.EPOLL_CTL_ADD, true
	}
	ev := unix.EpollEvent{Events: unix.EPOLLOUT | unix.EPOLLONESHOT, Fd: int32(s.k), Pad: s.gen}
	if e := unix.EpollCtl(s.eng.ep.Int(), op, o.to.Int(), &ev); e != nil {
		return 0, fmt.Errorf("watch branch %s: %w", o.key, e)
	}
	return 0, err
}

// close closes the pipe, once. Others have the same open file, which would stay in the epoll set.
func (o *onward) close(e *Engine) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.to == nil {
		return
	}
	if o.watched {
		unix.EpollCtl(e.ep.Int(), unix.EPOLL_CTL_DEL, o.to.Int(), nil)
	}
	o.to.Close()
	o.to = nil
	close(o.gone)
}

// AddBranch takes ownership of b's pipe, into which the stream goes on from here, once it is put out; b's policy is Block. A source has
// one branch. One that there is stays as it is.
func (s *Source) AddBranch(b Branch) error {
	o, err := newOnward(b)
	s.eng.mu.Lock()
	defer s.eng.mu.Unlock()
	switch {
	case err != nil:
	case s.out != nil && s.out.key == b.Key:
		return b.To.Close()
	case s.out != nil:
		err = fmt.Errorf("the stream has the branch %s already", s.out.key)
	case s.unseen:
		err = errors.New("the sink passes the stream on unseen, and so not to a branch too")
	case s.state == ended:
		err = errors.New("the stream has ended")
	default:
		s.out = o
		return nil
	}
	b.To.Close()
	return err
}

// RemoveBranch ends the branch of that key: what is in hand goes on to it, unless discard says otherwise. The channel is closed when
// its pipe is.
func (s *Source) RemoveBranch(key string, discard bool) (gone <-chan struct{}, err error) {
	s.eng.mu.Lock()
	defer s.eng.mu.Unlock()
	o := s.out
	if o == nil || o.key != key {
		none := make(chan struct{})
		close(none)
		return none, nil
	}
	o.leaving = true
	if discard || s.state != running {
		s.endOnward()
	}
	return o.gone, nil
}

// DupBranches returns copies of the branches' pipes, owned by the caller, by their keys and EndIn.
func (s *Source) DupBranches() map[string]*fd.FD {
	out := map[string]*fd.FD{}
	if o := s.onward(); o != nil {
		o.mu.Lock()
		defer o.mu.Unlock()
		if o.to != nil {
			if d, err := o.to.Dup(); err == nil {
				out[o.key+"/"+EndIn] = d
			}
		}
	}
	return out
}

func (s *Source) onward() *onward {
	s.eng.mu.Lock()
	defer s.eng.mu.Unlock()
	return s.out
}

// endOnward closes the way onward. Engine.mu is held.
func (s *Source) endOnward() {
	if s.out != nil {
		s.out.close(s.eng)
		s.out = nil
	}
}

// passOn consumes n bytes of the stage, into the source's way onward where it has one.
func (w *worker) passOn(s *Source, n int) error {
	for n > 0 {
		o := s.onward()
		if o == nil {
			break
		}
		k, err := o.take(s, w.stageR.Int(), n)
		switch {
		case errors.Is(err, unix.EAGAIN):
			select {
			case <-o.room:
			case <-o.gone:
			case <-s.done.C():
				return fmt.Errorf("the stream was given up, and its branch did not get %d bytes of it", n)
			}
		case errors.Is(err, unix.EPIPE): // nobody reads it any more, so it must not hold up the others
			s.eng.mu.Lock()
			if s.out == o {
				s.endOnward()
			}
			s.eng.mu.Unlock()
		case err != nil:
			return fmt.Errorf("branch %s: %w", o.key, err)
		case k == 0:
			return fmt.Errorf("branch %s: the stage is empty, with %d bytes to come", o.key, n)
		default:
			n -= k
			w.eng.step(StepPassed)
		}
	}
	return w.consume(n, w.eng.null.Int())
}
