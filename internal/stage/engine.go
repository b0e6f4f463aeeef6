// Package stage reads streams for sinks such that a process killed at any moment neither loses nor doubles a byte.
//
// What a source gives is spliced into a stage, a pipe whose content only its reader can change. It is looked at
// with tee(2), put out, and only then consumed; each step is recorded in memory that outlives the process (see
// memory.go), so that a successor knows which step was the last. All sources of a process share one epoll set
// of their own, outside Go's netpoller, and a few workers: an idle source costs a descriptor and a struct.
package stage

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/muxd/muxd/internal/fd"
	"github.com/muxd/muxd/internal/gaps"
)

// Chunk is a piece of a stream.
type Chunk struct {
	Offset uint64 // in the stream, of the first byte that is left of the chunk
	Data   []byte // valid until Handler.Chunk returns; nil of a source that was added unseen
	Time   time.Time
	Last   bool   // the stream has ended, and Data is empty
	Again  bool   // a killed predecessor had this chunk
	Missed uint64 // bytes of the stream that are missing before it, since it is a branch's
	Slot   Slot

	left int   // of an unseen chunk, what has not been moved
	pair *pair // of an unseen chunk: it has its bytes
	step func(Step)
}

// Handler is what a source's bytes go to. Its methods are called by one goroutine at a time, and in this order: Chunk any
// number of times, Eof, Chunk once with Last set, and then Done. After an error of Chunk only Done is called.
type Handler interface {
	// Chunk puts a chunk out. It may block, and should return when the source is given up (Source.Done).
	Chunk(c *Chunk) error
	// Eof says that the stream has ended, after so many bytes.
	Eof(bytes uint64)
	// Held says that the stream's next chunk is not handed over, since it crashed process after process: the stream waits until it
	// is given up, or until a successor tries again.
	Held(why error)
	// Done says that nothing more will be called: nil after the last chunk, or the error that ended the stream.
	Done(bytes uint64, err error)
}

// Engine reads sources and hands their bytes to handlers.
type Engine struct {
	began time.Time
	mem   *memory
	ep    *fd.FD
	watch *os.File // ep, once more, in Go's netpoller
	wake  *fd.FD   // eventfd that ends the epoll loop
	null  *fd.FD
	loop  sync.WaitGroup
	extra sync.WaitGroup // workers

	mu      sync.Mutex
	sources []*Source // by slot; nil: free
	free    []int     // freed slots below len(sources)
	ready   []*Source
	idle    *sync.Cond // workers wait here for ready sources
	waiting int        // workers in idle.Wait
	coming  bool       // one was called and has not come yet
	resting []*Source  // that are left alone, by when they began to
	napping bool       // a worker waits until they are to be looked at
	workers int
	pairs   []*pair        // without a worker
	made    int            // pairs that there are, or are being made
	all     []*pair        // every pair, with a worker or without
	known   map[string]int // slots of a predecessor's sources that were not added yet, by key
	left    map[int]*pair  // by slot: a predecessor's, with bytes of a source that was not added yet
	park    Park
	step    func(Step)
	turn    chan struct{} // capacity 1: whoever tries a chunk that is suspect
	closed  bool
	gen     int32

	terminals  bool // some of the sources are, or were
	suspicious bool // the predecessor crashed
	serving    int  // workers that have a source
	count      counters

	paused *time.Timer   // ends the pause; nil: there is none
	calm   chan struct{} // closed when there is a pause and serving is 0
}

// permanent is how many workers stay when there is nothing to do. Up to workersMost are started while others are blocked
// in handlers; beyond it, streams stay where they are, in their own pipe.
func permanent() int { return min(runtime.GOMAXPROCS(0), 4) }

const mostWorkers = 128

// Park has somebody hold copies of descriptors under a name, so that they outlive this process. It does not take
// ownership, and returns when they are safe.
type Park func(name string, fds ...int) error

// Names under which an engine parks what a successor needs: pairs have their number behind theirs.
const (
	ParkState = "state"
	ParkPair  = "pair/"
)

// Step is a step of the staging protocol, done.
type Step string

const (
	StepBound     Step = "bound"     // the stage is recorded as the source's
	StepFilled    Step = "filled"    // the stage has bytes of the source
	StepLooked    Step = "looked"    // they have been read through the scratch
	StepTaken     Step = "taken"     // the chunk is recorded
	StepMoved     Step = "moved"     // a part of an unseen chunk has left the stage
	StepPut       Step = "put"       // the handler has put it out
	StepWritten   Step = "written"   // that is recorded
	StepPassed    Step = "passed"    // a part of it has left the stage for the way onward
	StepConsumed  Step = "consumed"  // the stage is empty again
	StepCommitted Step = "committed" // the chunk counts
	StepEmpty     Step = "empty"     // there was nothing to read
)

// Options are what an engine begins with.
type Options struct {
	// Park may be nil: then nothing outlives the process.
	Park Park
	// Parked is what a predecessor parked, by name. New takes ownership.
	Parked map[string][]*fd.FD
	// Step is called between any two steps of the staging protocol, by whoever takes them. It is for tests, which stop the
	// process there; nil: nobody is told.
	Step func(Step)
	// Crashed says that the predecessor ended by itself, perhaps over one of the chunks that it had.
	Crashed bool
	// Live says of a source's key whether it will be added again. The slots of others are freed.
	Live func(key string) bool
}

// New makes an engine. Close ends it.
func New(o Options) (*Engine, error) {
	e := &Engine{began: time.Now(), park: o.Park, step: o.Step, known: map[string]int{}, left: map[int]*pair{}, turn: make(chan struct{}, 1)}
	e.idle = sync.NewCond(&e.mu)
	if e.park == nil {
		e.park = func(string, ...int) error { return nil }
	}
	if e.step == nil {
		e.step = testSteps()
	}
	err := e.begin(o)
	for _, fds := range o.Parked {
		fd.CloseAll(fds) // what was not adopted
	}
	if err != nil {
		for _, p := range e.pairs {
			p.close()
		}
		for _, p := range e.left {
			p.close()
		}
		fd.CloseAll([]*fd.FD{e.ep, e.wake, e.null})
		e.watch.Close()
		if e.mem != nil {
			e.mem.close()
		}
		return nil, err
	}
	e.loop.Add(1)
	go e.poll()
	return e, nil
}

func (e *Engine) begin(o Options) error {
	n, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return fmt.Errorf("make an epoll set: %w", err)
	}
	e.ep = fd.New(n)
	if e.watch, err = watch(e.ep); err != nil {
		return err
	}
	if n, err = unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK); err != nil {
		return fmt.Errorf("make an eventfd: %w", err)
	}
	e.wake = fd.New(n)
	ev := unix.EpollEvent{Events: unix.EPOLLIN, Fd: -1}
	if err := unix.EpollCtl(e.ep.Int(), unix.EPOLL_CTL_ADD, e.wake.Int(), &ev); err != nil {
		return fmt.Errorf("watch the eventfd: %w", err)
	}
	if n, err = unix.Open(os.DevNull, unix.O_WRONLY|unix.O_CLOEXEC, 0); err != nil {
		return fmt.Errorf("open %s: %w", os.DevNull, err)
	}
	e.null = fd.New(n)
	if len(o.Parked[ParkState]) == 1 {
		return e.adopt(o)
	}
	if e.mem, err = newMemory(); err != nil {
		return err
	}
	if err := e.park(ParkState, e.mem.file.Int()); err != nil {
		return fmt.Errorf("park the state memory: %w", err)
	}
	// One pair is made ahead, so that streams flow, one after the other, even when descriptors have run out.
	e.made = 1
	p, err := e.newPair(0)
	if err != nil {
		return err
	}
	e.pairs = append(e.pairs, p)
	return nil
}

// Pause has no worker begin another chunk, and returns when none has one in hand, or ctx is done. After most it is over, if this process
// has not ended by then.
func (e *Engine) Pause(ctx context.Context, most time.Duration) error {
	e.mu.Lock()
	if e.paused != nil {
		e.paused.Stop()
	}
	e.paused = time.AfterFunc(most, e.goOn)
	if e.calm == nil {
		e.calm = make(chan struct{})
	}
	calm := e.calm
	e.tellCalm()
	e.mu.Unlock()
	select {
	case <-calm:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// tellCalm closes calm where nothing is in hand. e.mu is held.
func (e *Engine) tellCalm() {
	if e.paused != nil && e.serving == 0 && e.calm != nil {
		close(e.calm)
		e.calm = nil
	}
}

// goOn ends a pause.
func (e *Engine) goOn() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.paused = nil
	e.idle.Broadcast()
}

func (e *Engine) isPaused() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.paused != nil
}

// Repark parks again all that the engine has parked.
func (e *Engine) Repark() error {
	if err := e.park(ParkState, e.mem.file.Int()); err != nil {
		return fmt.Errorf("park the state memory: %w", err)
	}
	e.mu.Lock()
	all := append([]*pair(nil), e.all...)
	e.mu.Unlock()
	for _, p := range all {
		if err := e.park(ParkPair+strconv.Itoa(p.i), fd.Ints(p.fds())...); err != nil {
			return fmt.Errorf("park a stage: %w", err)
		}
	}
	return nil
}

// newPair makes and parks pair i. Repark knows of it before it is parked: nobody may be there to park it with, and somebody else come
// before it is put to use.
func (e *Engine) newPair(i int) (*pair, error) {
	p, err := newPair(i)
	if err != nil {
		return nil, err
	}
	e.mu.Lock()
	e.all = append(e.all, p)
	e.mu.Unlock()
	if err := e.park(ParkPair+strconv.Itoa(i), fd.Ints(p.fds())...); err != nil {
		e.mu.Lock()
		e.all = slices.DeleteFunc(e.all, func(o *pair) bool { return o == p })
		e.mu.Unlock()
		p.close()
		return nil, fmt.Errorf("park a stage: %w", err)
	}
	return p, nil
}

// Close gives up every source and waits for the workers. Handlers that are blocked must return by then.
func (e *Engine) Close() error {
	e.mu.Lock()
	e.closed = true
	sources := append([]*Source(nil), e.sources...)
	e.idle.Broadcast()
	e.mu.Unlock()
	for _, s := range sources {
		if s != nil {
			s.giveUp()
		}
	}
	unix.Write(e.wake.Int(), []byte{1, 0, 0, 0, 0, 0, 0, 0})
	e.loop.Wait()
	e.extra.Wait()
	for _, s := range sources {
		if s != nil {
			s.src.Close()
			s.gaps.Close()
			s.endOnward()
		}
	}
	for _, p := range e.pairs {
		p.close()
	}
	for _, p := range e.left {
		p.close()
	}
	fd.CloseAll([]*fd.FD{e.ep, e.wake, e.null})
	e.watch.Close()
	return e.mem.close()
}

// ErrTooMany says that the engine has no room for another source.
var ErrTooMany = fmt.Errorf("%d streams are open, and no more fit: %w", slotsMost, unix.ENOSPC)

// Add takes ownership of src, a pipe's read end, a connected stream socket or a PTY master, on which it sets O_NONBLOCK, and
// begins to read it. A source whose key a predecessor knew goes on where that one was: first with what is in its stage.
func (e *Engine) Add(src *fd.FD, key string, h Handler) (*Source, error) {
	return e.add(src, key, h, with{})
}

// AddLossy is Add, or AddUnseen, for the pipe of a branch that may drop, whose chunks tell what is missing before them. It takes ownership of
// memory, which says so.
func (e *Engine) AddLossy(src *fd.FD, key string, h Handler, unseen bool, memory *fd.FD) (*Source, error) {
	m, err := gaps.Map(memory)
	if err != nil {
		src.Close()
		return nil, err
	}
	s, err := e.add(src, key, h, with{unseen: unseen, gaps: m})
	if err != nil {
		m.Close()
	}
	return s, err
}

// AddInto is Add for a stream that goes on into branches, of which there is one at most, from its beginning, or from where a predecessor's
// went on. It takes ownership of their pipes.
func (e *Engine) AddInto(src *fd.FD, key string, h Handler, branches []Branch) (*Source, error) {
	var out *onward
	err := fmt.Errorf("%d branches for a stream that is put out, which has one at most", len(branches))
	if len(branches) == 1 {
		out, err = newOnward(branches[0])
	}
	if err != nil && len(branches) > 0 {
		src.Close()
		for _, b := range branches {
			b.To.Close()
		}
		return nil, err
	}
	s, err := e.add(src, key, h, with{out: out})
	if err != nil && out != nil {
		out.to.Close()
	}
	return s, err
}

// AddUnseen is Add for a handler that moves bytes without looking at them: its chunks have no Data, but Move.
func (e *Engine) AddUnseen(src *fd.FD, key string, h Handler) (*Source, error) {
	return e.add(src, key, h, with{unseen: true})
}

// with is what a source has besides.
type with struct {
	unseen bool
	out    *onward
	gaps   *gaps.Memory
}

func (e *Engine) add(src *fd.FD, key string, h Handler, o with) (*Source, error) {
	if err := checkKey(key); err != nil {
		src.Close()
		return nil, err
	}
	if err := unix.SetNonblock(src.Int(), true); err != nil {
		src.Close()
		return nil, fmt.Errorf("set O_NONBLOCK on a stream: %w", err)
	}
	s := &Source{
		eng: e, src: src, h: h, pipeSize: capacity(src.Int()), unseen: o.unseen, out: o.out, gaps: o.gaps,
	}
	if _, err := unix.FcntlInt(uintptr(src.Int()), unix.F_GETPIPE_SZ, 0); err != nil { // a socket, or a terminal
		s.lone, s.noGrow = ptyLone, true
		_, err := unix.IoctlGetInt(src.Int(), unix.TIOCGPTN)
		s.pty = err == nil
		s.unix = isUnix(src.Int())
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.terminals = e.terminals || s.pty
	if e.closed {
		src.Close()
		return nil, errors.New("the engine is closed")
	}
	if !e.place(s, key) {
		src.Close()
		return nil, ErrTooMany
	}
	if s.gaps != nil && s.slot.begin() < 0 {
		s.slot.setBegin(s.gaps.Begin())
	}
	e.gen++
	s.gen = e.gen
	s.state = armed
	ev := s.event()
	if s.resume = e.left[s.k]; s.resume != nil || s.slot.load()&phaseMask == phaseEnded {
		ev.Events = unix.EPOLLONESHOT // what it left comes first
	}
	if err := unix.EpollCtl(e.ep.Int(), unix.EPOLL_CTL_ADD, src.Int(), &ev); err != nil {
		e.sources[s.k] = nil
		e.free = append(e.free, s.k)
		src.Close()
		return nil, fmt.Errorf("watch a stream: %w", err)
	}
	delete(e.left, s.k)
	if ev.Events == unix.EPOLLONESHOT {
		e.queue(s)
	}
	return s, nil
}

func checkKey(key string) error {
	if key == "" || len(key) > keyMost {
		return fmt.Errorf("key of %d bytes for a stream, want 1 to %d", len(key), keyMost)
	}
	return nil
}

// place finds the slot of a source: its own of before, or a free one. e.mu is held.
func (e *Engine) place(s *Source, key string) bool {
	if k, ok := e.known[key]; ok {
		delete(e.known, key)
		s.k, s.slot = k, e.mem.slot(k)
		e.sources[k] = s
		return true
	}
	switch {
	case len(e.free) > 0:
		s.k = e.free[len(e.free)-1]
		e.free = e.free[:len(e.free)-1]
	case len(e.sources) == slotsMost:
		return false
	default:
		s.k = len(e.sources)
		e.sources = append(e.sources, nil)
	}
	e.sources[s.k] = s
	s.slot = e.mem.claim(s.k, key)
	return true
}

// watch returns another descriptor of the epoll set ep, owned by the caller, in Go's netpoller.
func watch(ep *fd.FD) (*os.File, error) {
	again, err := ep.Dup()
	if err == nil {
		err = unix.SetNonblock(again.Int(), true) // what os.NewFile knows a descriptor for the netpoller by
	}
	if err != nil {
		again.Close()
		return nil, fmt.Errorf("watch an epoll set: %w", err)
	}
	return again.File("epoll set"), nil
}

// poll is the epoll loop: it moves sources that have something to the ready list. Go's netpoller waits for the epoll set as a whole
// (epoll(7): a set can be in another), which is ready only when a source is that somebody waits for: were the sources
// themselves in the netpoller, it would wake the process for every write of a child even while nobody waits for it. A goroutine that the
// netpoller wakes goes on in the thread that was woken, and so does the worker that it wakes; one that is blocked in epoll_wait(2) has to
// get hold of a processor first, and another thread has to take the worker from it.
func (e *Engine) poll() {
	defer e.loop.Done()
	events := make([]unix.EpollEvent, 64)
	n := 0
	raw, err := e.watch.SyscallConn()
	if err != nil {
		panic("stage: " + err.Error()) // the file is open
	}
	wait := func(ep uintptr) bool {
		n, err = epollNow(int(ep), events)
		return n != 0
	}
	for {
		if readErr := raw.Read(wait); readErr != nil {
			panic(fmt.Sprintf("wait for an epoll set: %v", readErr)) // only a closed descriptor can do that
		}
		if n < 0 {
			panic(fmt.Sprintf("epoll_wait: %v", err)) // and that
		}
		e.mu.Lock()
		if e.closed {
			e.mu.Unlock()
			return
		}
		for _, ev := range events[:max(n, 0)] {
			if ev.Fd < 0 {
				continue
			}
			// A source that was forgotten since has another generation in its slot, or none.
			s := e.sources[ev.Fd]
			switch {
			case s == nil || s.gen != ev.Pad:
			case s.state == armed:
				e.queue(s)
			case s.out != nil:
				select {
				case s.out.room <- struct{}{}:
				default:
				}
			}
		}
		e.mu.Unlock()
	}
}

// queue makes s ready, and calls a worker for it. e.mu is held.
func (e *Engine) queue(s *Source) {
	if e.closed {
		return
	}
	s.state = queued
	e.ready = append(e.ready, s)
	e.call()
}

// call has one more worker come, unless one is on its way: that one calls the next where there is work for it. e.mu is held.
func (e *Engine) call() {
	switch {
	case e.coming:
	case e.waiting > 0:
		e.coming = true
		e.idle.Signal()
	case e.workers < mostWorkers:
		e.coming = true
		e.workers++
		e.extra.Add(1)
		go e.work()
	}
}
