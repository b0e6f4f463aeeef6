package stage

import (
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// The file of a branch that spills is a ring. A stage is spliced into it, so that what is left in the stage says how much stands in the
// file. What comes out of it is read and written into the queue, a private pipe, and not spliced: a pipe would get the file's own pages, which
// the next round of the ring writes over. In either case nothing else moves until what has been moved counts.

// spilled is how much stands in the branch's file.
func (b *branch) spilled() int {
	if b.Policy != Spill {
		return 0
	}
	head, tail := b.slot.file()
	return int(tail - head)
}

// save moves the stage's bytes into the file, from which the oldest go where it is full. Where the file cannot be written they are dropped.
func (b *branch) save() error {
	for b.stage.n > 0 {
		if room := int(b.Size) - b.spilled(); room < b.stage.n {
			if err := b.drop(roleFile, int(b.Size)-b.stage.n); err != nil {
				return err
			}
		}
		head, tail := b.slot.file()
		at := int64(tail % uint64(b.Size))
		b.slot.moves(branchSaves, b.stage.n)
		b.s.fan.step(StepSaves)
		n, err := unix.Splice(b.stage.r.Int(), nil, b.File.Int(), &at, int(min(int64(b.stage.n), b.Size-at)), unix.SPLICE_F_MOVE)
		for errors.Is(err, unix.EINTR) {
			n, err = unix.Splice(b.stage.r.Int(), nil, b.File.Int(), &at, int(min(int64(b.stage.n), b.Size-at)), unix.SPLICE_F_MOVE)
		}
		b.stage.n -= max(int(n), 0)
		b.s.fan.step(StepSaved)
		b.slot.moved(head, tail+uint64(max(n, 0)))
		b.s.fan.step(StepFiled)
		if err == nil && n == 0 {
			err = io.ErrNoProgress
		}
		if err != nil {
			fmt.Fprintf(os.Stderr, "branch %s: write its spill file: %v; what did not fit is dropped\n", b.Key, err)
			return b.drop(roleStage, 0)
		}
	}
	return nil
}

// load moves the file's oldest bytes into the empty queue, and says whether there are some now: out of descriptors, there are not. Where the
// file cannot be read they are dropped.
func (b *branch) load() (some bool, err error) {
	if b.queue == nil {
		if b.queue = b.s.fan.take(binding{b.s.k, b.b, roleQueue}); b.queue == nil {
			return false, nil
		}
	}
	head, tail := b.slot.file()
	b.slot.moves(branchLoads, 0)
	b.s.fan.step(StepLoads)
	err = b.read(head, int(min(tail-head, uint64(b.queue.size))))
	b.s.fan.step(StepLoaded)
	b.slot.moved(head+uint64(b.queue.n), tail)
	b.s.fan.step(StepFiled)
	if err != nil {
		fmt.Fprintf(os.Stderr, "branch %s: read its spill file: %v; what stands there is dropped\n", b.Key, err)
		return b.queue.n > 0, b.drop(roleFile, 0)
	}
	return true, nil
}

// spillPiece is how much is read of a file at a time.
const spillPiece = 64 << 10

// read puts n bytes of the file, from position from, into the empty queue, or as many as that takes.
func (b *branch) read(from uint64, n int) error {
	buf := make([]byte, min(n, spillPiece))
	for n > 0 {
		at := int64(from % uint64(b.Size))
		part := buf[:min(int64(n), spillPiece, b.Size-at)]
		k, err := unix.Pread(b.File.Int(), part, at)
		if err == nil && k == 0 {
			err = io.ErrUnexpectedEOF
		}
		if err == nil {
			k, err = unix.Write(b.queue.w.Int(), part[:k])
		}
		if errors.Is(err, unix.EAGAIN) {
			return nil
		}
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return err
		}
		from, n, b.queue.n = from+uint64(k), n-k, b.queue.n+k
	}
	return nil
}

// finishMoving ends what a predecessor was moving between stage, file and queue: what has left the one, or come to the other, was moved.
func (b *branch) finishMoving() {
	head, tail := b.slot.file()
	switch how, staged := b.slot.moving(); how {
	case branchSaves:
		b.slot.moved(head, tail+uint64(staged-b.stage.room()))
	case branchLoads:
		b.slot.moved(head+uint64(b.queue.room()), tail)
	}
}
