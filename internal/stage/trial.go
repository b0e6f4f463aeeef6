package stage

import (
	"fmt"
	"sync"
	"sync/atomic"
	"time"
)

// A chunk that ends the process whenever a handler gets it would take every other stream of the process with it, again and
// again. After a crash whatever was in a handler's hands is suspect. The successor hands these chunks out one at a time, and
// records in the state memory whose turn it is; a crash in that turn is a strike against the chunk. One with strikesMost
// strikes is held: its stream waits, with all its bytes, and the others go on. A chunk that has had its turn for
// trialMost, most likely since its sink blocks, lets the next one have its turn. A death that is no crash, as of a
// process that was told to end, clears every chunk.
const (
	strikesMost = 2
	trialMost   = time.Second
)

// atTrial is where in the memory's header the slot stands whose chunk is on trial, plus 1; 0: none.
const atTrial = 8

func (m *memory) setTrial(k int) { atomic.StoreUint64(word(m.base, atTrial), uint64(k+1)) }

func (m *memory) trial() int { return int(atomic.LoadUint64(word(m.base, atTrial))) - 1 }

// strikes counts the crashes during trials of the chunk that is taken.
func (s Slot) strikes() int { return int(atomic.LoadUint64(word(s.head(), atStrikes))) }

func (s Slot) setStrikes(n int) { atomic.StoreUint64(word(s.head(), atStrikes), uint64(n)) }

// judge counts a predecessor's end against the chunk that was on trial then. It is called once, before any source is added.
func (e *Engine) judge(crashed bool) {
	e.suspicious = crashed
	if k := e.mem.trial(); crashed && k >= 0 && k < len(e.sources) && e.mem.slot(k).load()&phaseMask == phaseTaken {
		s := e.mem.slot(k)
		s.setStrikes(s.strikes() + 1)
	}
	e.mem.setTrial(-1)
}

// try finishes the chunk of s that a predecessor had. If that one crashed, it waits for its turn, and does not return before s is given
// up where the chunk is held.
func (e *Engine) try(s *Source, finish func() error) error {
	if !e.suspicious {
		s.slot.setStrikes(0)
		return finish()
	}
	if n := s.slot.strikes(); n >= strikesMost {
		s.h.Held(fmt.Errorf("held back: the plugin crashed %d times over its %d bytes at %d", n+1, len(s.chunk.Data), s.chunk.Offset))
		e.rest(s.done.C())
		return s.abandoned()
	}
	select {
	case e.turn <- struct{}{}:
	case <-s.done.C():
		return s.abandoned()
	}
	e.mem.setTrial(s.k)
	over := sync.OnceFunc(func() {
		e.mem.setTrial(-1)
		<-e.turn
	})
	timer := time.AfterFunc(trialMost, over)
	defer func() {
		timer.Stop()
		over()
	}()
	return finish()
}

// rest waits for done, and does not hold a pause up meanwhile: the chunk is in nobody's hands.
func (e *Engine) rest(done <-chan struct{}) {
	e.mu.Lock()
	e.serving--
	e.tellCalm()
	e.mu.Unlock()
	<-done
	e.mu.Lock()
	e.serving++
	e.mu.Unlock()
}

// abandoned is the end of a source that was given up before its chunk was tried.
func (s *Source) abandoned() error {
	return fmt.Errorf("the stream was given up, and %d bytes of it were not put out, over which the plugin crashed", len(s.chunk.Data)+s.Unread())
}
