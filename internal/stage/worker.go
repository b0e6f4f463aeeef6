package stage

import (
	"errors"
	"time"

	"golang.org/x/sys/unix"
)

// A worker takes ready sources one by one. It owns a pair as long as it lives; while a handler blocks, the chunk waits in
// the pair's stage, and other workers serve the other sources.
type worker struct {
	eng *Engine
	*pair
	one Chunk // that it has in hand
}

const (
	roundsMost = 32      // chunks of one source before others get their turn
	ptyLone    = 256     // a read of less from a terminal is an echo, which somebody is waiting for
	ptyRead    = 4 << 10 // a read of a terminal gives no more (N_TTY_BUF_SIZE), and the kernel allocates what is asked for
	ptyReads   = 2       // of a busy terminal that make a chunk
	ptyMoment  = 30 * time.Microsecond
)

// work is a worker's life. Workers beyond the permanent ones end when nothing is ready.
func (e *Engine) work() {
	defer e.extra.Done()
	w := &worker{eng: e}
	e.mu.Lock()
	e.coming = false
	for w.next() {
		s := e.ready[0]
		e.ready = e.ready[1:]
		s.state = running
		if len(e.ready) > 0 {
			e.call()
		}
		if !w.takePair(s) {
			// Out of descriptors. A worker that has a pair will serve s when it is free.
			s.state = queued
			e.ready = append(e.ready, s)
			e.idle.Signal()
			break
		}
		e.serving++
		e.mu.Unlock()
		w.serve(s)
		e.mu.Lock()
		if s.out != nil && s.out.leaving {
			s.endOnward()
		}
		e.serving--
		e.tellCalm()
	}
	e.workers--
	if w.pair != nil {
		e.pairs = append(e.pairs, w.pair)
	}
	e.mu.Unlock()
}

// next waits until a source is ready, and naps for those that rest where nobody else does. It says false where the worker is to
// end. Engine.mu is held, and let go meanwhile.
func (w *worker) next() bool {
	e := w.eng
	for !e.closed {
		there := len(e.ready) > 0 && e.paused == nil
		switch {
		case len(e.resting) > 0 && !e.napping:
			if there {
				e.call()
			}
			e.nap()
		case there:
			return true
		case len(e.ready) == 0 && e.workers > permanent():
			return false
		default:
			e.waiting++
			e.idle.Wait()
			e.waiting--
			e.coming = false
		}
	}
	return false
}

// takePair gives the worker the pair that it needs for s. Engine.mu is held, and let go while a pair is made.
func (w *worker) takePair(s *Source) bool {
	e := w.eng
	if s.resume != nil {
		if w.pair != nil {
			e.pairs = append(e.pairs, w.pair)
		}
		w.pair, s.resume = s.resume, nil
		return true
	}
	if w.pair != nil {
		return true
	}
	if n := len(e.pairs); n > 0 {
		w.pair = e.pairs[n-1]
		e.pairs = e.pairs[:n-1]
		return true
	}
	if e.made == pairsMost {
		return false
	}
	i := e.made
	e.made++
	e.mu.Unlock()
	p, err := e.newPair(i)
	e.mu.Lock()
	if err != nil {
		if e.made == i+1 {
			e.made--
		}
		if n := len(e.pairs); n > 0 { // a worker has ended meanwhile
			w.pair = e.pairs[n-1]
			e.pairs = e.pairs[:n-1]
		}
		return w.pair != nil
	}
	w.pair = p
	return true
}

// serve reads s until it has nothing, has ended, or others wait.
func (w *worker) serve(s *Source) {
	w.hold(s)
	w.eng.step(StepBound)
	defer w.letGo()
	if over, err := w.resume(s); over || err != nil {
		if err != nil {
			s.finish(err)
		}
		return
	}
	for range roundsMost {
		if w.eng.isPaused() {
			break
		}
		if s.leaves() {
			w.end(s)
			return
		}
		cut := s.isCut() // before reading: what came before the cut is still to be read
		n, err := w.read(s)
		switch {
		case errors.Is(err, unix.EAGAIN):
			w.eng.step(StepEmpty)
			w.letGo()
			if s.rearm() {
				return
			}
			w.hold(s)
			if cut || s.leaves() {
				w.end(s)
				return
			}
			continue // it was cut meanwhile, or asked to leave, and then to stay
		case errors.Is(err, unix.ECONNRESET) && s.unix:
			continue // its peer left unread what came to it (unix(7)); the end follows
		case errors.Is(err, unix.EIO) && s.pty, err == nil && n == 0:
			w.end(s) // a master without a terminal side gives EIO: pty(7)
			return
		case err != nil:
			s.finish(err)
			return
		}
		w.eng.step(StepFilled)
		if err := w.put(s, n); err != nil {
			s.finish(err)
			return
		}
		switch { // where it filled what there was to fill, more is on the way
		case n >= s.much(w.size) && s.pty:
			s.with(func(src int) (int, error) { comes(src); return 0, nil })
		case n >= s.much(w.size):
			w.speedUp(s)
		case n >= s.lone && !s.isCut():
			w.letGo()
			w.eng.leaveAlone(s)
			return
		}
	}
	w.letGo()
	s.again()
}

// hold records that the stage is s's, and letGo, before another worker may have s, that it is nobody's: a successor looks for what
// is left of a source in one stage.
func (w *worker) hold(s *Source) { w.eng.mem.bind(w.i, s.k) }

func (w *worker) letGo() { w.eng.mem.bind(w.i, -1) }

// read fills the stage from s.
func (w *worker) read(s *Source) (int, error) {
	return s.with(func(src int) (int, error) {
		if s.pty {
			return w.readPTY(s, src)
		}
		return w.fill(src, w.size)
	})
}

// readPTY is read for a terminal, which gives a page at a time.
func (w *worker) readPTY(s *Source, src int) (n int, err error) {
	for range ptyReads {
		k := 0
		if !s.noSplice {
			k, err = w.fill(src, ptyRead)
			s.noSplice = errors.Is(err, unix.EINVAL)
		}
		if s.noSplice {
			k, err = w.copyIn(src, ptyRead)
		}
		if err != nil || k == 0 {
			break
		}
		if n += k; k < s.much(w.size) || !comes(src) {
			break
		}
	}
	if n > 0 {
		return n, nil // an error comes again
	}
	return 0, err
}

// put hands the n bytes in the stage to the handler, and consumes them.
func (w *worker) put(s *Source, n int) error {
	for n > 0 {
		var data []byte
		var err error
		size, missed := s.apart(n)
		if !s.unseen {
			data, err = w.look(size)
			size = len(data)
		}
		if err == nil {
			w.eng.step(StepLooked)
			err = w.chunk(s, data, size, n, missed, false)
		}
		if err != nil {
			w.empty() // for the next source
			return err
		}
		n -= size
	}
	return nil
}

// chunk takes one chunk of n bytes, of staged in the stage, through its phases. data is nil where s is unseen.
func (w *worker) chunk(s *Source, data []byte, n, staged int, missed uint64, last bool) error {
	now := time.Now()
	s.slot.take(n, staged, last, now.UnixNano())
	w.eng.step(StepTaken)
	s.chunk = w.hand(Chunk{Offset: s.slot.Committed(), Data: data, Time: now, Last: last, Missed: missed, Slot: s.slot})
	return w.finishChunk(s, n)
}

// hand keeps c where the next one will be too: an idle source has none.
func (w *worker) hand(c Chunk) *Chunk {
	w.one = c
	return &w.one
}

// finishChunk has the handler put out the chunk that is taken, and consumes its n bytes that are in the stage, or what the
// handler has left of them there.
func (w *worker) finishChunk(s *Source, n int) error {
	if s.unseen {
		s.chunk.left, s.chunk.pair, s.chunk.step = n, w.pair, w.eng.step
	}
	size := n
	began := time.Now()
	if err := s.h.Chunk(s.chunk); err != nil {
		return err
	}
	w.eng.count.put(size, began)
	if s.unseen {
		n = s.chunk.left
	}
	w.eng.step(StepPut)
	s.slot.written()
	w.eng.step(StepWritten)
	if err := w.passOn(s, n); err != nil {
		return err
	}
	w.eng.step(StepConsumed)
	s.slot.commit()
	w.eng.step(StepCommitted)
	return nil
}

// end tells the handler that s has ended.
func (w *worker) end(s *Source) {
	s.h.Eof(s.slot.Committed())
	missed := s.missing()
	if s.leave.Load() == leaving {
		s.leaveGaps()
		missed = 0
	}
	s.finish(w.chunk(s, nil, 0, 0, missed, true))
}

// speedUp enlarges the pipes of a busy source, as far as the kernel allows.
func (w *worker) speedUp(s *Source) {
	w.grow()
	if s.pipeSize < pipeBig && !s.noGrow {
		s.with(func(src int) (int, error) {
			before := s.pipeSize
			s.pipeSize = resize(src, pipeBig)
			s.noGrow = s.pipeSize <= before
			return 0, nil
		})
	}
}
