package stage

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// Left is how much of an unseen chunk has not been moved.
func (c *Chunk) Left() int { return c.left }

// Move moves the next bytes of an unseen chunk, at most n, to a pipe or socket, and returns how many. They leave the stage
// in the same system call, so that the kernel's count of what is in the stage says at any moment what has been
// moved: splice(2) takes out of a pipe what the other side has accepted, and a signal cannot come between
// (splice_to_socket and splice_pipe_to_pipe in fs/splice.c). It does not block where dst has O_NONBLOCK: EAGAIN.
func (c *Chunk) Move(dst, n int) (int, error) {
	n = min(n, c.left)
	if n <= 0 {
		return 0, nil
	}
	for {
		k, err := unix.Splice(c.pair.stageR.Int(), nil, dst, nil, n, unix.SPLICE_F_NONBLOCK|unix.SPLICE_F_MOVE)
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case err != nil:
			return 0, fmt.Errorf("splice: %w", err)
		}
		c.left -= int(k)
		c.Offset += uint64(k)
		c.step(StepMoved)
		return int(k), nil
	}
}
