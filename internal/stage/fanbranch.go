package stage

import (
	"cmp"
	"errors"
	"fmt"
	"io"

	"golang.org/x/sys/unix"

	"github.com/muxd/muxd/internal/fd"
	"github.com/muxd/muxd/internal/gaps"
)

// Policy says what becomes of bytes that a branch does not take.
type Policy int

const (
	Block      Policy = iota // the stream waits, and with it every other branch
	DropOldest               // a queue of a pipe's size keeps the latest; what is older is dropped
	DropNewest               // what does not fit into the branch is dropped
	Spill                    // a file keeps it; what is oldest there is dropped when the file is full
)

// Branch is a pipe that a stream is copied into.
type Branch struct {
	Key    string // tells it from the others of its source, for ever
	Policy Policy
	To     *fd.FD       // the pipe's write end; the Fan takes ownership
	Gaps   *gaps.Memory // where its sink finds what was dropped; may be nil, and the Fan takes ownership
	File   *fd.FD       // of Spill: a file for it alone, of Size bytes at least; the Fan takes ownership
	Size   int64        // of File, SpillLeast at least
}

// SpillLeast is how large the file of a branch that spills is at least, so that what a stage holds fits.
const SpillLeast = pipeBig

// Close closes what a Branch brings.
func (b *Branch) Close() {
	b.To.Close()
	b.Gaps.Close()
	b.File.Close()
}

// check says why b cannot be served; least is how large its file is at least.
func (b *Branch) check(least int64) error {
	if b.Key == "" || len(b.Key) > branchKeyMost {
		return fmt.Errorf("key of %d bytes for a branch, want 1 to %d", len(b.Key), branchKeyMost)
	}
	if _, err := unix.FcntlInt(uintptr(b.To.Int()), unix.F_GETPIPE_SZ, 0); err != nil {
		return fmt.Errorf("branch %s is no pipe: %w", b.Key, err)
	}
	if b.Policy != Spill {
		return nil
	}
	var st unix.Stat_t
	if err := unix.Fstat(b.File.Int(), &st); err != nil || st.Mode&unix.S_IFMT != unix.S_IFREG || b.Size < least || st.Size < b.Size {
		return fmt.Errorf("the file of branch %s has %d bytes, of %d that it shall have: %w", b.Key, st.Size, b.Size, cmp.Or(err, error(unix.EINVAL)))
	}
	return nil
}

// branch is a Branch that is being served. What it holds goes on in this order: stage, file, queue, pipe. FanSource.mu guards it.
type branch struct {
	Branch
	s       *FanSource
	b       int // its number in the slot
	slot    branchSlot
	stage   *stage // nil: nothing has come since it was empty
	queue   *stage // of DropOldest and Spill, once the pipe was full
	grown   bool
	leaving bool          // it gets nothing more, and is gone when it holds nothing
	gone    chan struct{} // closed when its pipe is
}

// holds is how many bytes have not come to the branch's pipe.
func (b *branch) holds() int { return b.stage.room() + b.spilled() + b.queue.room() }

// blocks says whether the stream must wait for the branch.
func (b *branch) blocks() bool { return b.stage.room() > 0 && !b.leaving }

// drain moves on what the branch holds, by its policy.
func (b *branch) drain() error {
	err := b.passOnAll()
	if errors.Is(err, unix.EPIPE) { // nobody reads it any more, so it must not hold up the others
		return b.discard()
	}
	if err != nil {
		return fmt.Errorf("branch %s: %w", b.Key, err)
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
	case Spill:
		return b.save()
	}
	return nil
}

// passOnAll moves what the branch holds into its pipe, in order, as far as there is room.
func (b *branch) passOnAll() error {
	empty, err := b.passOn(b.queue)
	for n := 0; err == nil && empty && b.spilled() > 0; n++ {
		if n == roundsMost {
			return nil // there is room, and so another turn
		}
		var some bool
		if some, err = b.load(); err != nil || !some {
			return err
		}
		empty, err = b.passOn(b.queue)
	}
	if err == nil && empty {
		_, err = b.passOn(b.stage)
	}
	return err
}

// passOn is passOnAll for one stage. It says whether that is empty now.
func (b *branch) passOn(st *stage) (empty bool, err error) {
	if st.room() == 0 {
		return true, nil
	}
	n, err := st.drain(b.To.Int())
	if n > 0 {
		b.s.fan.step(StepDrained)
	}
	return st.n == 0, err
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

// drop throws the oldest bytes of what has that role away, until rest are left, and counts them.
func (b *branch) drop(role, rest int) error {
	n := b.in(role)
	gap := b.s.slot.committed() - b.slot.begin() - b.slot.dropped() // what has come to the branch, and
	for _, behind := range []int{roleStage, roleFile, roleQueue} {
		gap -= uint64(b.in(behind)) // less what is not in its pipe when what is in front of the gap is
		if behind == role {
			break
		}
	}
	b.slot.drops(n-rest, rest, role, gap)
	b.s.fan.step(StepDrops)
	return b.dropping()
}

// dropping does what is recorded.
func (b *branch) dropping() error {
	role, rest, gap, total, _ := b.slot.dropping()
	if b.Gaps != nil {
		b.Gaps.Note(gap, total)
	}
	b.s.fan.step(StepNoted)
	if role != roleFile {
		if err := b.staged(role).shrink(rest, b.s.fan.null.Int()); err != nil {
			return err
		}
	}
	b.s.fan.step(StepDropped)
	b.slot.told()
	b.s.fan.step(StepTold)
	b.s.h.Dropped(b.Key, b.slot.dropped())
	return nil
}

// in is how much the branch has in a role.
func (b *branch) in(role int) int {
	if role == roleFile {
		return b.spilled()
	}
	return b.staged(role).room()
}

// staged is the stage that the branch has in a role, nil where there is none.
func (b *branch) staged(role int) *stage {
	if role == roleQueue {
		return b.queue
	}
	return b.stage
}

// discard ends a branch with what it holds.
func (b *branch) discard() error {
	b.leaving = true
	if _, tail := b.slot.file(); b.spilled() > 0 {
		b.slot.moved(tail, tail)
	}
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
	b.Close()
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
