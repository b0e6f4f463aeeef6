package agent

import (
	"testing"

	"github.com/muxd/muxd/control/controlpb"
	"github.com/muxd/muxd/core/config"
)

// A name means the child that has it, or else the one that had it last and is remembered; and the oldest finished are forgotten.
func TestNames(t *testing.T) {
	cfg := config.Default()
	cfg.Agent.KeepFinished = 2
	a := &Agent{children: map[string]*child{}, named: map[string]*child{}, requests: map[string]*child{}}
	a.cfg.Store(cfg)
	var err error
	if a.journal, _, _, err = openJournal(t.TempDir(), "boot 1 1"); err != nil {
		t.Fatal(err)
	}
	a.remains = newRemains(a.journal.dir, nil)
	born := int64(0)
	begin := func(id, name string) *child {
		born++
		c := newChild(&controlpb.ChildSpec{})
		c.rec = &controlpb.Child{Id: id, Name: name, State: stRunning, Created: born}
		a.children[id] = c
		a.name(c)
		return c
	}
	end := func(c *child) {
		c.rec.State = stFinished
		a.done = append(a.done, c)
		a.forgetOldest()
	}
	finds := func(ref string, want *child) {
		t.Helper()
		if got, err := a.find(ref); got != want || (err == nil) != (want != nil) {
			t.Errorf("%q is %v, %v; want %v", ref, got, err, want)
		}
	}
	first := begin("aaa", "web")
	finds("web", first)
	finds("aa", first)
	end(first)
	finds("web", first)
	second := begin("bbb", "web")
	finds("web", second)
	end(second)
	third := begin("ccc", "web")
	finds("web", third)
	a.forget(third) // as of a start that failed
	finds("web", second)
	a.forget(second)
	finds("web", first)
	other := begin("ddd", "ddd")
	finds("ddd", other)
	end(other)
	finds("aaa", first)
	last := begin("eee", "job")
	end(last) // two are remembered
	finds("aaa", nil)
	finds("web", nil)
	finds("ddd", other)
	if len(a.named) != 1 || len(a.done) != 2 {
		t.Errorf("%d names and %d finished children are known, want 1 and 2", len(a.named), len(a.done))
	}
}
