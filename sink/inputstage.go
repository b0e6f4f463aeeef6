package sink

import (
	"errors"
	"os"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/muxd/muxd/internal/fd"
)

// inputStage is a pipe between what feeds a child's stdin and a stdin that is a socket, since splice(2) moves nothing from one socket
// to another. It is parked: what is in it when this process is killed its successor passes on.
type inputStage struct {
	mu    sync.Mutex // held while anything is in the pipe
	r, w  *fd.FD
	files []*os.File // the same, as they are parked
}

// parkedInput is the tag under which it is parked.
const parkedInput = "muxd-stdin"

// stageInput gives the input of an opening a stage, or that of a predecessor, where it is a socket.
func (o *opening) stageInput(in *Input) error {
	raw, err := in.file.SyscallConn()
	if err != nil {
		return err
	}
	socket := false
	raw.Control(func(n uintptr) {
		_, err := unix.GetsockoptInt(int(n), unix.SOL_SOCKET, unix.SO_DOMAIN)
		socket = err == nil
	})
	if !socket {
		return nil
	}
	st := &inputStage{files: o.pub.Parked(parkedInput)}
	in.stage = st
	if len(st.files) != 2 {
		r, w, err := fd.Pipe()
		if err != nil {
			return err
		}
		st.files = append(st.files, r.File(parkedInput), w.File(parkedInput))
	}
	if st.r, err = fd.DupFile(st.files[0]); err != nil {
		return err
	}
	if st.w, err = fd.DupFile(st.files[1]); err != nil {
		return err
	}
	return o.pub.Park(parkedInput, st.files[0], st.files[1])
}

// spliceFrom is Input.SpliceFrom by way of the stage.
func (st *inputStage) spliceFrom(from syscall.RawConn, to *os.File) error {
	if err := st.pass(to, nil); err != nil {
		return err
	}
	for {
		n, spliceErr := 0, error(nil)
		err := from.Read(func(src uintptr) bool {
			if ready, pollErr := pollNow(int(src), unix.POLLIN); pollErr != nil || !ready {
				return pollErr != nil
			}
			return true
		})
		if err != nil {
			return err
		}
		passErr := st.pass(to, func() {
			err = from.Control(func(src uintptr) { n, spliceErr = spliceInput(int(src), st.w.Int()) })
		})
		switch {
		case passErr != nil:
			return passErr
		case err != nil:
			return err
		case errors.Is(spliceErr, unix.EAGAIN): // another reader of the same socket was first
		case spliceErr != nil:
			return os.NewSyscallError("splice", spliceErr)
		case n == 0:
			return nil
		}
	}
}

// pass has fill fill the empty pipe, and moves what it has put there on. It blocks while the child does not read.
func (st *inputStage) pass(to *os.File, fill func()) error {
	st.mu.Lock()
	defer st.mu.Unlock()
	err := st.drain(to)
	if err == nil && fill != nil {
		fill()
		err = st.drain(to)
	}
	if err != nil {
		return ErrInputOver
	}
	return nil
}

// drain moves all that is in the pipe to the child. mu is held.
func (st *inputStage) drain(to *os.File) error {
	raw, err := to.SyscallConn()
	if err != nil {
		return err
	}
	for {
		n, err := unix.IoctlGetInt(st.r.Int(), unix.TIOCINQ)
		if err != nil || n == 0 {
			return err
		}
		var spliceErr error
		if err := raw.Write(func(dst uintptr) bool {
			_, spliceErr = spliceInput(st.r.Int(), int(dst))
			return !errors.Is(spliceErr, unix.EAGAIN)
		}); err != nil {
			return err
		}
		if spliceErr != nil {
			return spliceErr
		}
	}
}

func (st *inputStage) close() {
	if st != nil {
		fd.CloseAll([]*fd.FD{st.r, st.w})
		for _, f := range st.files {
			f.Close()
		}
	}
}
