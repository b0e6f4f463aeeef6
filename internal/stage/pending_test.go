package stage

import (
	"testing"

	"golang.org/x/sys/unix"

	"github.com/muxd/muxd/internal/fd"
)

// TestPending tells a successor what it will have to finish, until the source is there: only chunks with an intent, since
// of others nothing was written.
func TestPending(t *testing.T) {
	for _, c := range []struct {
		at   Step
		want int
	}{{StepTaken, 0}, {stepHalf, 1}, {StepPut, 1}, {StepWritten, 0}} {
		over := make(chan struct{})
		d := &disk{parked: map[string][]*fd.FD{}}
		r, w, err := fd.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := unix.Write(w.Int(), []byte("text")); err != nil {
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
		d.run(t, crash{c.at, 1}, over)
		p := &process{disk: d, done: make(chan error, 1)}
		e, err := New(Options{Park: d.park, Parked: d.copies(t)})
		if err != nil {
			t.Fatal(err)
		}
		got := e.Pending()
		if len(got) != c.want || c.want > 0 && (got[0].Key != "source" || len(got[0].Intent) != 8) {
			t.Errorf("killed when %s: %v", c.at, got)
		}
		src, err := r.Dup()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := e.Add(src, "source", p); err != nil {
			t.Fatal(err)
		}
		if got := e.Pending(); len(got) != 0 {
			t.Errorf("the source is there, and %v is pending", got)
		}
		<-p.done
		close(over)
		e.Close()
	}
}
