package stage

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"runtime"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/muxd/muxd/internal/fd"
)

var fanSteps = []Step{
	StepMoving, StepFirst, StepTeed, StepCounted, StepDrained, StepQueued, StepDrops, StepDropped, StepTold,
}

// outlet is a branch's pipe, and what its reader has got.
type outlet struct {
	policy Policy
	r, w   *fd.FD
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

// read has the reader begin.
func (o *outlet) read() { o.begin.Do(func() { close(o.start) }) }

// end waits for the reader. Nobody else may have the write end by then.
func (o *outlet) end() {
	o.w.Close()
	o.read()
	<-o.done
	o.r.Close()
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
		w, err := o.w.Dup()
		if err != nil {
			t.Fatal(err)
		}
		branches = append(branches, Branch{Key: fmt.Sprint(i), Policy: o.policy, To: w})
	}
	added := make(chan *FanSource, 1)
	ended.Add(1)
	go func() {
		defer ended.Done()
		defer func() {
			<-over
			f.stop()
			for _, b := range branches {
				b.To.Close()
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

// subsequence says whether got is what remains of input where pieces are left out, each of them between two others of eight
// bytes or more.
func subsequence(input, got []byte) bool {
	at := 0
	for i := 0; i < len(got); {
		if at < len(input) && got[i] == input[at] {
			i, at = i+1, at+1
			continue
		}
		back := min(i, 3) // the beginning of what is left out may look like that of what follows
		next := -1
		for ; back >= 0 && next < 0; back-- {
			if k := bytes.Index(input[at-back:], got[i-back:min(i-back+8, len(got))]); k > 0 {
				next, i = at-back+k, i-back
				break
			}
		}
		if next < 0 {
			return false
		}
		at = next
	}
	return true
}

// Every step of every chunk, and in the recovery from there every step again, is a place to die. Whatever happens, each byte
// comes once to each branch that blocks, and to the others once or is counted as dropped.
func TestFanCrashAtEveryStep(t *testing.T) {
	input := make([]byte, 3*pipeSmall) // three stages full
	random := rand.New(rand.NewPCG(1, 2))
	for i := range input {
		input[i] = byte(random.Uint32())
	}
	policies := []Policy{DropOldest, Block, DropNewest, Block}
	var firsts []crash
	for _, s := range fanSteps {
		for n := 1; n <= 4; n++ {
			firsts = append(firsts, crash{s, n})
		}
	}
	for _, first := range firsts {
		for _, second := range append([]crash{{}}, firsts...) {
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
					if !subsequence(input, o.got) {
						t.Errorf("branch %d: what came out is not in the order of what went in", i)
					}
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
