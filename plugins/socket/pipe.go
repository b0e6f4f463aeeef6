package socket

import (
	"context"
	"errors"
	"fmt"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// pipe is where output waits to be spliced to a connection. Both ends block, and neither is in Go's netpoller.
type pipe struct {
	r, w *os.File
	size int
}

// newPipe makes a pipe of files, which are what an earlier process has parked, or a new one. It takes ownership of them.
func newPipe(files []*os.File) (*pipe, error) {
	var p *pipe
	if len(files) == 2 {
		p = &pipe{r: files[0], w: files[1]}
	} else {
		for _, f := range files {
			f.Close()
		}
		var ends [2]int
		if err := unix.Pipe2(ends[:], unix.O_CLOEXEC); err != nil {
			return nil, fmt.Errorf("make a pipe: %w", err)
		}
		p = &pipe{r: os.NewFile(uintptr(ends[0]), "pipe"), w: os.NewFile(uintptr(ends[1]), "pipe")}
	}
	var err error
	if ctlErr := control(p.r, func(fd int) { p.size, err = unix.FcntlInt(uintptr(fd), unix.F_GETPIPE_SZ, 0) }); ctlErr != nil || err != nil {
		p.close()
		return nil, fmt.Errorf("size of a pipe: %w", errors.Join(ctlErr, err))
	}
	return p, nil
}

func (p *pipe) close() {
	if p != nil {
		p.r.Close()
		p.w.Close()
	}
}

// control calls f with c's descriptor.
func control(c syscall.Conn, f func(fd int)) error {
	raw, err := c.SyscallConn()
	if err != nil {
		return err
	}
	return raw.Control(func(fd uintptr) { f(int(fd)) })
}

// pending is how much is in the pipe (FIONREAD, pipe(7), which has TIOCINQ's number).
func (p *pipe) pending() (n int, err error) {
	ctlErr := control(p.r, func(fd int) { n, err = unix.IoctlGetInt(fd, unix.TIOCINQ) })
	return n, errors.Join(ctlErr, err)
}

// fill empties the pipe and then puts the beginning of b into it: as much as fits. It does not block, since an empty pipe
// takes as many bytes as its size.
func (p *pipe) fill(b []byte) (n int, err error) {
	for {
		left, err := p.pending()
		if err != nil {
			return 0, err
		}
		if left == 0 {
			break
		}
		if _, err := p.r.Read(make([]byte, left)); err != nil {
			return 0, err
		}
	}
	n, err = p.w.Write(b[:min(len(b), p.size)])
	return n, err
}

// drain splices all that is in the pipe to c. It blocks until that is with the kernel, c is dead, or ctx is done.
func (p *pipe) drain(ctx context.Context, c conn) error {
	left, err := p.pending()
	if err != nil {
		return err
	}
	return move(ctx, c, &pipeful{p, left})
}

// pipeful is what is in a pipe, as a chunk that is moved.
type pipeful struct {
	*pipe
	left int
}

func (p *pipeful) Left() int { return p.left }

func (p *pipeful) Move(dst uintptr, n int) (int, error) {
	var k int64
	var err error
	ctlErr := control(p.r, func(fd int) {
		for {
			k, err = unix.Splice(fd, nil, int(dst), nil, n, unix.SPLICE_F_NONBLOCK|unix.SPLICE_F_MOVE)
			if !errors.Is(err, unix.EINTR) {
				return
			}
		}
	})
	if ctlErr != nil {
		return 0, ctlErr
	}
	if err != nil {
		return 0, os.NewSyscallError("splice", err)
	}
	p.left -= int(k)
	return int(k), nil
}
