package stage

import (
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/muxd/muxd/internal/fd"
	"github.com/muxd/muxd/internal/gaps"
	"github.com/muxd/muxd/internal/latch"
)

// A source is in one of these states:
//
//	armed    in the epoll set; poll moves it to queued when there is something to read
//	queued   in the ready list; a worker moves it to running
//	running  with a worker, which moves it to armed (nothing left), resting (little came), queued (its turn is over) or ended
//	resting  left alone for a moment; the worker that naps moves it to queued
//	ended    the handler's Done has been called, or is about to be
const (
	armed = iota
	queued
	running
	resting
	ended
)

// Source is a stream that the engine reads.
type Source struct {
	eng    *Engine
	src    *fd.FD     // Engine.mu, and srcMu
	srcMu  sync.Mutex // for reading src, which does not block; taken after Engine.mu, where both are
	h      Handler
	slot   Slot
	k      int   // slot number
	gen    int32 // tells it from an earlier source of the same slot
	pty    bool
	unix   bool         // a Unix socket
	lone   int          // a read of fewer bytes is not waited after
	unseen bool         // its chunks are moved, and not looked at
	out    *onward      // nil: what is put out goes nowhere else; eng.mu
	gaps   *gaps.Memory // nil: nothing is missing
	done   latch.Latch

	state int           // of the state machine above; eng.mu
	since time.Duration // when it began to rest, after the engine did; eng.mu
	cut   atomic.Bool   // EAGAIN is the end
	leave atomic.Int32  // stays, asked to leave, or leaving
	quit  atomic.Bool   // given up: done is closed

	resume *pair // a predecessor's, with what it left of this source; eng.mu

	// The worker's that has it.
	fresh    bool   // src is another one, of which nothing is known here; srcMu
	chunk    *Chunk // its only one
	resumed  bool   // what a predecessor left has been dealt with
	pipeSize int
	noSplice bool
	noGrow   bool
}

func (s *Source) event() unix.EpollEvent {
	return unix.EpollEvent{Events: unix.EPOLLIN | unix.EPOLLONESHOT, Fd: int32(s.k), Pad: s.gen}
}

// much is how much a read gives of a source whose writer is faster than its reader, through a stage of that size.
func (s *Source) much(stage int) int {
	if s.pty {
		return ptyRead - 1 // the kernel keeps a byte free
	}
	return min(s.pipeSize, stage) / 2
}

// comes says whether a busy terminal has more to read, now or in a moment. A read empties the page of the line
// discipline, and has a kernel thread fill it again from the 64 KiB that the terminal holds besides. A read that comes too
// early sleeps until that thread has run (n_tty_read), and on a machine with an idle CPU that takes longer than all the rest:
// looking for it costs less CPU, and the child writes twice as fast.
func comes(src int) bool {
	for begun := time.Now(); ; {
		if n, err := pending(src); n > 0 || err != nil {
			return true
		}
		if time.Since(begun) > ptyMoment {
			return false
		}
		yield()
	}
}

// Dup returns a copy of the far end that the source reads, owned by the caller.
func (s *Source) Dup() (*fd.FD, error) {
	s.srcMu.Lock()
	defer s.srcMu.Unlock()
	return s.src.Dup()
}

// Replace takes ownership of far, a pipe's read end, and has the source read that from now on: what is in the far end that it had stays
// there, and the stream goes on, at its offset. A chunk in hand is not touched.
func (s *Source) Replace(far *fd.FD) error {
	if err := unix.SetNonblock(far.Int(), true); err != nil {
		far.Close()
		return fmt.Errorf("set O_NONBLOCK on a stream: %w", err)
	}
	e := s.eng
	e.mu.Lock()
	defer e.mu.Unlock()
	s.srcMu.Lock()
	defer s.srcMu.Unlock()
	if e.closed || s.state == ended {
		far.Close()
		return errors.New("the stream has ended")
	}
	ev := s.event()
	if s.state != armed {
		ev.Events = unix.EPOLLONESHOT // rearm watches it
	}
	if err := unix.EpollCtl(e.ep.Int(), unix.EPOLL_CTL_ADD, far.Int(), &ev); err != nil {
		far.Close()
		return fmt.Errorf("watch a stream: %w", err)
	}
	unix.EpollCtl(e.ep.Int(), unix.EPOLL_CTL_DEL, s.src.Int(), nil)
	s.src.Close()
	s.src, s.fresh = far, true
	return nil
}

// with calls f with the far end, which stays what it is meanwhile. f must not block.
func (s *Source) with(f func(src int) (int, error)) (int, error) {
	s.srcMu.Lock()
	defer s.srcMu.Unlock()
	if s.fresh {
		s.fresh, s.lone, s.noGrow, s.pty, s.unix, s.pipeSize = false, 0, false, false, false, capacity(s.src.Int())
	}
	return f(s.src.Int())
}

// Unread is how much stands in the source's pipe and was not taken; 0 where that cannot be told.
func (s *Source) Unread() int {
	s.srcMu.Lock()
	defer s.srcMu.Unlock()
	n, err := pending(s.src.Int())
	if err != nil {
		return 0
	}
	return n
}

// Committed is how many bytes of the stream the handler has put out.
func (s *Source) Committed() uint64 { return s.slot.Committed() }

// Number is the handler's own number i, below NumbersMost; 0 at the source's beginning. It is the source's, whatever its process.
func (s *Source) Number(i int) int64 {
	if atomic.LoadUint64(word(s.slot.head(), atTouched)) == 0 {
		return 0 // and no page is touched for it
	}
	return atomic.LoadInt64(s.slot.number(i))
}

// AddNumber adds n to the number i.
func (s *Source) AddNumber(i int, n int64) {
	s.slot.touch()
	atomic.AddInt64(s.slot.number(i), n)
}

// SetNumber has the number i be n.
func (s *Source) SetNumber(i int, n int64) {
	s.slot.touch()
	atomic.StoreInt64(s.slot.number(i), n)
}

// Done is closed when the source is given up: a handler that blocks should return then.
func (s *Source) Done() <-chan struct{} { return s.done.C() }

// Cut ends the stream as soon as nothing can be read from it without waiting, whoever may still write to it.
func (s *Source) Cut() {
	s.cut.Store(true)
	s.kick()
}

// kick has a worker look at the source.
func (s *Source) kick() {
	s.eng.mu.Lock()
	defer s.eng.mu.Unlock()
	switch {
	case s.eng.closed:
	case s.state == armed:
		s.eng.queue(s)
	case s.state == resting:
		s.eng.disturb(s)
	}
}

func (s *Source) isCut() bool { return s.cut.Load() }

// What a source has been told of leaving.
const (
	stays = iota
	leaveAsked
	leaving
)

// Leave ends the source between two chunks though its stream goes on: the handler gets its last chunk as at the stream's end, and
// what was not taken stays in the stream, for whoever reads it next. Stay takes it back.
func (s *Source) Leave() {
	s.leave.CompareAndSwap(stays, leaveAsked)
	s.kick()
}

// Stay takes a Leave back. It says false where the source is leaving already.
func (s *Source) Stay() bool {
	return s.leave.CompareAndSwap(leaveAsked, stays) || s.leave.Load() == stays
}

// leaves says whether the source is to end here. The worker that has it asks.
func (s *Source) leaves() bool { return s.leave.CompareAndSwap(leaveAsked, leaving) }

// GiveUp closes Done, and ends the stream like Cut. What a handler does not put out is lost then.
func (s *Source) GiveUp() {
	s.giveUp()
	s.Cut()
}

func (s *Source) giveUp() {
	if s.quit.CompareAndSwap(false, true) {
		s.done.Close()
	}
}

// Forget closes the stream and frees its slot. It may be called after Handler.Done only.
func (s *Source) Forget() {
	e := s.eng
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closed || e.sources[s.k] != s {
		return
	}
	s.src.Close()
	s.gaps.Close()
	e.mem.clear(s.k)
	e.sources[s.k] = nil
	e.free = append(e.free, s.k)
}

// rearm waits for the source again. It says false where the source was cut, or asked to leave, meanwhile.
func (s *Source) rearm() bool {
	e := s.eng
	e.mu.Lock()
	defer e.mu.Unlock()
	if s.cut.Load() || s.leave.Load() == leaveAsked {
		return false
	}
	s.state = armed
	ev := s.event()
	unix.EpollCtl(e.ep.Int(), unix.EPOLL_CTL_MOD, s.src.Int(), &ev)
	return true
}

// again puts the source at the end of the ready list.
func (s *Source) again() {
	s.eng.mu.Lock()
	defer s.eng.mu.Unlock()
	s.eng.queue(s)
}

// finish ends the source: its far end stays open, so that its writers do not get EPIPE, until Forget.
func (s *Source) finish(err error) {
	e := s.eng
	e.mu.Lock()
	s.state = ended
	if !e.closed {
		unix.EpollCtl(e.ep.Int(), unix.EPOLL_CTL_DEL, s.src.Int(), nil)
		s.endOnward()
	}
	e.mu.Unlock()
	s.h.Done(s.slot.Committed(), err)
}
