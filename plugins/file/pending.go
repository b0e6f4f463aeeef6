package file

import (
	"sync"
	"time"

	"github.com/muxd/muxd/sink"
)

// pendingMost is how long others wait for a stream of an earlier process that does not come again.
const pendingMost = 10 * time.Second

// claim names a stream for ever.
type claim struct {
	opening string
	stream  sink.Stream
}

// pending are the chunks that an earlier process of the plugin was killed over, by the file that it was writing to. Each is
// finished before anybody else writes to that file: what stands in it can be told from what others append only as
// long as nobody does.
type pending struct {
	mu      sync.Mutex
	claims  map[claim]identity
	settled chan struct{} // closed, and made anew, when one is settled
}

// recovered is the plugin's Recover.
func (fs *files) recovered(chunks []sink.Pending) {
	p := &fs.pending
	p.mu.Lock()
	defer p.mu.Unlock()
	p.claims, p.settled = map[claim]identity{}, make(chan struct{})
	for _, c := range chunks {
		if c.Memory != nil {
			flights(c.Opening, c.Memory, func(c claim, i intent) { p.claims[c] = i.id })
		} else if i, ok := decodeIntent(c.Intent); ok {
			p.claims[claim{c.Opening, c.Stream}] = i.id
		}
	}
	time.AfterFunc(pendingMost, func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		clear(p.claims)
		p.changed()
	})
}

// changed wakes all who wait. pending.mu is held.
func (p *pending) changed() {
	close(p.settled)
	p.settled = make(chan struct{})
}

// settle says that the chunk of c stands whole in its file, or never will.
func (p *pending) settle(c claim) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if _, ok := p.claims[c]; ok {
		delete(p.claims, c)
		p.changed()
	}
}

// unsettled returns a channel that is closed when something may have changed, where somebody else than c has to write to
// the file id first; otherwise nil.
func (fs *files) unsettled(id identity, c claim) <-chan struct{} {
	p := &fs.pending
	p.mu.Lock()
	defer p.mu.Unlock()
	for other, file := range p.claims {
		if file == id && other != c {
			return p.settled
		}
	}
	return nil
}
