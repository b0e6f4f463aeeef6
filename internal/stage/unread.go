package stage

import (
	"errors"
	"fmt"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"github.com/muxd/muxd/internal/fd"
)

// AddUnread takes ownership of src, sets O_NONBLOCK on it, and keeps it until Forget, for somebody else who reads it. The engine has what outlives
// the process: how much of the stream is put out, and the handler's own numbers. What Cut, Leave, Stay and GiveUp are for is
// the reader's affair.
func (e *Engine) AddUnread(src *fd.FD, key string) (*Source, error) {
	err := checkKey(key)
	if err == nil {
		err = unix.SetNonblock(src.Int(), true)
	}
	if err != nil {
		src.Close()
		return nil, fmt.Errorf("keep a stream: %w", err)
	}
	s := &Source{eng: e, src: src, state: ended} // for the engine there is nothing to do
	e.mu.Lock()
	defer e.mu.Unlock()
	switch {
	case e.closed:
		err = errors.New("the engine is closed")
	case !e.place(s, key):
		err = ErrTooMany
	}
	if err != nil {
		src.Close()
		return nil, err
	}
	return s, nil
}

// Count adds n bytes to what is put out of a source that was added unread. One goroutine may call it at a time.
func (s *Source) Count(n uint64) {
	w := s.slot.load()
	next := w ^ bitCommitted
	now := atomic.LoadUint64(word(s.slot.head(), atCommitted+8*bit(w, bitCommitted)))
	atomic.StoreUint64(word(s.slot.head(), atCommitted+8*bit(next, bitCommitted)), now+n)
	s.slot.store(next)
}
