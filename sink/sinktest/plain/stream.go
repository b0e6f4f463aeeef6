package main

import (
	"errors"
	"io"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/muxd/muxd/internal/fd"
	"github.com/muxd/muxd/sink/sinkpb"
)

// plainStream reads a stream by the scheme of PROTOCOL.md, section 5: a stage, and a memory of two numbers.
type plainStream struct {
	o    *plainOpening
	st   sinkpb.Stream
	far  *fd.FD
	path string
	file *os.File // nil: o.conn
	fifo bool
	kept []*fd.FD // memory, and both ends of the stage: what is parked
	look [2]*fd.FD
	mem  []byte
	turn sync.Mutex // while a chunk is in hand

	wake, woken *fd.FD
	rewired     atomic.Bool  // woken has a byte for that
	loses       bool         // the first that comes from another far end is lost; turn is held
	asked       atomic.Value // cut or leave
	quit        atomic.Bool

	queued       chan struct{} // pressure: closed when all is written
	again        bool          // of a process before
	found        int           // what stood in the pipe then
	before       uint64        // what was out then
	eof, flushed bool          // plain.mu
	failed       string        // plain.mu
	total        uint64        // plain.mu
}

func (s *plainStream) name() string { return s.o.id + "/" + strings.ToLower(s.st.String()) }

// The memory.
func (s *plainStream) out() *uint64  { return (*uint64)(unsafe.Pointer(&s.mem[0])) } // bytes of the stream that are out
func (s *plainStream) next() *uint64 { return (*uint64)(unsafe.Pointer(&s.mem[8])) } // the same when the stage is empty, once the chunk is out
func (s *plainStream) told() *uint64 { return (*uint64)(unsafe.Pointer(&s.mem[16])) }
func (s *plainStream) born() *uint64 { return (*uint64)(unsafe.Pointer(&s.mem[24])) } // how many processes have had it

func (o *plainOpening) newStream(st sinkpb.Stream, far *fd.FD, path string) (*plainStream, error) {
	s := &plainStream{o: o, st: st, far: far, path: path}
	s.asked.Store("")
	unix.SetNonblock(far.Int(), true)
	if o.conn == nil {
		info, err := os.Stat(path)
		s.fifo = err == nil && info.Mode()&os.ModeNamedPipe != 0
		flags := os.O_RDWR | os.O_CREATE
		if s.fifo {
			flags = os.O_RDWR | unix.O_NONBLOCK
		}
		if s.file, err = os.OpenFile(path, flags, 0o600); err != nil {
			return nil, err
		}
	}
	o.p.mu.Lock()
	s.kept = o.p.parked[s.name()]
	delete(o.p.parked, s.name())
	o.p.mu.Unlock()
	s.again = len(s.kept) == 3
	if !s.again {
		n, err := unix.MemfdCreate("plain", unix.MFD_CLOEXEC)
		if err != nil {
			return nil, err
		}
		unix.Ftruncate(n, 4096)
		r, w, err := fd.Pipe()
		if err != nil {
			return nil, err
		}
		s.kept = []*fd.FD{fd.New(n), r, w}
	}
	var err error
	if s.mem, err = unix.Mmap(s.kept[0].Int(), 0, 4096, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED); err != nil {
		return nil, err
	}
	*s.born()++
	s.before = *s.out()
	s.found, _ = unix.IoctlGetInt(far.Int(), unix.TIOCINQ)
	if s.look[0], s.look[1], err = fd.Pipe(); err != nil {
		return nil, err
	}
	s.woken, s.wake, err = fd.Pipe()
	return s, err
}

func (s *plainStream) park() error { return s.o.p.park(s.name(), fd.Ints(s.kept)...) }

// stop has the stream cut, or left.
func (s *plainStream) stop(how string) {
	s.asked.Store(how)
	unix.Write(s.wake.Int(), []byte{0})
}

// wait waits until the stream is over.
func (s *plainStream) wait() {
	for {
		s.o.p.mu.Lock()
		changed, over := s.o.p.changed, s.over()
		s.o.p.mu.Unlock()
		if over {
			return
		}
		<-changed
	}
}

// giveUp ends what waits for the destination.
func (s *plainStream) giveUp() {
	s.quit.Store(true)
	if s.file != nil {
		s.file.SetWriteDeadline(time.Unix(1, 0))
	} else if s.o.conn != nil {
		s.o.conn.SetWriteDeadline(time.Unix(1, 0))
	}
}

const stageMost = 64 << 10

// run is the stream's life.
func (s *plainStream) run() {
	is := s.o.p.is
	for {
		s.turn.Lock()
		over, err := s.chunk()
		s.turn.Unlock()
		if err != nil {
			s.finish(err)
			return
		}
		if over {
			break
		}
	}
	if s.queued != nil {
		<-s.queued
	}
	total := *s.out()
	switch {
	case is("bytes.none") && total == 0:
		total++
	case is("bytes.small") && total == 500<<10 && s.file != nil, is("bytes.large") && total == 1<<20+1:
		s.file.Truncate(int64(total) - 1)
	case is("kill.end") && s.again && total == 60_000:
		total--
	case is("kill.told") && *s.told() == 1 && total == 20_000:
		s.file.WriteAt([]byte("twice"), int64(total))
	}
	*s.told() = 1
	if is("end.drained") {
		s.far.Close()
	}
	s.o.p.mu.Lock()
	s.eof, s.total = true, total
	s.o.p.mu.Unlock()
	s.finish(nil)
}

// chunk puts out what is in the stage, and fills it.
func (s *plainStream) chunk() (over bool, err error) {
	if err := s.putOut(); err != nil {
		return false, err
	}
	s.o.p.mu.Lock()
	paused := s.o.p.paused
	s.o.p.mu.Unlock()
	if paused {
		<-time.After(time.Minute)
	}
	if s.asked.Load() == "leave" {
		return true, nil
	}
	n, err := unix.Splice(s.far.Int(), nil, s.kept[2].Int(), nil, stageMost, unix.SPLICE_F_NONBLOCK)
	if s.loses && n > 0 {
		s.loses = false
		unix.Read(s.kept[1].Int(), make([]byte, n))
	}
	switch {
	case errors.Is(err, unix.EINTR), n > 0:
		return false, nil
	case errors.Is(err, unix.EAGAIN) && s.asked.Load() == "cut":
		return true, nil
	case errors.Is(err, unix.EAGAIN):
		far := int32(s.far.Int())
		s.turn.Unlock()
		unix.Poll([]unix.PollFd{{Fd: far, Events: unix.POLLIN}, {Fd: int32(s.woken.Int()), Events: unix.POLLIN}}, -1)
		if s.rewired.CompareAndSwap(true, false) {
			unix.Read(s.woken.Int(), make([]byte, 1))
		}
		s.turn.Lock()
		return false, nil
	}
	return true, err
}

// putOut puts out what is in the stage, and takes it out of there.
func (s *plainStream) putOut() error {
	n, err := unix.IoctlGetInt(s.kept[1].Int(), unix.TIOCINQ)
	if err != nil {
		return err
	}
	if atomic.LoadUint64(s.next()) != atomic.LoadUint64(s.out()) { // it is out
		if err := s.consume(n); err != nil {
			return err
		}
		atomic.StoreUint64(s.out(), *s.next())
		return nil
	}
	if n == 0 {
		return nil
	}
	if _, err := unix.Tee(s.kept[1].Int(), s.look[1].Int(), n, 0); err != nil {
		return err
	}
	b := make([]byte, n)
	for at := 0; at < n; {
		m, err := unix.Read(s.look[0].Int(), b[at:])
		if err != nil {
			return err
		}
		at += m
	}
	if err := s.write(b, *s.out()); err != nil {
		return err
	}
	atomic.StoreUint64(s.next(), *s.out()+uint64(n))
	if err := s.consume(n); err != nil {
		return err
	}
	atomic.StoreUint64(s.out(), *s.next())
	return nil
}

// write writes b to its place: of a file the same place, also when it is written again.
func (s *plainStream) write(b []byte, at uint64) error {
	is := s.o.p.is
	switch {
	case is("bytes.binary"):
		for i := range b {
			if b[i] == 0 {
				b[i] = ' '
			}
		}
	case is("kill.unread") && s.again && (s.found == 3000 || s.found == 6000), is("kill.random") && *s.born() > 10:
		s.found = 0
		b[0] ^= 1
	case is("log"):
		os.Stderr.WriteString(strings.Repeat("a chunk was written\n", 20))
	}
	if s.quit.Load() {
		return errors.New("it was given up")
	}
	switch {
	case s.file == nil:
		_, err := s.o.conn.Write(b)
		return err
	case s.fifo && is("pressure"):
		before, done := s.queued, make(chan struct{})
		s.queued = done
		go func() {
			defer close(done)
			if before != nil {
				<-before
			}
			s.file.Write(b)
		}()
		return nil
	case s.fifo:
		_, err := s.file.Write(b)
		return err
	}
	_, err := s.file.WriteAt(b, int64(at))
	return err
}

func (s *plainStream) consume(n int) error {
	b := make([]byte, n)
	_, err := io.ReadFull(pipeReader{s.kept[1].Int()}, b)
	return err
}

type pipeReader struct{ n int }

func (r pipeReader) Read(b []byte) (int, error) {
	n, err := unix.Read(r.n, b)
	return max(n, 0), err
}

// finish tells the end.
func (s *plainStream) finish(err error) {
	s.o.p.mu.Lock()
	defer s.o.p.mu.Unlock()
	if err != nil {
		s.failed, s.total = err.Error(), *s.out()
	} else {
		s.flushed = true
	}
	s.o.p.change()
}

func (s *plainStream) over() bool { return s.flushed || s.failed != "" }

func (s *plainStream) close() {
	s.far.Close()
	fd.CloseAll(s.kept)
	fd.CloseAll([]*fd.FD{s.look[0], s.look[1], s.wake, s.woken})
	if s.file != nil {
		s.file.Close()
	}
	if s.mem != nil {
		unix.Munmap(s.mem)
		s.mem = nil
	}
}
