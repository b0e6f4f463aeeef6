package sink

import (
	"context"
	"errors"
	"io"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/muxd/muxd/internal/fd"
	"github.com/muxd/muxd/internal/stage"
)

// RawSink is a sink that reads far ends itself.
type RawSink interface {
	// Read reads a stream until far says that it is over (io.EOF), and returns when all that it has read is where it belongs. It is called once
	// for each output stream, by a goroutine of its own. An error ends the stream for good (failed). It returns when ctx is done:
	// muxd gives the stream up, or the process ends and a successor reads on.
	Read(ctx context.Context, far *Far) error

	// Close is called once, when no other call is being made and none will be.
	Close() error
}

// Far is the far end of an output stream: what its child writes. One goroutine uses it at a time.
type Far struct {
	Stream Stream

	src  *stage.Source
	file *os.File // a copy of the far end
	raw  syscall.RawConn

	turn chan struct{} // capacity 1: full while the sink has something in hand, and during a pause
	mine bool          // turn is the sink's

	mu    sync.Mutex // for what follows
	cut   bool       // what can be read without waiting is the rest
	quit  bool       // nothing more is read
	leave int        // farStays, farAsked or farLeft
}

// What a far end has been told of leaving.
const (
	farStays = iota
	farAsked
	farLeft
)

// Offset is how much of the stream Put has counted, in all processes that had it.
func (f *Far) Offset() uint64 { return f.src.Committed() }

// Put counts n bytes as being where they belong: muxd shows their number, and the next process knows it by Offset. What was read
// and not counted at the end of the stream is missing from what muxd tells of it.
func (f *Far) Put(n int) { f.src.Count(uint64(n)) }

// Read reads what comes next. It blocks until something does. io.EOF: the stream has ended, or goes on elsewhere.
// context.Canceled: it is given up.
func (f *Far) Read(b []byte) (n int, err error) {
	if len(b) == 0 {
		return 0, nil
	}
	waitErr := f.Wait(func(fd uintptr) bool {
		for {
			n, err = unix.Read(int(fd), b)
			if err != unix.EINTR {
				return err != unix.EAGAIN
			}
		}
	})
	switch {
	case waitErr != nil:
		return 0, waitErr
	case err != nil:
		return 0, os.NewSyscallError("read", err)
	case n == 0:
		return 0, io.EOF
	}
	return n, nil
}

// Wait calls take with the descriptor of the far end, which is non-blocking and stays the SDK's, for whatever takes something out of it other than Read:
// splice(2), say. Where take returns false, since nothing is there (EAGAIN), it is called again when something is. io.EOF: nothing will
// be, or the stream goes on elsewhere. context.Canceled: it is given up. The end of the stream itself take sees by what it calls. Wait blocks, and says by being called that the sink has
// nothing more in hand of what it took before.
func (f *Far) Wait(take func(fd uintptr) bool) error {
	f.letGo()
	for {
		end, last := f.state()
		if end != nil {
			return end
		}
		if last {
			took := false
			f.raw.Control(func(fd uintptr) { took = f.try(fd, take) })
			if !took {
				return io.EOF
			}
			return nil
		}
		err := f.raw.Read(func(fd uintptr) bool {
			end, last := f.state()
			return end != nil || last || f.try(fd, take)
		})
		switch {
		case f.mine:
			return nil
		case err != nil && !errors.Is(err, os.ErrDeadlineExceeded):
			return err
		}
	}
}

// try has take called, unless there is a pause.
func (f *Far) try(fd uintptr, take func(fd uintptr) bool) bool {
	f.turn <- struct{}{}
	f.mine = true
	if end, _ := f.state(); end != nil || !take(fd) {
		f.letGo()
	}
	return f.mine
}

func (f *Far) letGo() {
	if f.mine {
		f.mine = false
		<-f.turn
	}
}

// state says why nothing more is to be taken, or that only what can be without waiting is. Who is asked to leave does so here.
func (f *Far) state() (end error, last bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.leave == farAsked {
		f.leave = farLeft
	}
	switch {
	case f.quit:
		return context.Canceled, true
	case f.leave == farLeft:
		return io.EOF, true
	}
	return nil, f.cut
}

// tell changes what state says, and wakes whoever waits.
func (f *Far) tell(change func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	change()
	f.file.SetReadDeadline(time.Unix(1, 0))
}

// pause has nothing more taken, and returns when nothing is in hand. It ends by itself after pauseFor.
func (f *Far) pause(ctx context.Context) error {
	select {
	case f.turn <- struct{}{}:
		time.AfterFunc(pauseFor, func() { <-f.turn })
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// rawSource is the source of a flow that a RawSink reads.
type rawSource struct {
	*stage.Source
	far *Far
}

func (r rawSource) Cut()    { r.far.tell(func() { r.far.cut = true }) }
func (r rawSource) GiveUp() { r.far.tell(func() { r.far.quit = true }) }

func (r rawSource) Leave() {
	r.far.tell(func() {
		if r.far.leave == farStays {
			r.far.leave = farAsked
		}
	})
}

// Stay takes a Leave back. It says false where the stream is left already.
func (r rawSource) Stay() bool {
	r.far.mu.Lock()
	defer r.far.mu.Unlock()
	if r.far.leave == farAsked {
		r.far.leave = farStays
		if !r.far.cut && !r.far.quit {
			r.far.file.SetReadDeadline(time.Time{})
		}
	}
	return r.far.leave == farStays
}

func (r rawSource) Forget() {
	r.far.file.Close()
	r.Source.Forget()
}

// readRaw takes ownership of far, and has sink read it.
func (o *opening) readRaw(sink RawSink, far *fd.FD, st Stream) error {
	eng, err := o.srv.engine()
	if err != nil {
		far.Close()
		return err
	}
	src, err := eng.AddUnread(far, o.pub.ID+"/"+st.String())
	if err != nil {
		return err
	}
	own, err := src.Dup()
	if err != nil {
		src.Forget()
		return err
	}
	f := &Far{Stream: st, src: src, file: own.File("far end of " + st.String()), turn: make(chan struct{}, 1)}
	if f.raw, err = f.file.SyscallConn(); err != nil {
		f.file.Close()
		src.Forget()
		return err
	}
	fl := &flow{op: o, stream: st}
	o.flowing(fl, rawSource{src, f})
	go func() {
		err := sink.Read(o.ctx, f)
		f.letGo()
		if err == nil {
			fl.Eof(src.Committed())
		}
		fl.Done(src.Committed(), err)
	}()
	return nil
}

// pauseRaw pauses every far end that a RawSink reads.
func (s *server) pauseRaw(ctx context.Context) error {
	s.mu.Lock()
	var all []*Far
	for _, o := range s.openings {
		for _, f := range o.flows {
			if r, ok := f.src.(rawSource); ok && !f.flushed && f.failed == "" {
				all = append(all, r.far)
			}
		}
	}
	s.mu.Unlock()
	for _, f := range all {
		if err := f.pause(ctx); err != nil {
			return err
		}
	}
	return nil
}
