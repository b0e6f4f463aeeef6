package sink

import (
	"errors"
	"io"
	"os"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/muxd/muxd/internal/fd"
)

// Input takes what a child shall read as its stdin. Write and Close may be called from different goroutines.
type Input struct {
	file   *os.File
	closed func() // told once, when the child can be given end-of-file
	once   sync.Once
}

// newInput takes ownership of f, the write end of a pipe, and sets O_NONBLOCK on it. closed is called when the input has
// been closed: muxd has a copy of f, and the child gets its end-of-file when that is gone too.
func newInput(f *fd.FD, closed func()) (*Input, error) {
	if err := unix.SetNonblock(f.Int(), true); err != nil {
		f.Close()
		return nil, err
	}
	return &Input{file: f.File("stdin"), closed: closed}, nil
}

// Write blocks until the child, or the pipe before it, has taken all of p. After Close, and once the child has
// exited or closed its stdin, it returns an error.
func (in *Input) Write(p []byte) (int, error) { return in.file.Write(p) }

// ReadFrom copies r to the child until r ends or the child takes no more. It does not close the input.
func (in *Input) ReadFrom(r io.Reader) (int64, error) { return io.Copy(in.file, r) }

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
		over = err == nil && got == 1 && p[0].Revents&unix.POLLERR != 0
	})
	return over
}

// Close gives the child end-of-file, and ends a blocked Write. A second Close does nothing.
func (in *Input) Close() error {
	err := in.file.Close()
	if errors.Is(err, os.ErrClosed) {
		return nil
	}
	in.once.Do(in.closed)
	return err
}
