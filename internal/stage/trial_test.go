package stage

import (
	"runtime"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/muxd/muxd/internal/fd"
)

// poisoned dies of every chunk, or puts it out.
type poisoned struct {
	dies bool
	died chan struct{}
	over <-chan struct{}
	out  []byte
	held chan error
	done chan error
}

func (p *poisoned) Chunk(c *Chunk) error {
	if p.dies {
		close(p.died)
		<-p.over
		runtime.Goexit()
	}
	p.out = append(p.out, c.Data...)
	return nil
}

func (p *poisoned) Held(why error)           { p.held <- why }
func (p *poisoned) Eof(uint64)               {}
func (p *poisoned) Done(_ uint64, err error) { p.done <- err }

// A chunk that every process dies of is held after its third crash, until something else than a crash has ended a process, and it is not
// lost meanwhile.
func TestPoison(t *testing.T) {
	over := make(chan struct{})
	d := &disk{parked: map[string][]*fd.FD{}}
	r, w, err := fd.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := unix.Write(w.Int(), []byte("poison")); err != nil {
		t.Fatal(err)
	}
	w.Close()
	d.src = r
	t.Cleanup(func() {
		r.Close()
		for _, fds := range d.parked {
			fd.CloseAll(fds)
		}
	})
	defer close(over)
	process := func(crashed, dies bool) (*poisoned, *Source) {
		p := &poisoned{dies: dies, died: make(chan struct{}), over: over, held: make(chan error, 1), done: make(chan error, 1)}
		e, err := New(Options{Park: d.park, Parked: d.copies(t), Crashed: crashed})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { e.Close() })
		src, err := d.src.Dup()
		if err != nil {
			t.Fatal(err)
		}
		s, err := e.Add(src, "source", p)
		if err != nil {
			t.Fatal(err)
		}
		return p, s
	}
	for n := range 1 + strikesMost {
		p, _ := process(n > 0, true)
		select {
		case <-p.died:
		case err := <-p.held:
			t.Fatalf("process %d: %v", n, err)
		}
	}
	for range 2 { // the plugin may die of something else meanwhile
		p, s := process(true, true)
		select {
		case err := <-p.held:
			if s.Committed() != 0 || err == nil {
				t.Errorf("held: %v, with %d bytes committed", err, s.Committed())
			}
		case <-p.died:
			t.Fatal("the chunk is handed over once more")
		}
	}
	p, s := process(false, false)
	if err := <-p.done; err != nil || string(p.out) != "poison" || s.Committed() != 6 {
		t.Errorf("%q put out, %d bytes committed, %v", p.out, s.Committed(), err)
	}
}

// A chunk that crashed nobody passes its trial, and the next one is tried then.
func TestTrialPasses(t *testing.T) {
	over := make(chan struct{})
	d := &disk{parked: map[string][]*fd.FD{}}
	r, w, err := fd.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := unix.Write(w.Int(), []byte("good")); err != nil {
		t.Fatal(err)
	}
	w.Close()
	d.src = r
	t.Cleanup(func() {
		r.Close()
		for _, fds := range d.parked {
			fd.CloseAll(fds)
		}
	})
	defer close(over)
	if d.run(t, crash{StepTaken, 1}, over) {
		t.Fatal("it did not die")
	}
	e, err := New(Options{Park: d.park, Parked: d.copies(t), Crashed: true})
	if err != nil {
		t.Fatal(err)
	}
	defer e.Close()
	src, err := d.src.Dup()
	if err != nil {
		t.Fatal(err)
	}
	p := &poisoned{held: make(chan error, 1), done: make(chan error, 1)}
	if _, err := e.Add(src, "source", p); err != nil {
		t.Fatal(err)
	}
	if err := <-p.done; err != nil || string(p.out) != "good" {
		t.Errorf("%q put out, %v", p.out, err)
	}
	if k := e.mem.trial(); k >= 0 || len(e.turn) > 0 {
		t.Errorf("slot %d is on trial still", k)
	}
}
