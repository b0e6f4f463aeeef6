package stage

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"runtime"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/muxd/muxd/internal/fd"
	"github.com/muxd/muxd/internal/gaps"
)

var fanSteps = []Step{
	StepMoving, StepFirst, StepTeed, StepCounted, StepDrained, StepQueued, StepDrops, StepNoted, StepDropped, StepTold,
	StepSaves, StepSaved, StepLoads, StepLoaded, StepFiled,
}

// outlet is a branch's pipe, and what its reader has got.
type outlet struct {
	policy Policy
	r, w   *fd.FD
	gaps   *fd.FD        // of one that does not block
	file   *fd.FD        // of one that spills
	start  chan struct{} // closed when the reader may begin
	begin  sync.Once
	done   chan struct{}
	got    []byte
}

func newOutlet(t *testing.T, p Policy) *outlet {
	t.Helper()
	o := &outlet{policy: p, start: make(chan struct{}), done: make(chan struct{})}
	var err error
	if o.r, o.w, err = fd.Pipe(); err != nil {
		t.Fatal(err)
	}
	resize(o.w.Int(), 4096)
	if p == Block {
		o.read()
	} else if o.gaps, err = gaps.New(); err != nil {
		t.Fatal(err)
	}
	if p == Spill {
		o.file = spillFile(t)
	}
	go func() {
		defer close(o.done)
		<-o.start
		for b := make([]byte, 3000); ; {
			n, err := unix.Read(o.r.Int(), b)
			if err == unix.EINTR {
				continue
			}
			if n <= 0 {
				return
			}
			o.got = append(o.got, b[:n]...)
		}
	}()
	return o
}

// spillSize is more than a stage, and less than what comes.
const spillSize = pipeSmall + 20000

func spillFile(t *testing.T) *fd.FD {
	t.Helper()
	n, err := unix.Open(os.TempDir(), unix.O_TMPFILE|unix.O_RDWR|unix.O_CLOEXEC, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.Ftruncate(n, spillSize); err != nil {
		t.Fatal(err)
	}
	return fd.New(n)
}

// branch is a Branch with copies of what the outlet has.
func (o *outlet) branch(t *testing.T, key string) Branch {
	t.Helper()
	b := Branch{Key: key, Policy: o.policy}
	dup := func(f *fd.FD) *fd.FD {
		d, err := f.Dup()
		if err != nil {
			t.Fatal(err)
		}
		return d
	}
	b.To = dup(o.w)
	if o.gaps != nil {
		var err error
		if b.Gaps, err = gaps.Map(dup(o.gaps)); err != nil {
			t.Fatal(err)
		}
	}
	if o.file != nil {
		b.File, b.Size = dup(o.file), spillSize
	}
	return b
}

// read has the reader begin.
func (o *outlet) read() { o.begin.Do(func() { close(o.start) }) }

// end waits for the reader. Nobody else may have the write end by then.
func (o *outlet) end() {
	o.w.Close()
	o.read()
	<-o.done
	o.r.Close()
	o.gaps.Close()
	o.file.Close()
}

// fanProcess is a Fan that dies by never taking another step.
type fanProcess struct {
	process
	fan     *Fan
	outlets []*outlet
	eof     uint64
	dropped []uint64
}

func (p *fanProcess) step(s Step) {
	if s != p.crash.at {
		return
	}
	if p.seen++; p.seen == p.crash.n {
		close(p.died)
		<-p.over
		p.fan.sources[0].over = true // for another goroutine of the dead process, which waits for the source
		runtime.Goexit()
	}
}

func (p *fanProcess) Eof(n uint64) {
	p.eof = n
	for _, o := range p.outlets {
		o.read()
	}
}

func (p *fanProcess) Dropped(branch string, n uint64) {
	var i int
	fmt.Sscan(branch, &i)
	p.dropped[i] = n
}

// runFan starts a process and returns when it has died, or is done. Everything of a process that died is closed after over.
func (d *disk) runFan(t *testing.T, at crash, outlets []*outlet, total int, over <-chan struct{}, ended *sync.WaitGroup) (finished bool) {
	t.Helper()
	p := &fanProcess{outlets: outlets, dropped: make([]uint64, len(outlets))}
	p.process = process{disk: d, crash: at, died: make(chan struct{}), over: over, done: make(chan error, 1)}
	f, err := NewFan(Options{Park: d.park, Parked: d.copies(t), Step: p.step})
	if err != nil {
		t.Fatal(err)
	}
	p.fan = f
	f.most = 0 // nothing is enlarged: the pipes stay so small that branches block, and drop
	src, err := d.src.Dup()
	if err != nil {
		t.Fatal(err)
	}
	var branches []Branch
	for i, o := range outlets {
		branches = append(branches, o.branch(t, fmt.Sprint(i)))
	}
	added := make(chan *FanSource, 1)
	ended.Add(1)
	go func() {
		defer ended.Done()
		defer func() {
			<-over
			f.stop()
			for _, b := range branches {
				b.Close()
			}
		}()
		s, err := f.Add(src, "source", branches, p)
		if err != nil {
			t.Error(err)
			runtime.Goexit()
		}
		added <- s
	}()
	select {
	case <-p.died:
		return false
	case err := <-p.done:
		if err != nil {
			t.Fatal(err)
		}
	}
	s := <-added
	if got := s.Committed(); got != uint64(total) || p.eof != got {
		t.Errorf("%d bytes are committed, and eof came after %d, of %d", got, p.eof, total)
	}
	for i, o := range outlets {
		if b := s.slot.branch(i); b.dropped() > 0 && o.policy == Block {
			t.Errorf("branch %d blocks, and %d bytes of it were dropped", i, b.dropped())
		}
	}
	return true
}

// filled is got with what is missing in it put in from input, where and as much as the gaps say.
func filled(t *testing.T, input, got []byte, memory *fd.FD) (out []byte) {
	t.Helper()
	if memory == nil {
		return got
	}
	d, err := memory.Dup()
	if err != nil {
		t.Fatal(err)
	}
	m, err := gaps.Map(d)
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	fill := func(missed uint64) {
		if n := uint64(len(out)) + missed; n <= uint64(len(input)) {
			out = append(out, input[len(out):n]...)
		}
	}
	pos := 0
	for pos < len(got) {
		size, missed := m.Next(uint64(pos), min(len(got)-pos, 3000))
		fill(missed)
		out = append(out, got[pos:pos+size]...)
		pos += size
	}
	fill(m.At(uint64(pos)))
	return out
}

// Every step of every chunk, and in the recovery from there every step again, is a place to die. Whatever happens, each byte
// comes once to each branch that blocks, and to the others once, or is counted as dropped and told where it is missing.
func TestFanCrashAtEveryStep(t *testing.T) {
	input := make([]byte, 3*pipeSmall) // three stages full
	random := rand.New(rand.NewPCG(1, 2))
	for i := range input {
		input[i] = byte(random.Uint32())
	}
	policies := []Policy{DropOldest, Block, DropNewest, Spill}
	var firsts []crash
	for _, s := range fanSteps {
		for n := 1; n <= 3; n++ {
			firsts = append(firsts, crash{s, n})
		}
	}
	for _, first := range firsts {
		for _, second := range append([]crash{{}}, firsts...) {
			if second.n > 2 {
				continue
			}
			t.Run(fmt.Sprintf("%s %d, %s %d", first.at, first.n, second.at, second.n), func(t *testing.T) {
				t.Parallel()
				over := make(chan struct{})
				d := &disk{parked: map[string][]*fd.FD{}}
				r, w, err := fd.Pipe()
				if err != nil {
					t.Fatal(err)
				}
				resize(w.Int(), pipeBig)
				if _, err := unix.Write(w.Int(), input); err != nil {
					t.Fatal(err)
				}
				w.Close()
				d.src = r
				var outlets []*outlet
				for _, p := range policies {
					outlets = append(outlets, newOutlet(t, p))
				}
				var ended sync.WaitGroup
				if !d.runFan(t, first, outlets, len(input), over, &ended) && !d.runFan(t, second, outlets, len(input), over, &ended) {
					d.runFan(t, crash{}, outlets, len(input), over, &ended)
				}
				state, err := d.parked[parkFanState][0].Dup()
				if err != nil {
					t.Fatal(err)
				}
				mem, err := mapFanMemory(state)
				if err != nil {
					t.Fatal(err)
				}
				defer mem.close()
				close(over)
				ended.Wait()
				for i, o := range outlets {
					memory, _ := o.gaps.Dup()
					o.end()
					dropped := mem.slot(0).branch(i).dropped()
					if o.policy != Block && dropped == 0 {
						t.Errorf("branch %d dropped nothing, and its pipe was too small", i)
					}
					if o.policy == Block && !bytes.Equal(o.got, input) {
						t.Errorf("branch %d: %d bytes came out of %d, or not the same", i, len(o.got), len(input))
					}
					if len(o.got)+int(dropped) != len(input) {
						t.Errorf("branch %d: %d bytes came out and %d are counted as dropped, of %d", i, len(o.got), dropped, len(input))
					}
					if all := filled(t, input, o.got, memory); !bytes.Equal(all, input) {
						t.Errorf("branch %d: what came out, with what is said to be missing, is not what went in", i)
					}
					memory.Close()
				}
				r.Close()
				for _, fds := range d.parked {
					fd.CloseAll(fds)
				}
			})
		}
	}
}

// A descriptor that is left open by a case would make the next ones fail sooner or later.
func TestFanClosesEverything(t *testing.T) {
	before, err := fd.Count()
	if err != nil {
		t.Fatal(err)
	}
	d := &disk{parked: map[string][]*fd.FD{}}
	r, w, err := fd.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	w.Close()
	d.src = r
	outlets := []*outlet{newOutlet(t, Block), newOutlet(t, Block)}
	over := make(chan struct{})
	var ended sync.WaitGroup
	d.runFan(t, crash{}, outlets, 0, over, &ended)
	close(over)
	ended.Wait()
	for _, o := range outlets {
		o.end()
	}
	r.Close()
	for _, fds := range d.parked {
		fd.CloseAll(fds)
	}
	if after, err := fd.Count(); err != nil || after != before {
		t.Errorf("%d descriptors are open, and there were %d (%v)", after, before, err)
	}
}
