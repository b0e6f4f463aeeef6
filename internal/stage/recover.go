package stage

import (
	"bytes"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// adopt takes over what a predecessor that was killed has parked. Sources find their slots when they are added; a pair with
// bytes of one waits for it in left.
func (e *Engine) adopt(o Options) error {
	mem := o.Parked[ParkState][0]
	delete(o.Parked, ParkState)
	var err error
	if e.mem, err = mapMemory(mem); err != nil {
		return err
	}
	e.sources = make([]*Source, e.mem.used())
	for k := range e.sources {
		if key := e.mem.slot(k).key(); key == "" || o.Live != nil && !o.Live(key) {
			e.mem.clear(k)
			e.free = append(e.free, k)
		} else {
			e.known[key] = k
		}
	}
	e.judge(o.Crashed)
	for name, fds := range o.Parked {
		number, ok := strings.CutPrefix(name, ParkPair)
		if !ok {
			continue
		}
		delete(o.Parked, name)
		i, err := strconv.Atoi(number)
		if err != nil || i < 0 || i >= pairsMost {
			return fmt.Errorf("a predecessor parked %q, which is no pair", name)
		}
		p, err := adoptPair(i, fds)
		if err != nil {
			return err
		}
		e.made = max(e.made, i+1)
		e.all = append(e.all, p)
		if k := e.mem.bound(i); k >= 0 && k < len(e.sources) && e.mem.slot(k).key() != "" && e.left[k] == nil {
			e.left[k] = p
			continue
		}
		p.empty()
		e.mem.bind(i, -1)
		e.pairs = append(e.pairs, p)
	}
	return nil
}

// Knows says whether a predecessor had a source whose key begins so, which was not added yet.
func (e *Engine) Knows(prefix string) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	for key := range e.known {
		if strings.HasPrefix(key, prefix) {
			return true
		}
	}
	return false
}

// Pending is a chunk that a predecessor was killed over, and had recorded an intent for.
type Pending struct {
	Key    string // of its source
	Intent []byte
}

// Pending lists the chunks that will come again with sources which were not added yet.
func (e *Engine) Pending() []Pending {
	e.mu.Lock()
	defer e.mu.Unlock()
	var out []Pending
	for key, k := range e.known {
		s := e.mem.slot(k)
		if mark := s.Intent(); s.load()&phaseMask == phaseTaken && mark != nil {
			out = append(out, Pending{key, bytes.Clone(mark)})
		}
	}
	return out
}

// resume finishes what a predecessor had begun of s: its pair is w's now. It says whether the stream is over. Of a
// source that is new, or whose predecessor was between two chunks, there is nothing to do.
func (w *worker) resume(s *Source) (over bool, err error) {
	if s.resumed {
		return false, nil
	}
	s.resumed = true
	staged, err := w.staged()
	if err != nil {
		return false, fmt.Errorf("look at the stage: %w", err)
	}
	word := s.slot.load()
	n, last := int(word>>32), word&bitLast != 0
	switch word & phaseMask {
	case phaseTaken:
		var data []byte
		moved := 0
		if s.unseen {
			moved = s.slot.staged() - staged // what left the stage is where it belongs
			n -= moved
		} else if n > 0 {
			if data, err = w.look(n); err != nil {
				return false, err
			}
			if len(data) != n {
				return false, fmt.Errorf("look into the stage: %d bytes of a chunk of %d", len(data), n)
			}
		}
		if last {
			s.h.Eof(s.slot.Committed())
		}
		s.slot.forgetNewState()
		missed := s.missing()
		if last && s.left() {
			missed = 0
		}
		s.chunk = w.hand(Chunk{
			Offset: s.slot.Committed() + uint64(moved), Data: data, Time: time.Unix(0, s.slot.time()), Last: last, Again: true,
			Missed: missed, Slot: s.slot,
		})
		if err := w.eng.try(s, func() error { return w.finishChunk(s, n) }); err != nil {
			w.empty()
			return false, err
		}
		staged -= n
	case phaseWritten:
		rest := n - (s.slot.staged() - staged) // of the chunk, what was not consumed
		if err := w.passOn(s, rest); err != nil {
			return false, err
		}
		if last {
			s.h.Eof(s.slot.Committed())
		}
		s.slot.commit()
		staged -= rest
	case phaseEnded:
		s.h.Eof(s.slot.Committed())
		last = true
	}
	if last {
		s.finish(nil)
		return true, nil
	}
	return false, w.put(s, staged)
}
