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
	id  int
	*pair
}

// Batching. A reader that wakes for every small write costs five times the CPU of one that waits a moment, and slows
// the writer. So after a short read a worker waits before it looks again; the first read after a silence
// is never delayed, and no read is after one that filled much of the pipe.
const (
	batchWait  = time.Millisecond
	roundsMost = 32       // chunks of one source before others get their turn
	ptyLone    = 256      // a read of less from a terminal is an echo, which somebody is waiting for
	ptyRead    = 16 << 10 // a terminal's buffers hold no more, and the kernel allocates what is asked for
)

// work is a worker's life. Workers beyond the permanent ones end when nothing is ready.
func (e *Engine) work() {
	defer e.extra.Done()
	w := &worker{eng: e}
	e.mu.Lock()
	defer e.mu.Unlock()
	w.id = e.workerID()
	for {
		for len(e.ready) == 0 && !e.closed {
			if e.workers > permanent() {
				break
			}
			e.waiting++
			e.idle.Wait()
			e.waiting--
		}
		if len(e.ready) == 0 || e.closed {
			break
		}
		s := e.ready[0]
		e.ready = e.ready[1:]
		s.state = running
		if !w.takePair() {
			// Out of descriptors. A worker that has a pair will serve s when it is free.
			s.state = queued
			e.ready = append(e.ready, s)
			break
		}
		e.mu.Unlock()
		w.serve(s)
		e.mu.Lock()
	}
	e.workers--
	e.ids = append(e.ids, w.id)
	if w.pair != nil {
		e.pairs = append(e.pairs, w.pair)
	}
}

// workerID returns a free worker number. e.mu is held.
func (e *Engine) workerID() int {
	if n := len(e.ids); n > 0 {
		id := e.ids[n-1]
		e.ids = e.ids[:n-1]
		return id
	}
	e.nextID++
	return e.nextID - 1
}

// takePair gives the worker a pair, if it has none. Engine.mu is held.
func (w *worker) takePair() bool {
	e := w.eng
	if n := len(e.pairs); w.pair == nil && n > 0 {
		w.pair = e.pairs[n-1]
		e.pairs = e.pairs[:n-1]
	}
	if w.pair == nil {
		p, err := newPair()
		if err != nil {
			return false
		}
		w.pair = p
	}
	return true
}

// serve reads s until it has nothing, has ended, or others wait.
func (w *worker) serve(s *Source) {
	w.eng.mem.bind(w.id, s.k)
	defer w.eng.mem.bind(w.id, -1)
	for range roundsMost {
		n, err := w.read(s)
		switch {
		case errors.Is(err, unix.EAGAIN):
			if s.rearm() {
				return
			}
			w.end(s) // it was cut
			return
		case errors.Is(err, unix.EIO) && s.pty, err == nil && n == 0:
			w.end(s) // a master without a terminal side gives EIO: pty(7)
			return
		case err != nil:
			s.finish(err)
			return
		}
		if err := w.put(s, n); err != nil {
			s.finish(err)
			return
		}
		if n >= s.pipeSize/2 {
			w.speedUp(s)
		} else if n >= s.lone && !s.isCut() {
			time.Sleep(batchWait)
		}
	}
	s.again()
}

// read fills the stage from s.
func (w *worker) read(s *Source) (int, error) {
	most := w.size
	if s.pty {
		most = ptyRead
	}
	if s.noSplice {
		return w.copyIn(s.src.Int(), most)
	}
	n, err := w.fill(s.src.Int(), most)
	if errors.Is(err, unix.EINVAL) && s.pty {
		s.noSplice = true
		return w.copyIn(s.src.Int(), most)
	}
	return n, err
}

// put hands the n bytes in the stage to the handler, and consumes them.
func (w *worker) put(s *Source, n int) error {
	for n > 0 {
		data, err := w.look(n)
		if err == nil {
			err = w.chunk(s, data, false)
		}
		if err != nil {
			w.consume(n, w.eng.null.Int()) // for the next source
			return err
		}
		n -= len(data)
	}
	return nil
}

// chunk takes one chunk through its phases.
func (w *worker) chunk(s *Source, data []byte, last bool) error {
	now := time.Now()
	c := &s.chunk
	*c = Chunk{Offset: s.slot.Committed(), Data: data, Time: now, Last: last, Slot: s.slot}
	s.slot.take(len(data), last, now.UnixNano())
	if err := s.h.Chunk(c); err != nil {
		return err
	}
	s.slot.written()
	if err := w.consume(len(data), w.eng.null.Int()); err != nil {
		return err
	}
	s.slot.commit()
	return nil
}

// end tells the handler that s has ended.
func (w *worker) end(s *Source) {
	s.h.Eof(s.slot.Committed())
	s.finish(w.chunk(s, nil, true))
}

// speedUp enlarges the pipes of a busy source, as far as the kernel allows.
func (w *worker) speedUp(s *Source) {
	w.grow()
	if !s.pty && s.pipeSize < pipeBig && !s.noGrow {
		before := s.pipeSize
		s.pipeSize = resize(s.src.Int(), pipeBig)
		s.noGrow = s.pipeSize <= before
	}
}
