package stage

import (
	"encoding/binary"
	"fmt"
	"runtime"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/muxd/muxd/internal/fd"
)

// stepHalf is a step of the test's own: the handler has put out a part of the chunk.
const stepHalf Step = "half put"

var steps = []Step{StepBound, StepFilled, StepLooked, StepTaken, stepHalf, StepPut, StepWritten, StepConsumed, StepCommitted}

// unseenSteps are those of a source whose chunks are moved.
var unseenSteps = []Step{StepBound, StepFilled, StepLooked, StepTaken, StepMoved, StepPut, StepWritten, StepConsumed, StepCommitted}

// crash says where a process dies: at the n-th time that it comes to a step. The zero value lets it live.
type crash struct {
	at Step
	n  int
}

// onwardSteps are those of a source with a branch.
var onwardSteps = []Step{StepTaken, StepPut, StepWritten, StepPassed, StepConsumed, StepCommitted}

// disk is what outlives all processes: the output, what is parked, and the source. Of an unseen source the output is a pipe;
// and what is put out may also go into one.
type disk struct {
	mu         sync.Mutex
	unseen     bool
	out        []byte
	outR, outW *fd.FD
	parked     map[string][]*fd.FD
	src        *fd.FD
	gaps       *fd.FD // of a source that is a branch
}

// put is how much has been put out.
func (d *disk) put() uint64 {
	if !d.unseen {
		return uint64(len(d.out))
	}
	n, _ := pending(d.outR.Int())
	return uint64(n)
}

func (d *disk) park(name string, fds ...int) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, n := range fds {
		f, err := fd.Dup(n)
		if err != nil {
			return err
		}
		d.parked[name] = append(d.parked[name], f)
	}
	return nil
}

// copies returns copies of what is parked, as a keeper gives them out.
func (d *disk) copies(t *testing.T) map[string][]*fd.FD {
	d.mu.Lock()
	defer d.mu.Unlock()
	out := map[string][]*fd.FD{}
	for name, fds := range d.parked {
		for _, f := range fds {
			c, err := f.Dup()
			if err != nil {
				t.Fatal(err)
			}
			out[name] = append(out[name], c)
		}
	}
	return out
}

// process is an engine that dies by never taking another step: its worker waits until the test is over, and ends then.
type process struct {
	disk  *disk
	crash crash
	died  chan struct{}
	over  <-chan struct{}
	done  chan error
	seen  int
}

func (p *process) step(s Step) {
	if s != p.crash.at {
		return
	}
	if p.seen++; p.seen == p.crash.n {
		close(p.died)
		<-p.over
		runtime.Goexit()
	}
}

// Chunk appends to the disk, in two halves, and knows from its intent what a predecessor has appended.
func (p *process) Chunk(c *Chunk) error {
	d := p.disk
	d.mu.Lock()
	from := 0
	if mark := c.Slot.Intent(); c.Again && mark != nil {
		from = len(d.out) - int(binary.LittleEndian.Uint64(mark))
	} else {
		c.Slot.SetIntent(binary.LittleEndian.AppendUint64(nil, uint64(len(d.out))))
	}
	count := 0
	if s := c.Slot.State(); s != nil {
		count = int(s[0])
	}
	c.Slot.SetState([]byte{byte(count + 1)})
	half := max(from, len(c.Data)/2)
	d.out = append(d.out, c.Data[from:half]...)
	d.mu.Unlock()
	p.step(stepHalf)
	d.mu.Lock()
	d.out = append(d.out, c.Data[half:]...)
	d.mu.Unlock()
	return nil
}

func (p *process) Held(error) {}

// mover is a process whose chunks are unseen. It moves each in two halves.
type mover struct{ *process }

func (m mover) Chunk(c *Chunk) error {
	if put := m.disk.put(); c.Offset != put {
		return fmt.Errorf("a chunk at %d, where %d bytes are put out", c.Offset, put)
	}
	for half := c.Left() / 2; c.Left() > 0; half = c.Left() {
		if _, err := c.Move(m.disk.outW.Int(), half); err != nil {
			return err
		}
	}
	return nil
}

func (p *process) Eof(uint64) {}

func (p *process) Done(_ uint64, err error) { p.done <- err }

// run starts a process and returns when it has died, or is done.
func (d *disk) run(t *testing.T, at crash, over <-chan struct{}) (finished bool) {
	p := &process{disk: d, crash: at, died: make(chan struct{}), over: over, done: make(chan error, 1)}
	e, err := New(Options{Park: d.park, Parked: d.copies(t), Step: p.step})
	if err != nil {
		t.Fatal(err)
	}
	src, err := d.src.Dup()
	if err != nil {
		t.Fatal(err)
	}
	add, h := e.Add, Handler(p)
	switch {
	case d.unseen:
		add, h = e.AddUnseen, mover{p}
	case d.gaps != nil:
		h = lossy{p}
		memory, err := d.gaps.Dup()
		if err != nil {
			t.Fatal(err)
		}
		add = func(src *fd.FD, key string, h Handler) (*Source, error) {
			return e.AddLossy(src, key, h, false, memory)
		}
	case d.outR != nil:
		to, err := d.outW.Dup()
		if err != nil {
			t.Fatal(err)
		}
		add = func(src *fd.FD, key string, h Handler) (*Source, error) {
			return e.AddInto(src, key, h, []Branch{{Key: "log", To: to}})
		}
	}
	s, err := add(src, "source", h)
	if err != nil {
		t.Fatal(err)
	}
	select {
	case <-p.died:
		t.Cleanup(func() { e.Close() }) // after over, when its worker has ended
		return false
	case err := <-p.done:
		if err != nil {
			t.Fatal(err)
		}
		if got := s.Committed(); d.gaps == nil && got != d.put() {
			t.Errorf("%d bytes are committed, and %d put out", got, d.put())
		}
		e.Close()
		return true
	}
}

// Every step of every chunk, and in the recovery from there every step again, is a place to die. Whatever happens, each
// byte is put out once.
func TestCrashAtEveryStep(t *testing.T) { crashEverywhere(t, steps, false, false) }

// The same where the bytes are moved without being looked at.
func TestCrashAtEveryStepUnseen(t *testing.T) { crashEverywhere(t, unseenSteps, true, true) }

// The same where the bytes go on into a branch when they are put out: each comes there once too.
func TestCrashAtEveryStepIntoABranch(t *testing.T) { crashEverywhere(t, onwardSteps, false, true) }

func crashEverywhere(t *testing.T, steps []Step, unseen, pipe bool) {
	input := strings.Repeat("0123456789abcdef", 12<<10) // three stages full
	var firsts []crash
	for _, s := range steps {
		for n := 1; n <= 4; n++ {
			firsts = append(firsts, crash{s, n})
		}
	}
	for _, first := range firsts {
		for _, second := range append([]crash{{}}, firsts...) {
			t.Run(fmt.Sprintf("%s %d, %s %d", first.at, first.n, second.at, second.n), func(t *testing.T) {
				t.Parallel()
				over := make(chan struct{})
				d := &disk{unseen: unseen, parked: map[string][]*fd.FD{}}
				r, w, err := fd.Pipe()
				if err != nil {
					t.Fatal(err)
				}
				resize(w.Int(), pipeBig)
				if _, err := unix.Write(w.Int(), []byte(input)); err != nil {
					t.Fatal(err)
				}
				w.Close()
				d.src = r
				if pipe {
					if d.outR, d.outW, err = fd.Pipe(); err != nil {
						t.Fatal(err)
					}
					resize(d.outW.Int(), pipeBig)
				}
				t.Cleanup(func() {
					fd.CloseAll([]*fd.FD{r, d.outR, d.outW})
					for _, fds := range d.parked {
						fd.CloseAll(fds)
					}
				})
				defer close(over)
				if !d.run(t, first, over) && !d.run(t, second, over) {
					d.run(t, crash{}, over)
				}
				if !unseen && string(d.out) != input {
					t.Errorf("%d bytes came out of %d, or not the same", len(d.out), len(input))
				}
				if pipe {
					out := make([]byte, len(input)+1)
					n, err := unix.Read(d.outR.Int(), out)
					if err != nil {
						t.Fatal(err)
					}
					if string(out[:n]) != input {
						t.Errorf("%d bytes came through of %d, or not the same", n, len(input))
					}
				}
			})
		}
	}
}
