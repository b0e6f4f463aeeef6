package stage

import (
	"fmt"
	"io"

	"golang.org/x/sys/unix"

	"github.com/muxd/muxd/internal/fd"
)

// Sizes of stage and scratch, and of a busy source's pipe. 1 MiB is fs.pipe-max-size as the kernel has it by
// default; an ordinary user has 64 MiB of pipes in all (fs.pipe-user-pages-soft), after which F_SETPIPE_SZ is EPERM and
// new pipes have two pages (pipe(7)).
const (
	pipeSmall = 64 << 10
	pipeBig   = 1 << 20
)

// pair is a stage and a scratch of equal size. What a source gives goes into the stage, and stays there until it
// is put out; the scratch is where it is looked at.
type pair struct {
	i                  int // its number, in the state memory and among what is parked
	stageR, stageW     *fd.FD
	scratchR, scratchW *fd.FD
	size               int // capacity of each, bytes
	buf                []byte
}

func newPair(i int) (*pair, error) {
	p := &pair{i: i}
	var err error
	if p.stageR, p.stageW, err = fd.Pipe(); err != nil {
		return nil, err
	}
	if p.scratchR, p.scratchW, err = fd.Pipe(); err != nil {
		p.close()
		return nil, err
	}
	p.size = min(capacity(p.stageR.Int()), capacity(p.scratchR.Int()))
	return p, nil
}

// adoptPair takes ownership of fds, the four of a predecessor's pair as fds returns them. What its scratch holds was being
// looked at, and is in the stage as well.
func adoptPair(i int, fds []*fd.FD) (*pair, error) {
	if len(fds) != 4 {
		fd.CloseAll(fds)
		return nil, fmt.Errorf("pair %d of a predecessor has %d descriptors, want 4", i, len(fds))
	}
	p := &pair{i: i, stageR: fds[0], stageW: fds[1], scratchR: fds[2], scratchW: fds[3]}
	p.size = min(capacity(p.stageR.Int()), capacity(p.scratchR.Int()))
	n, err := pending(p.scratchR.Int())
	if err == nil && n > 0 {
		var rest int
		rest, err = unix.Read(p.scratchR.Int(), make([]byte, n))
		if err == nil && rest != n {
			err = io.ErrUnexpectedEOF
		}
	}
	if err != nil {
		p.close()
		return nil, fmt.Errorf("drain the scratch of pair %d: %w", i, err)
	}
	return p, nil
}

// fds lists the pair's descriptors, which it keeps owning.
func (p *pair) fds() []*fd.FD { return []*fd.FD{p.stageR, p.stageW, p.scratchR, p.scratchW} }

func (p *pair) close() { fd.CloseAll(p.fds()) }

// staged is how much is in the stage.
func (p *pair) staged() (int, error) { return pending(p.stageR.Int()) }

// grow makes the pair big, as far as the kernel allows.
func (p *pair) grow() {
	if p.size >= pipeBig {
		return
	}
	// The scratch first: a scratch that is larger than its stage does no harm.
	if n := resize(p.scratchR.Int(), pipeBig); n < pipeBig {
		return
	}
	if n := resize(p.stageR.Int(), pipeBig); n < pipeBig {
		resize(p.scratchR.Int(), p.size)
		return
	}
	p.size = pipeBig
}

// buffer is memory for what the scratch can hold, made when it is first needed.
func (p *pair) buffer() []byte {
	if len(p.buf) < p.size {
		p.buf = make([]byte, p.size)
	}
	return p.buf
}

// fill moves at most n bytes from src into the empty stage. It does not block: EAGAIN where there is nothing. 0 is
// the source's end.
func (p *pair) fill(src, n int) (int, error) { return splice(src, p.stageW.Int(), n) }

// copyIn is fill for a source that cannot be spliced from: a terminal on kernels from 5.10 to 6.4, which had lost
// splice_read for ttys. A process killed between its read and its write loses what it read.
func (p *pair) copyIn(src, n int) (int, error) {
	for {
		k, err := unix.Read(src, p.buffer()[:min(n, p.size)])
		if err == unix.EINTR {
			continue
		}
		if k <= 0 || err != nil {
			return 0, err
		}
		if _, err := unix.Write(p.stageW.Int(), p.buf[:k]); err != nil { // the stage is empty: it takes all
			return 0, fmt.Errorf("fill the stage: %w", err)
		}
		return k, nil
	}
}

// look returns the first bytes of the stage, at most n, without consuming them. They are valid until the next look.
func (p *pair) look(n int) ([]byte, error) {
	p.buffer()
	k, err := tee(p.stageR.Int(), p.scratchW.Int(), n)
	if err != nil {
		return nil, fmt.Errorf("look into the stage: %w", err)
	}
	for got := 0; got < k; {
		r, err := readNow(p.scratchR.Int(), p.buf[got:k])
		switch {
		case err != nil:
			return nil, fmt.Errorf("read the scratch: %w", err)
		case r == 0:
			return nil, fmt.Errorf("read the scratch: %w", io.ErrUnexpectedEOF)
		}
		got += r
	}
	return p.buf[:k], nil
}

// consume takes n bytes out of the stage.
func (p *pair) consume(n int, null int) error {
	for n > 0 {
		k, err := splice(p.stageR.Int(), null, n)
		switch {
		case err != nil:
			return fmt.Errorf("consume the stage: %w", err)
		case k == 0:
			return fmt.Errorf("consume the stage: %w", io.ErrUnexpectedEOF)
		}
		n -= k
	}
	return nil
}

// empty throws away what is in the stage.
func (p *pair) empty() {
	n, err := p.staged()
	for err == nil && n > 0 {
		_, err = unix.Read(p.stageR.Int(), p.buffer())
		if err == nil {
			n, err = p.staged()
		}
	}
}

// capacity is the size of the pipe that n is an end of.
func capacity(n int) int {
	k, err := unix.FcntlInt(uintptr(n), unix.F_GETPIPE_SZ, 0)
	if err != nil {
		return pipeSmall
	}
	return k
}

// resize asks for a capacity and returns what the pipe has afterwards.
func resize(n, size int) int {
	if k, err := unix.FcntlInt(uintptr(n), unix.F_SETPIPE_SZ, size); err == nil {
		return k
	}
	return capacity(n)
}
