package sink

import (
	"errors"
	"os"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/muxd/muxd/internal/fd"
)

// Input takes what a child shall read as its stdin. Its methods may be called from different goroutines.
type Input struct {
	file   *os.File
	stage  *inputStage // of an input that is a socket; nil: it is a pipe
	closed func()      // told once, when the child can be given end-of-file
	once   sync.Once
}

// newInput takes ownership of f, the write end of a pipe or a stream socket, and sets O_NONBLOCK on it. closed is called when the input has
// been closed: muxd has a copy of f, and gives the child its end-of-file then.
func newInput(f *fd.FD, closed func()) (*Input, error) {
	if err := unix.SetNonblock(f.Int(), true); err != nil {
		f.Close()
		return nil, err
	}
	return &Input{file: f.File("stdin"), closed: closed}, nil
}

// NewInput makes an input without muxd, for the tests of a sink. It takes ownership of f, the write end of a pipe.
func NewInput(f *os.File) (*Input, error) {
	d, err := fd.FromFile(f)
	if err != nil {
		return nil, err
	}
	return newInput(d, func() {})
}

// Write blocks until the child, or the pipe before it, has taken all of p. After Close, and once the child has
// exited or closed its stdin, it returns an error.
func (in *Input) Write(p []byte) (int, error) {
	if in.stage != nil {
		in.stage.mu.Lock()
		defer in.stage.mu.Unlock()
		if err := in.stage.drain(in.file); err != nil {
			return 0, err
		}
	}
	return in.file.Write(p)
}

// ErrInputOver says that the child takes no more input: Close was called, or the child has exited or closed its stdin.
var ErrInputOver = errors.New("the child takes no more input")

// over says whether the input was closed, or nobody has its other end any more: then poll(2) tells of an error.
func (in *Input) over() bool {
	over := true
	raw, err := in.file.SyscallConn()
	if err != nil {
		return true
	}
	raw.Control(func(n uintptr) { // an error: it is closed
		p := []unix.PollFd{{Fd: int32(n)}}
		got, err := unix.Poll(p, 0)
		over = err == nil && got == 1 && p[0].Revents&(unix.POLLERR|unix.POLLHUP) != 0
	})
	return over
}

// SpliceFrom moves what stands in c, a stream socket or pipe with O_NONBLOCK, to the child, and returns when c
// has ended (nil), when c fails or its deadline passes (its error), or when the child takes no more (ErrInputOver).
// The bytes go from the socket to the pipe in one system call each time and are in no process's memory, so where this one
// is killed they are in the one or the other. It blocks while there is nothing, and while the child does not read.
// It does not close the input.
func (in *Input) SpliceFrom(c syscall.Conn) error {
	from, err := c.SyscallConn()
	if err != nil {
		return err
	}
	to, err := in.file.SyscallConn()
	if err != nil {
		return ErrInputOver
	}
	if in.stage != nil {
		return in.stage.spliceFrom(from, in.file)
	}
	for {
		n, spliceErr := 0, error(nil)
		// Waits for c to have something, and then for the pipe to have room: EAGAIN does not say which of them is missing.
		err := from.Read(func(src uintptr) bool {
			if ready, pollErr := pollNow(int(src), unix.POLLIN); pollErr != nil || !ready {
				return pollErr != nil
			}
			if toErr := to.Control(func(dst uintptr) { n, spliceErr = spliceInput(int(src), int(dst)) }); toErr != nil {
				spliceErr = ErrInputOver
			}
			return true
		})
		switch {
		case err != nil:
			return err
		case errors.Is(spliceErr, unix.EAGAIN):
			err := to.Write(func(dst uintptr) bool {
				ready, pollErr := pollNow(int(dst), unix.POLLOUT)
				return ready || pollErr != nil
			})
			if err != nil {
				return ErrInputOver
			}
		case errors.Is(spliceErr, unix.EPIPE), errors.Is(spliceErr, ErrInputOver):
			return ErrInputOver
		case spliceErr != nil:
			return os.NewSyscallError("splice", spliceErr)
		case n == 0:
			return nil
		}
	}
}

// spliceMost is how much is moved to a child at once: as much as a pipe holds.
const spliceMost = 64 << 10

func spliceInput(src, dst int) (int, error) {
	for {
		n, err := unix.Splice(src, nil, dst, nil, spliceMost, unix.SPLICE_F_NONBLOCK|unix.SPLICE_F_MOVE)
		if !errors.Is(err, unix.EINTR) {
			return int(n), err
		}
	}
}

// Close gives the child end-of-file, and ends a Write or SpliceFrom that waits for the child. A second Close does nothing.
func (in *Input) Close() error {
	err := in.file.Close()
	if errors.Is(err, os.ErrClosed) {
		return nil
	}
	in.once.Do(in.closed)
	return err
}
