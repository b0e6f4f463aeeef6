package stage

import (
	"bytes"
	"fmt"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/muxd/muxd/internal/fd"
	"github.com/muxd/muxd/internal/gaps"
)

// lossy is a process that notes what is missing, in the output where it is.
type lossy struct{ *process }

func (l lossy) Chunk(c *Chunk) error {
	told := *c
	told.Data = bytes.Clone(c.Data)
	if c.Missed > 0 {
		told.Data = fmt.Appendf(nil, "[%d]%s", c.Missed, c.Data)
	}
	return l.process.Chunk(&told)
}

// Whatever happens to the process over it, what is missing is told once, where it is: before the first byte, in the middle of a chunk and
// at its border, and behind the last byte; and once too where the stream goes on with another sink, at a place where something is missing.
func TestCrashAtEveryStepOverGaps(t *testing.T) {
	input := bytes.Repeat([]byte("0123456789abcdef"), 12<<10) // three stages full
	at := []int{0, 1, 100, pipeSmall, len(input)}
	var want []byte
	for i, from := range at {
		to := len(input)
		if i+1 < len(at) {
			to = at[i+1]
		}
		want = fmt.Appendf(want, "[%d]%s", i+1, input[from:to])
	}
	for _, step := range steps {
		for n := 1; n <= 6; n++ {
			t.Run(fmt.Sprintf("%s %d", step, n), func(t *testing.T) {
				t.Parallel()
				memory, err := gaps.New()
				if err != nil {
					t.Fatal(err)
				}
				note(t, memory, at)
				d := &disk{parked: map[string][]*fd.FD{}, gaps: memory}
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
				over := make(chan struct{})
				t.Cleanup(func() {
					fd.CloseAll([]*fd.FD{r, memory})
					for _, fds := range d.parked {
						fd.CloseAll(fds)
					}
				})
				defer close(over)
				if !d.run(t, crash{step, n}, over) {
					d.run(t, crash{}, over)
				}
				if !bytes.Equal(d.out, want) {
					t.Errorf("%.40q… of %d bytes came out, want %.40q… of %d", d.out, len(d.out), want, len(want))
				}
			})
		}
	}
}

func note(t *testing.T, memory *fd.FD, at []int) {
	t.Helper()
	d, err := memory.Dup()
	if err != nil {
		t.Fatal(err)
	}
	m, err := gaps.Map(d)
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	total := uint64(0)
	for i, pos := range at {
		total += uint64(i + 1)
		m.Note(uint64(pos), total)
	}
}

// A sink that leaves tells nothing of what is missing where it leaves, and the next one begins with it.
func TestGapsOfWhoeverComesNext(t *testing.T) {
	memory, err := gaps.New()
	if err != nil {
		t.Fatal(err)
	}
	defer memory.Close()
	e, err := New(Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer e.Close()
	r, w, err := fd.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	unix.Write(w.Int(), []byte("first"))
	add := func(key string, src *fd.FD) (*Source, *process) {
		p := &process{disk: &disk{}, done: make(chan error, 1)}
		m, err := memory.Dup()
		if err != nil {
			t.Fatal(err)
		}
		s, err := e.AddLossy(src, key, lossy{p}, false, m)
		if err != nil {
			t.Fatal(err)
		}
		return s, p
	}
	src, err := r.Dup()
	if err != nil {
		t.Fatal(err)
	}
	one, p := add("one", src)
	for one.Committed() != 5 {
		yield()
	}
	note(t, memory, []int{5})
	one.Leave()
	if err := <-p.done; err != nil || string(p.disk.out) != "first" {
		t.Errorf("the first sink: %q (%v)", p.disk.out, err)
	}
	unix.Write(w.Int(), []byte("second"))
	w.Close()
	_, p = add("two", r)
	if err := <-p.done; err != nil || string(p.disk.out) != "[1]second" {
		t.Errorf("the second sink: %q (%v)", p.disk.out, err)
	}
}
