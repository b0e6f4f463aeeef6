package stage

import (
	"errors"
	"fmt"
	"io"

	"golang.org/x/sys/unix"

	"github.com/muxd/muxd/internal/fd"
)

// stage is a pipe of a Fan's own. It belongs to one branch as long as anything is in it, which the state memory records.
type stage struct {
	i      int // its number, in the state memory and among what is parked
	r, w   *fd.FD
	size   int // capacity, bytes
	n      int // bytes that are in it
	parked bool
}

func newStage(i int) (*stage, error) {
	r, w, err := fd.Pipe()
	if err != nil {
		return nil, err
	}
	st := &stage{i: i, r: r, w: w, size: capacity(r.Int())}
	return st, st.neverBlock()
}

// neverBlock has write(2) take what there is room for. How much that is nobody can tell before: pages that are not full may take no more.
func (st *stage) neverBlock() error {
	if err := unix.SetNonblock(st.w.Int(), true); err != nil {
		st.close()
		return fmt.Errorf("set O_NONBLOCK on a stage: %w", err)
	}
	return nil
}

// adoptStage takes ownership of fds, the two of a predecessor's stage.
func adoptStage(i int, fds []*fd.FD) (*stage, error) {
	if len(fds) != 2 {
		fd.CloseAll(fds)
		return nil, fmt.Errorf("stage %d of a predecessor has %d descriptors, want 2", i, len(fds))
	}
	st := &stage{i: i, r: fds[0], w: fds[1], size: capacity(fds[0].Int()), parked: true}
	var err error
	if st.n, err = pending(st.r.Int()); err != nil {
		st.close()
		return nil, fmt.Errorf("look into stage %d of a predecessor: %w", i, err)
	}
	return st, st.neverBlock()
}

func (st *stage) close() { fd.CloseAll([]*fd.FD{st.r, st.w}) }

// room is how many bytes st holds; 0 where there is no stage.
func (st *stage) room() int {
	if st == nil {
		return 0
	}
	return st.n
}

// copyFrom copies at most n bytes of the pipe src, which keeps them, into the empty stage. It does not block: EAGAIN where
// there is nothing. 0 is the pipe's end.
func (st *stage) copyFrom(src, n int) (int, error) {
	k, err := tee(src, st.w.Int(), n)
	st.n += k
	return k, err
}

// moveFrom is copyFrom for a pipe that does not keep the bytes.
func (st *stage) moveFrom(src, n int) (int, error) {
	k, err := splice(src, st.w.Int(), n)
	st.n += k
	return k, err
}

// drain moves what st holds to the pipe to, as far as there is room for it. It says how much that was.
func (st *stage) drain(to int) (int, error) {
	total := 0
	for st.n > 0 {
		k, err := splice(st.r.Int(), to, st.n)
		if errors.Is(err, unix.EAGAIN) {
			break
		}
		if err == nil && k == 0 {
			err = io.ErrUnexpectedEOF
		}
		if err != nil {
			return total, err
		}
		st.n -= k
		total += k
	}
	return total, nil
}

// shrink throws away the oldest bytes, until rest are left. Of no stage there are none.
func (st *stage) shrink(rest, null int) error {
	for st.room() > rest {
		k, err := splice(st.r.Int(), null, st.n-rest)
		if err == nil && k == 0 {
			err = io.ErrUnexpectedEOF
		}
		if err != nil {
			return fmt.Errorf("empty a stage: %w", err)
		}
		st.n -= k
	}
	return nil
}
