package pty

import (
	"context"
	"errors"
	"fmt"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// typing brings what viewers type to the terminal so that a process which is killed over it types nothing twice and loses nothing. What
// is typed goes piece by piece into the stage, a pipe that muxd holds too, and is spliced from there into the master: the kernel takes
// out of the pipe what the terminal has accepted, in one system call (iter_file_splice_write in fs/splice.c), so what the stage
// holds is what is missing. Where the piece belongs stands in the console's memory:
//
//	none ── recorded ──> filling ── in the stage ──> typing ── all of it moved ──> none
//	                        |                           └── the viewer has left ──> dropping ── stage empty ──> none
//	                        └── (killed) the stage is emptied: its viewer types it again ──> none
//
// Each arrow is one atomic store. A successor goes on from there: filling is taken back, typing and dropping are finished.
type typing struct {
	in   *master
	mem  inputMemory
	made func() (*os.File, error) // makes the stage, and parks it
	pipe *os.File                 // the stage; nil: it was not needed yet
	n    int                      // its descriptor
	step func(string)             // for tests, between any two steps
}

// pieceMost is how much of what is typed is in the stage at once: what a write puts into a pipe as a whole, or not at all (PIPE_BUF,
// pipe(7)), and what one page holds.
const pieceMost = 4096

// newStage makes a pipe of one page, whose one descriptor is both of its ends.
func newStage() (*os.File, error) {
	var p [2]int
	if err := unix.Pipe2(p[:], unix.O_CLOEXEC); err != nil {
		return nil, fmt.Errorf("make a pipe: %w", err)
	}
	defer unix.Close(p[0])
	defer unix.Close(p[1])
	both, err := unix.Open(fmt.Sprintf("/proc/self/fd/%d", p[0]), unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open a pipe for both: %w", err)
	}
	unix.FcntlInt(uintptr(both), unix.F_SETPIPE_SZ, pieceMost) // an error: it stays larger
	return os.NewFile(uintptr(both), "stage of what is typed"), nil
}

// use has t take ownership of the stage f.
func (t *typing) use(f *os.File) error {
	raw, err := f.SyscallConn()
	if err != nil {
		return err
	}
	t.pipe = f
	return raw.Control(func(n uintptr) { t.n = int(n) })
}

// close closes the stage. What is in it is a successor's.
func (t *typing) close() error {
	if t.pipe == nil {
		return nil
	}
	return t.pipe.Close()
}

// typed types p, which the typist who has at offset of its input, or with end what ends its input. It blocks while the child does not read,
// until ctx is done (its cause), and then the piece in hand is typed later; or until the client at from has hung up (errLeft).
// An empty who is nobody's whose input could come again.
func (t *typing) typed(ctx context.Context, who []byte, offset uint64, p []byte, end bool, from syscall.RawConn) error {
	if err := t.settle(ctx, from); err != nil {
		return err
	}
	if t.pipe == nil {
		f, err := t.made()
		if err == nil {
			err = t.use(f)
		}
		if err != nil {
			return fmt.Errorf("keep what is typed: %w", err)
		}
	}
	for len(p) > 0 {
		piece := p[:min(len(p), pieceMost)]
		p = p[len(piece):]
		t.step("begin")
		t.mem.record(piece, t.mem.claim(who, offset), offset, end)
		t.step("filling")
		if _, err := again(unix.Write, t.n, piece); err != nil {
			t.mem.clear()
			return fmt.Errorf("keep what is typed: %w", err)
		}
		t.step("filled")
		t.mem.setPhase(phaseTyping)
		t.step("typing")
		if err := t.settle(ctx, from); err != nil {
			return err
		}
		if !end {
			offset += uint64(len(piece))
		}
	}
	return nil
}

// settle finishes the piece that is in hand, if any.
func (t *typing) settle(ctx context.Context, from syscall.RawConn) error {
	switch t.mem.phase() {
	case phaseFilling:
		if err := t.empty(); err != nil {
			return err
		}
		t.step("taken back")
		t.mem.clear()
	case phaseTyping:
		err := t.move(ctx, from)
		switch {
		case errors.Is(err, errLeft):
			if err := t.drop(); err != nil {
				return err
			}
			return errLeft
		case errors.Is(err, unix.EIO): // nobody has the terminal side open (n_tty_write): it drops what is typed
			if err := t.empty(); err != nil {
				return err
			}
		case err != nil:
			return err
		}
		t.step("moved")
		t.mem.commit(t.mem.length(), t.step)
	case phaseDropping:
		if err := t.empty(); err != nil {
			return err
		}
		t.step("dropped")
		t.mem.commit(t.mem.moved(), t.step)
	}
	return nil
}

// drop ends the piece in hand where it is: its viewer has left, and whoever types on is not to wait for it.
func (t *typing) drop() error {
	left, err := t.left()
	if err != nil {
		return err
	}
	t.mem.setMoved(t.mem.length() - left)
	t.step("counted")
	t.mem.setPhase(phaseDropping)
	t.step("dropping")
	return t.settle(context.Background(), nil)
}

// move moves what the stage holds into the master.
func (t *typing) move(ctx context.Context, from syscall.RawConn) error {
	for {
		left, err := t.left()
		if err != nil || left == 0 {
			return err
		}
		_, err = unix.Splice(t.n, nil, t.in.fd, nil, left, unix.SPLICE_F_MOVE)
		t.step("spliced")
		switch {
		case errors.Is(err, unix.EAGAIN):
			err = t.in.wait(ctx, from)
		case errors.Is(err, unix.EINTR):
			continue
		case errors.Is(err, unix.EINVAL): // terminals took no splice in Linux 5.10, until 5.10.11
			return t.copyOut(ctx, from)
		}
		if err != nil {
			return err
		}
	}
}

// copyOut is move where terminals cannot be spliced to. A process that is killed between its read and the end of its write loses what it
// has read.
func (t *typing) copyOut(ctx context.Context, from syscall.RawConn) error {
	buf := make([]byte, pieceMost)
	n, err := again(unix.Read, t.n, buf)
	if err != nil {
		return err
	}
	return t.in.writeAll(ctx, buf[:n], from)
}

// left is how much the stage holds (FIONREAD, pipe(7), which has TIOCINQ's number).
func (t *typing) left() (int, error) {
	if t.pipe == nil {
		return 0, nil
	}
	n, err := unix.IoctlGetInt(t.n, unix.TIOCINQ)
	if err != nil {
		return 0, fmt.Errorf("look at what is typed: %w", err)
	}
	return n, nil
}

// empty throws away what the stage holds.
func (t *typing) empty() error {
	buf := make([]byte, pieceMost)
	for {
		left, err := t.left()
		if err != nil || left == 0 {
			return err
		}
		if _, err := again(unix.Read, t.n, buf); err != nil {
			return fmt.Errorf("drop what is typed: %w", err)
		}
		t.step("emptied")
	}
}
