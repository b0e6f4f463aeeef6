package agent

import (
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"testing"

	"github.com/muxd/muxd/control/controlpb"
)

func texts(events []*controlpb.Event) (out []string) {
	for _, ev := range events {
		out = append(out, fmt.Sprintf("%d %s %s %s %s", ev.Seq, ev.Child, ev.Stream, ev.Kind, ev.Text))
	}
	return out
}

func open(t *testing.T, dir string, fresh bool) *eventHistory {
	t.Helper()
	j := newEvents(dir, fresh, slog.New(slog.DiscardHandler))
	if j.disk == nil {
		t.Fatal("the log of events cannot be opened")
	}
	t.Cleanup(j.close)
	return j
}

func all(j *eventHistory) []string {
	events, _ := j.after(0)
	return texts(events)
}

// What one agent has told the next one tells too, with the same numbers, and goes on behind it, however many there are.
func TestEventsOutliveAgent(t *testing.T) {
	for _, n := range []int{0, 1, eventsKept/2 - 1, eventsKept / 2, eventsKept/2 + 1, eventsKept, 2*eventsKept + 1} {
		dir := t.TempDir()
		first := open(t, dir, true)
		for i := range n {
			first.add(&controlpb.Event{Kind: "attached", Child: "c", Text: fmt.Sprint(i)})
		}
		want := all(first)
		second := open(t, dir, false) // the first one was killed: nothing of it is closed
		got := all(second)
		if len(got) < min(n, eventsKept/2) || len(got) > eventsKept {
			t.Fatalf("of %d events %d are kept", n, len(got))
		}
		for i := range min(len(got), len(want)) {
			if got[len(got)-1-i] != want[len(want)-1-i] {
				t.Fatalf("of %d events, the last but %d is %q, and it was %q", n, i, got[len(got)-1-i], want[len(want)-1-i])
			}
		}
		second.add(&controlpb.Event{Kind: "removed", Child: "c"})
		if events, _ := second.after(uint64(n)); len(events) != 1 || events[0].Seq != uint64(n)+1 {
			t.Fatalf("behind %d there is %v", n, texts(events))
		}
		if got := all(open(t, dir, true)); len(got) != 0 {
			t.Fatalf("a fresh muxd tells %q", got)
		}
	}
}

// A record that was cut short by a kill is as if it had never been written.
func TestTornEvent(t *testing.T) {
	dir := t.TempDir()
	j := open(t, dir, true)
	for i := range 3 {
		j.add(&controlpb.Event{Kind: "trouble", Child: "c", Text: fmt.Sprint("text ", i)})
	}
	path := filepath.Join(dir, eventFile)
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	third := len(whole) / 3
	for n := range whole {
		if err := os.WriteFile(path, whole[:n], 0o600); err != nil {
			t.Fatal(err)
		}
		next := open(t, dir, false)
		if got := len(all(next)); got != n/third {
			t.Fatalf("%d of %d bytes: %d events", n, len(whole), got)
		}
		next.add(&controlpb.Event{Kind: "removed", Child: "c"})
		if got := all(open(t, dir, false)); len(got) != n/third+1 || got[len(got)-1] != fmt.Sprintf("%d c  removed ", n/third+1) {
			t.Fatalf("%d of %d bytes: %q", n, len(whole), got)
		}
	}
}

// What an agent told and did not put down in the journal happens to its successor again, and is told once.
func TestEventsToldOnce(t *testing.T) {
	ev := func(kind, stream, text string) *controlpb.Event {
		return &controlpb.Event{Kind: kind, Child: "c", Stream: stream, Text: text}
	}
	for _, c := range []struct {
		name         string
		before, then []*controlpb.Event
		want         int // how many of then are told
	}{
		{"the end", []*controlpb.Event{ev("exited", "", "x"), ev("eof", "stdout", "")}, []*controlpb.Event{ev("exited", "", "x"), ev("eof", "stdout", ""), ev("flushed", "stdout", ""), ev("finished", "", "")}, 2},
		{"another stream", []*controlpb.Event{ev("eof", "stdout", "")}, []*controlpb.Event{ev("eof", "stderr", "")}, 1},
		{"the same start", []*controlpb.Event{ev("spawned", "", "pid 7")}, []*controlpb.Event{ev("spawned", "", "pid 7")}, 0},
		{"another run", []*controlpb.Event{ev("spawned", "", "pid 7"), ev("exited", "", "x")}, []*controlpb.Event{ev("spawned", "", "pid 8"), ev("exited", "", "x")}, 2},
		{"the run before is over", []*controlpb.Event{ev("exited", "", "x"), ev("spawned", "", "pid 8")}, []*controlpb.Event{ev("exited", "", "x")}, 1},
		{"a viewer that is still there", []*controlpb.Event{ev("attached", "console", "1 viewer")}, []*controlpb.Event{ev("attached", "console", "1 viewer"), ev("attached", "console", "2 viewers")}, 1},
		{"one that had left", []*controlpb.Event{ev("attached", "console", "1 viewer"), ev("detached", "console", "0 viewers")}, []*controlpb.Event{ev("attached", "console", "1 viewer")}, 1},
		{"the same trouble", []*controlpb.Event{ev("trouble", "stdout", "disk full")}, []*controlpb.Event{ev("trouble", "stdout", "disk full"), ev("trouble", "stdout", "over"), ev("trouble", "stdout", "disk full")}, 2},
		{"other trouble", []*controlpb.Event{ev("trouble", "stdout", "disk full")}, []*controlpb.Event{ev("trouble", "stdout", "over")}, 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			first := open(t, dir, true)
			for _, ev := range c.before {
				first.add(ev)
			}
			second := open(t, dir, false)
			for _, ev := range c.then {
				second.add(ev)
			}
			if events, _ := second.after(uint64(len(c.before))); len(events) != c.want {
				t.Errorf("told: %q, want %d", texts(events), c.want)
			}
		})
	}
}

func TestEventsOfAnotherMuxd(t *testing.T) {
	j := open(t, t.TempDir(), true)
	j.add(&controlpb.Event{Kind: "spawned", Child: "id", Name: "name"})
	if events, _ := j.after(1000); len(events) != 1 {
		t.Errorf("behind a number that was never reached: %q", texts(events))
	}
	if j.about("name") != "id" || j.about("id") != "id" || j.about("nobody") != "" {
		t.Error("a child is not found by its events")
	}
}
