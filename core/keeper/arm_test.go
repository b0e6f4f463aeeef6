package keeper

import (
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/muxd/muxd/internal/fd"
)

// stir waits for the keeper to say that something can be read.
func (a *testAgent) stir() string {
	a.t.Helper()
	select {
	case name := <-a.stirs:
		return name
	case <-time.After(patience):
		a.t.Fatal("the keeper does not tell that something can be read")
		return ""
	}
}

func TestArm(t *testing.T) {
	k, a := ready(t, setup{})
	before := openFDs(t, k.pid())
	pipes := map[string]*fd.FD{} // the ends that are written to
	for _, name := range []string{"far/a", "far/b"} {
		r, w, err := fd.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close() // somebody else has it open too, as a plugin does
		defer w.Close()
		pipes[name] = w
		if err := a.Hold(a.ctx(), name, nil, r.Int()); err != nil {
			t.Fatal(err)
		}
	}
	write := func(name string) {
		t.Helper()
		if _, err := unix.Write(pipes[name].Int(), []byte("x")); err != nil {
			t.Fatal(err)
		}
	}
	arm := func(names ...string) {
		t.Helper()
		if err := a.Arm(a.ctx(), names); err != nil {
			t.Fatal(err)
		}
	}
	write("far/a") // nothing is armed yet
	arm("far/b")
	arm("far/a", "far/unknown")
	if name := a.stir(); name != "far/a" {
		t.Errorf("told of %s", name)
	}
	write("far/a") // it was told of once, and is not armed again
	write("far/b")
	if name := a.stir(); name != "far/b" {
		t.Errorf("told of %s", name)
	}
	arm("far/a") // what is there already counts
	if name := a.stir(); name != "far/a" {
		t.Errorf("told of %s", name)
	}

	// What is dropped, or replaced, is no longer watched, though it is open elsewhere.
	arm("far/a", "far/b")
	a.stir()
	a.stir()
	if err := a.Drop(a.ctx(), "far/a", false); err != nil {
		t.Fatal(err)
	}
	r, w, err := fd.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	if err := a.Hold(a.ctx(), "far/b", nil, r.Int()); err != nil {
		t.Fatal(err)
	}
	r.Close()
	arm("far/a", "far/b")
	write("far/a")
	write("far/b")
	w.Close() // the end is something to read
	if name := a.stir(); name != "far/b" {
		t.Errorf("told of %s", name)
	}
	if err := a.Drop(a.ctx(), "far/", true); err != nil {
		t.Fatal(err)
	}
	if after := openFDs(t, k.pid()); after != before {
		t.Errorf("the keeper has %d descriptors, before %d", after, before)
	}
}
