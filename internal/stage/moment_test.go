package stage

import (
	"runtime"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/muxd/muxd/internal/fd"
)

// A nap makes ready what has rested, also what has not for all of the time, and leaves alone what has hardly begun to.
func TestNap(t *testing.T) {
	e := &Engine{began: time.Now().Add(-time.Hour)}
	long, half, short := &Source{state: resting}, &Source{state: resting}, &Source{state: resting}
	now := time.Since(e.began)
	long.since, half.since, short.since = now-batchWait, now-batchLeast, now+time.Hour
	e.resting = []*Source{long, half, short}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.nap()
	if len(e.ready) != 2 || e.ready[0] != long || e.ready[1] != half || long.state != queued || half.state != queued {
		t.Errorf("%d are ready, want the two that have rested", len(e.ready))
	}
	if len(e.resting) != 1 || e.resting[0] != short || short.state != resting || e.napping {
		t.Errorf("%d rest, want the one that has just begun", len(e.resting))
	}
}

// A source that rests is read at once where it is cut, or to leave: nobody has to wait for the end of a nap.
func TestRestIsDisturbed(t *testing.T) {
	for name, end := range map[string]func(*Source){"cut": (*Source).Cut, "leave": (*Source).Leave, "given up": (*Source).GiveUp} {
		e := newEngine(t)
		e.mu.Lock()
		e.napping = true // and it never ends
		e.mu.Unlock()
		r, w, err := fd.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		c := newCollector(t)
		s, err := e.Add(r, newKey(), c)
		if err != nil {
			t.Fatal(err)
		}
		write := func(text string) {
			if _, err := unix.Write(w.Int(), []byte(text)); err != nil {
				t.Fatal(err)
			}
		}
		write("one")
		for rests := false; !rests; runtime.Gosched() {
			e.mu.Lock()
			rests = s.state == resting
			e.mu.Unlock()
		}
		write("two")
		end(s)
		<-c.done
		want := "onetwo"
		if name == "leave" {
			want = "one" // the rest is for whoever reads it next
		}
		if got := c.buf.String(); got != want || c.err != nil {
			t.Errorf("%s: %q, %v; want %q", name, got, c.err, want)
		}
		s.Forget()
		w.Close()
	}
}
