package stage

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/muxd/muxd/internal/fd"
)

// Fan copies streams, each into several pipes, its branches. The bytes never enter the process: splice(2) moves what a
// source has into a stage of one branch, which consumes it, and tee(2) copies it from there into the stages of the others.
// From its stage a branch is drained by its policy, when all have the chunk. How much is where is what the kernel says of
// the pipes (FIONREAD), which the keeper holds too, so that a successor knows what has been done, whatever died.
//
// No call of this file blocks on a stream: a few goroutines step all sources, and an idle source has none.
type Fan struct {
	mem  *fanMemory
	ep   *fd.FD
	wake *fd.FD // eventfd: kicked has something, or the Fan is closed
	null *fd.FD
	park Park
	step func(Step)
	work sync.WaitGroup
	most int // bytes that a busy source's pipes are enlarged to

	mu      sync.Mutex // taken after FanSource.mu, where both are
	sources []*FanSource
	free    []int // freed slots below len(sources)
	known   map[string]int
	left    map[binding]*stage // a predecessor's, with bytes of a source that was not added yet
	spare   []*stage
	all     []*stage
	starved []*FanSource // waiting for a spare stage
	kicked  []*FanSource
	closed  bool
	gen     int32
}

// Names under which a Fan parks what a successor needs: stages have their number behind theirs.
const (
	ParkFan      = "fan/"
	parkFanState = ParkFan + "state"
	parkFanStage = ParkFan + "stage/"
)

// Steps of a Fan, done.
const (
	StepMoving  Step = "moving"  // it is recorded that a chunk is on the way into the stages
	StepFirst   Step = "first"   // the first stage has it, and the source has it no more
	StepTeed    Step = "teed"    // one more stage has it
	StepCounted Step = "counted" // that is recorded
	StepDrained Step = "drained" // bytes went from a stage on to its branch
	StepQueued  Step = "queued"  // bytes went from a stage into the queue of its branch
	StepDrops   Step = "drops"   // it is recorded what is going to be dropped
	StepNoted   Step = "noted"   // where it will be missing stands in the memory that the branch's sink has
	StepDropped Step = "dropped" // it is
	StepTold    Step = "told"    // and counted
	StepSaves   Step = "saves"   // it is recorded that bytes are on the way from a stage into the branch's file
	StepSaved   Step = "saved"   // they stand there
	StepLoads   Step = "loads"   // it is recorded that bytes are on the way from the file into the queue
	StepLoaded  Step = "loaded"  // they are in the queue
	StepFiled   Step = "filed"   // what stands in the file is recorded
)

// FanHandler is told of a source. Its methods must not call the source's.
type FanHandler interface {
	// Eof says that the stream has ended, after so many bytes.
	Eof(bytes uint64)
	// Dropped says that a branch has lost so many bytes of the stream until now.
	Dropped(branch string, bytes uint64)
	// Done says that nothing more will be called, and that the branches are closed.
	Done(bytes uint64, err error)
}

// NewFan makes a Fan. Close ends it. Options.Parked may hold an Engine's too: only what a Fan parked is taken from it, and
// NewFan takes ownership of that.
func NewFan(o Options) (*Fan, error) {
	f := &Fan{most: pipeBig, park: o.Park, step: o.Step, known: map[string]int{}, left: map[binding]*stage{}}
	if f.park == nil {
		f.park = func(string, ...int) error { return nil }
	}
	if f.step == nil {
		f.step = func(Step) {}
	}
	if err := f.begin(o); err != nil {
		f.closeAll()
		return nil, err
	}
	for range min(runtime.GOMAXPROCS(0), 4) {
		f.work.Go(f.loop)
	}
	return f, nil
}

func (f *Fan) begin(o Options) error {
	n, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return fmt.Errorf("make an epoll set: %w", err)
	}
	f.ep = fd.New(n)
	if n, err = unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK); err != nil {
		return fmt.Errorf("make an eventfd: %w", err)
	}
	f.wake = fd.New(n)
	ev := unix.EpollEvent{Events: unix.EPOLLIN, Fd: -1}
	if err := unix.EpollCtl(f.ep.Int(), unix.EPOLL_CTL_ADD, f.wake.Int(), &ev); err != nil {
		return fmt.Errorf("watch the eventfd: %w", err)
	}
	if n, err = unix.Open(os.DevNull, unix.O_WRONLY|unix.O_CLOEXEC, 0); err != nil {
		return fmt.Errorf("open %s: %w", os.DevNull, err)
	}
	f.null = fd.New(n)
	if len(o.Parked[parkFanState]) == 1 {
		return f.adopt(o)
	}
	if f.mem, err = newFanMemory(); err != nil {
		return err
	}
	if err := f.park(parkFanState, f.mem.file.Int()); err != nil {
		return fmt.Errorf("park the state memory: %w", err)
	}
	return nil
}

// Repark parks again all that the Fan has parked.
func (f *Fan) Repark() error {
	if err := f.park(parkFanState, f.mem.file.Int()); err != nil {
		return fmt.Errorf("park the state memory: %w", err)
	}
	f.mu.Lock()
	all := append([]*stage(nil), f.all...)
	f.mu.Unlock()
	for _, st := range all {
		if err := f.parkStage(st); err != nil {
			return err
		}
	}
	return nil
}

func (f *Fan) parkStage(st *stage) error {
	if err := f.park(parkFanStage+strconv.Itoa(st.i), st.r.Int(), st.w.Int()); err != nil {
		return fmt.Errorf("park a stage: %w", err)
	}
	return nil
}

// Close gives up every source and waits for the goroutines.
func (f *Fan) Close() error {
	f.mu.Lock()
	sources := append([]*FanSource(nil), f.sources...)
	f.mu.Unlock()
	for _, s := range sources {
		if s != nil {
			s.GiveUp()
		}
	}
	return f.stop()
}

// stop ends the goroutines, and closes everything that the Fan has.
func (f *Fan) stop() error {
	f.mu.Lock()
	f.closed = true
	f.mu.Unlock()
	f.ring()
	f.work.Wait()
	for _, s := range f.sources {
		if s != nil {
			s.src.Close()
		}
	}
	return f.closeAll()
}

func (f *Fan) closeAll() error {
	for _, st := range f.all {
		st.close()
	}
	fd.CloseAll([]*fd.FD{f.ep, f.wake, f.null})
	if f.mem == nil {
		return nil
	}
	return f.mem.close()
}

// ring wakes a loop.
func (f *Fan) ring() { unix.Write(f.wake.Int(), []byte{1, 0, 0, 0, 0, 0, 0, 0}) }

// kick has a loop step s.
func (f *Fan) kick(s *FanSource) {
	f.mu.Lock()
	f.kicked = append(f.kicked, s)
	f.mu.Unlock()
	f.ring()
}

// loop steps the sources that something has happened to. After a short read it leaves a source alone for batchWait, so that
// small writes merge, and goes on with others. It blocks in epoll_wait(2), outside Go's netpoller.
func (f *Fan) loop() {
	events := make([]unix.EpollEvent, 64)
	var later, ready []*FanSource
	var due time.Time
	for {
		timeout := -1
		if len(later) > 0 {
			timeout = max(int(batchWait/time.Millisecond), 1)
		}
		n, err := unix.EpollWait(f.ep.Int(), events, timeout)
		if err != nil && !errors.Is(err, unix.EINTR) {
			panic(fmt.Sprintf("epoll_wait: %v", err)) // only a closed descriptor can do that
		}
		ready = ready[:0]
		f.mu.Lock()
		if f.closed {
			f.mu.Unlock()
			return
		}
		for _, ev := range events[:max(n, 0)] {
			if ev.Fd < 0 {
				unix.Read(f.wake.Int(), make([]byte, 8))
				ready = append(ready, f.kicked...)
				f.kicked = nil
				continue
			}
			// A source that was forgotten since has another generation in its slot, or none.
			if s := f.sources[ev.Fd]; s != nil && s.gen == ev.Pad {
				ready = append(ready, s)
			}
		}
		f.mu.Unlock()
		if len(later) > 0 && !time.Now().Before(due) {
			ready = append(ready, later...)
			later = later[:0]
		}
		for _, s := range ready {
			if !s.turn() {
				continue
			}
			if len(later) == 0 {
				due = time.Now().Add(batchWait)
			}
			later = append(later, s)
		}
	}
}

// take returns an empty stage that is bound to b; nil where there is none to be had.
func (f *Fan) take(b binding) *stage {
	f.mu.Lock()
	var st *stage
	if n := len(f.spare); n > 0 {
		st = f.spare[n-1]
		f.spare = f.spare[:n-1]
	} else if i := len(f.all); i < fanStagesMost {
		var err error
		if st, err = newStage(i); err == nil {
			f.all = append(f.all, st)
		}
	}
	f.mu.Unlock()
	if st == nil {
		return nil
	}
	if !st.parked {
		if f.parkStage(st) != nil {
			f.give(st)
			return nil
		}
		st.parked = true
	}
	f.mem.bind(st.i, b)
	return st
}

// prepare makes stages until there are n of them, so that sources of n branches flow, one after the other, even when
// descriptors have run out.
func (f *Fan) prepare(n int) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	for len(f.all) < n {
		st, err := newStage(len(f.all))
		if err != nil {
			return err
		}
		f.all = append(f.all, st)
		f.spare = append(f.spare, st)
	}
	return nil
}

// give takes an empty stage back, and wakes the sources that wait for one.
func (f *Fan) give(st *stage) {
	f.mem.bind(st.i, binding{slot: -1})
	f.mu.Lock()
	f.spare = append(f.spare, st)
	starved := len(f.starved) > 0
	f.kicked = append(f.kicked, f.starved...)
	f.starved = nil
	f.mu.Unlock()
	if starved {
		f.ring()
	}
}
