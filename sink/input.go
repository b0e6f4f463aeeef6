package sink

import (
	"io"
	"os"

	"golang.org/x/sys/unix"

	"github.com/muxd/muxd/internal/fd"
)

// Input takes what a child shall read as its stdin. Write and Close may be called from different goroutines.
type Input struct {
	file *os.File
}

// newInput takes ownership of f, the write end of a pipe, and sets O_NONBLOCK on it.
func newInput(f *fd.FD) (*Input, error) {
	if err := unix.SetNonblock(f.Int(), true); err != nil {
		f.Close()
		return nil, err
	}
	return &Input{f.File("stdin")}, nil
}

// Write blocks until the child, or the pipe before it, has taken all of p. After Close, and once the child has
// exited or closed its stdin, it returns an error.
func (in *Input) Write(p []byte) (int, error) { return in.file.Write(p) }

// ReadFrom copies r to the child until r ends or the child takes no more. It does not close the input.
func (in *Input) ReadFrom(r io.Reader) (int64, error) { return io.Copy(in.file, r) }

// Close gives the child end-of-file, and ends a blocked Write. A second Close does nothing.
func (in *Input) Close() error { return in.file.Close() }
