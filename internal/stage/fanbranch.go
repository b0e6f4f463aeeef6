package stage

import (
	"errors"
	"fmt"
	"io"

	"golang.org/x/sys/unix"

	"github.com/muxd/muxd/internal/fd"
)

// Policy says what becomes of bytes that a branch does not take.
type Policy int

const (
	Block      Policy = iota // the stream waits, and with it every other branch
	DropOldest               // a queue of a pipe's size keeps the latest; what is older is dropped
	DropNewest               // what does not fit into the branch is dropped
)

// Branch is a pipe that a stream is copied into.
type Branch struct {
	Key    string // tells it from the others of its source, for ever
	Policy Policy
	To     *fd.FD // the pipe's write end; the Fan takes ownership
}

// branch is a Branch that is being served. What it holds goes on in this order: stage, queue, pipe. FanSource.mu guards it.
type branch struct {
	Branch
	s       *FanSource
	b       int // its number in the slot
	slot    branchSlot
	stage   *stage // nil: nothing has come since it was empty
	queue   *stage // of DropOldest, once the pipe was full
	grown   bool
	leaving bool          // it gets nothing more, and is gone when it holds nothing
	gone    chan struct{} // closed when its pipe is
}

// holds is how many bytes have not come to the branch's pipe.
func (b *branch) holds() int { return b.stage.room() + b.queue.room() }

// blocks says whether the stream must wait for the branch.
func (b *branch) blocks() bool { return b.stage.room() > 0 && !b.leaving }

// drain moves on what the branch holds, by its policy.
func (b *branch) drain() error {
	for _, st := range []*stage{b.queue, b.stage} {
		if st.room() == 0 {
			continue
		}
		n, err := st.drain(b.To.Int())
		if errors.Is(err, unix.EPIPE) { // nobody reads it any more, so it must not hold up the others
			return b.discard()
		}
		if err != nil {
			return fmt.Errorf("branch %s: %w", b.Key, err)
		}
		if n > 0 {
			b.s.fan.step(StepDrained)
		}
		if st.n > 0 {
			break
		}
	}
	b.giveBack(&b.queue)
	if b.stage.room() == 0 {
		return nil
	}
	switch b.Policy {
	case DropNewest:
		return b.drop(roleStage, 0)
	case DropOldest:
		return b.enqueue()
	}
	return nil
}

// enqueue moves the stage's bytes into the queue, from which the oldest go where it is full.
func (b *branch) enqueue() error {
	if b.queue == nil {
		if b.queue = b.s.fan.take(binding{b.s.k, b.b, roleQueue}); b.queue == nil {
			return b.drop(roleStage, 0) // out of descriptors
		}
	}
	for {
		n, err := b.stage.drain(b.queue.w.Int())
		b.queue.n += n
		if err != nil {
			return fmt.Errorf("branch %s: %w", b.Key, err)
		}
		if n > 0 {
			b.s.fan.step(StepQueued)
		}
		if b.stage.n == 0 {
			return nil
		}
		if b.queue.n == 0 {
			return fmt.Errorf("branch %s: put %d bytes into its queue: %w", b.Key, b.stage.n, io.ErrNoProgress)
		}
		if err := b.drop(roleQueue, max(b.queue.n-b.stage.n, 0)); err != nil {
			return err
		}
	}
}

// drop throws the oldest bytes of the stage or the queue away, until rest are left, and counts them.
func (b *branch) drop(role, rest int) error {
	b.slot.drops(b.in(role).n-rest, rest, role)
	b.s.fan.step(StepDrops)
	return b.dropping(role, rest)
}

// dropping does what is recorded.
func (b *branch) dropping(role, rest int) error {
	if err := b.in(role).shrink(rest, b.s.fan.null.Int()); err != nil {
		return err
	}
	b.s.fan.step(StepDropped)
	b.slot.told()
	b.s.fan.step(StepTold)
	b.s.h.Dropped(b.Key, b.slot.dropped())
	return nil
}

// in is what the branch has in a role, nil where that is nothing.
func (b *branch) in(role int) *stage {
	if role == roleQueue {
		return b.queue
	}
	return b.stage
}

// discard ends a branch with what it holds.
func (b *branch) discard() error {
	b.leaving = true
	for _, st := range []*stage{b.queue, b.stage} {
		if err := st.shrink(0, b.s.fan.null.Int()); err != nil {
			return err
		}
	}
	return nil
}

// giveBack returns an empty stage to the Fan.
func (b *branch) giveBack(st **stage) {
	if *st != nil && (*st).n == 0 {
		b.s.fan.give(*st)
		*st = nil
	}
}

// close closes the branch's pipe, and forgets the branch where it is not to come again.
func (b *branch) close(forget bool) {
	b.giveBack(&b.queue)
	b.giveBack(&b.stage)
	b.s.fan.unwatch(b.To)
	b.To.Close()
	if forget {
		b.slot.free()
	}
	close(b.gone)
}

// speedUp enlarges the branch's pipes, as far as the kernel allows.
func (b *branch) speedUp() {
	most := b.s.fan.most
	if st := b.stage; st != nil && st.size < most {
		st.size = resize(st.r.Int(), most)
	}
	if !b.grown && capacity(b.To.Int()) < most {
		resize(b.To.Int(), most)
	}
	b.grown = true
}
