package agent

import (
	"testing"

	"github.com/muxd/muxd/control/controlpb"
	"github.com/muxd/muxd/sink/sinkpb"
)

func TestHeldFor(t *testing.T) {
	for name, want := range map[string][2]string{
		"far/abc/abc/1/0/stdout":            {"abc/1/0", "stdout"},
		"far/abc/abc/1/0/in":                {"abc/1/0", "in"},
		"park/socket/own/abc/1/0/conn/000":  {"abc/1/0", ""},
		"park/pty/mem/abc/2/xyz/000":        {"abc/2/xyz", ""},
		"park/file/state/000":               {},
		"park/file/pair/3/000":              {},
		"park/other/whatever/it/likes/here": {},
		"channel/plugin/file/1-2-3":         {},
		"far/abc":                           {},
	} {
		id, stream, ok := heldFor(name)
		if got := [2]string{id, stream}; got != want && ok || ok != (want[0] != "") {
			t.Errorf("%s: %q (%v), want %q", name, got, ok, want)
		}
	}
}

// What is held again after a stream has ended would be held for ever, and the write end of a stdin would keep the child from its end.
func TestWants(t *testing.T) {
	c := &child{rec: &controlpb.Child{State: stRunning}}
	a := &Agent{openings: map[string]*opening{}, children: map[string]*child{"c": c}}
	open := func(id string, ch *choice, kinds ...sinkpb.Stream) *opening {
		o := &opening{id: id, child: c, choice: ch}
		for _, k := range kinds {
			o.streams = append(o.streams, &stream{kind: k, as: ch, rec: &controlpb.Sink{State: "open"}})
			if ch.from != nil {
				o.streams[len(o.streams)-1].branch = id
			}
		}
		a.openings[id] = o
		c.openings = append(c.openings, o)
		return o
	}
	socket := open("c/1/0", &choice{}, sinkpb.Stream_STDIN, sinkpb.Stream_STDOUT)
	from := open("c/1/1", &choice{copies: true}, sinkpb.Stream_STDERR)
	branch := open("c/1/2", &choice{from: from.choice}, sinkpb.Stream_STDERR)
	check := func(when, id, stream string, want bool) {
		t.Helper()
		if got := a.wants(id, stream); got != want {
			t.Errorf("%s: wants %s of %s: %v", when, stream, id, got)
		}
	}
	check("at first", "c/1/0", "stdin", true)
	check("at first", "c/1/0", "stdout", true)
	check("at first", "c/1/0", "stderr", false)
	check("at first", "c/1/2", "in", true)
	check("at first", "c/1/0", "in", false)
	check("at first", "c/1/9", "stdout", false)
	socket.streams[0].rec.State = "eof"
	check("when stdin is closed", "c/1/0", "stdin", false)
	socket.streams[1].done, socket.streams[1].rec.State = true, "flushed"
	check("when stdout is flushed", "c/1/0", "stdout", true) // its writer shall get no SIGPIPE
	socket.streams[1].rec.State = "moved"
	check("when stdout has moved", "c/1/0", "stdout", false)
	branch.streams[0].closed = true
	check("when the branch is removed", "c/1/2", "in", false)
	branch.streams[0].closed = false
	from.streams[0].done = true
	check("when all is copied", "c/1/2", "in", false)
	check("when all is copied", "c/1/2", "stderr", true)
	delete(a.openings, "c/1/0")
	check("when it is forgotten", "c/1/0", "stdout", false)
}
