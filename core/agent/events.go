package agent

import (
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/muxd/muxd/control/controlpb"
)

// eventsKept is how many events Events can tell afterwards, at most; half of them at least.
const eventsKept = 4096

// eventHistory is the latest events, for clients that ask what has happened, under whatever agent of this muxd it did. What an
// agent that was killed had told and not put into the journal yet happens again to its successor, and is not told again.
type eventHistory struct {
	log *slog.Logger

	mu   sync.Mutex
	disk *eventLog           // nil: it could not be written any more
	list []*controlpb.Event  // ascending by Seq
	seq  uint64              // of the last
	told map[string]lastTold // by child; of the agent before
	more chan struct{}       // closed at the next event
}

// lastTold is what an agent told last of a child's run: by what topic tells apart, which of the possible it was.
type lastTold map[string]string

// newEvents goes on with what earlier agents have told; with fresh there was none. What cannot be read is missing, and is no reason
// not to begin.
func newEvents(runtimeDir string, fresh bool, log *slog.Logger) *eventHistory {
	j := &eventHistory{log: log, told: map[string]lastTold{}}
	var err error
	if j.disk, j.list, err = openEventLog(runtimeDir, fresh); err != nil {
		log.Error("events are not written down", "error", err)
	}
	for _, ev := range j.list {
		j.seq = max(j.seq, ev.Seq)
		last := j.told[ev.Child]
		if last == nil || ev.Kind == "spawned" { // a new run
			last = lastTold{}
			j.told[ev.Child] = last
		}
		about, what := topic(ev)
		last[about] = what
	}
	return j
}

// topic says what an event is about, and what it says of that: the same event told again says the same as the last one about
// the same.
func topic(ev *controlpb.Event) (about, what string) {
	switch ev.Kind {
	case "attached", "detached":
		return "viewers/" + ev.Stream, ev.Kind + ev.Text
	case "typed":
		return ev.Kind + "/" + ev.Text, "" // the text names the viewer, whose count only grows
	case "trouble", "spawned", "redirected":
		return ev.Kind + "/" + ev.Stream, ev.Text
	case "held":
		return ev.Kind + "/" + ev.Stream + "/" + ev.Text, ""
	case "recovered":
		return ev.Kind, ev.Text
	}
	return ev.Kind + "/" + ev.Stream, "" // it happens once in a run
}

// emit records an event of c. Agent.mu is held.
func (a *Agent) emit(c *child, kind, stream, text string) {
	a.log.Debug(kind, "child", c.id(), "name", c.rec.Name, "stream", stream, "text", text)
	a.events.add(&controlpb.Event{
		Time: time.Now().UnixNano(), Kind: kind, Child: c.id(), Name: c.rec.Name, Stream: stream, Text: text,
	})
}

func (j *eventHistory) add(ev *controlpb.Event) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if last := j.told[ev.Child]; last != nil {
		about, what := topic(ev)
		before, ok := last[about]
		delete(last, about)
		if ok && before == what {
			return
		}
		if ev.Kind == "spawned" {
			delete(j.told, ev.Child)
		}
	}
	j.seq++
	ev.Seq = j.seq
	if j.disk != nil {
		if err := j.disk.add(ev); err != nil { // what follows would stand behind a part of it
			j.log.Error("events are not written down any more", "error", err)
			j.disk.close()
			j.disk = nil
		}
	}
	if len(j.list) >= eventsKept {
		j.list = slices.Clone(j.list[len(j.list)-eventsKept/2:])
	}
	j.list = append(j.list, ev)
	if j.more != nil {
		close(j.more)
		j.more = nil
	}
}

// after returns the events behind seq, and a channel that is closed when there are more. A seq that was never reached is of another
// muxd: all are behind it.
func (j *eventHistory) after(seq uint64) ([]*controlpb.Event, <-chan struct{}) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.more == nil {
		j.more = make(chan struct{})
	}
	i := len(j.list)
	for i > 0 && (j.list[i-1].Seq > seq || seq > j.seq) {
		i--
	}
	return slices.Clone(j.list[i:]), j.more
}

// about returns the id of the child that ref means by what is told of it, which may be forgotten; "" where nothing is.
func (j *eventHistory) about(ref string) string {
	j.mu.Lock()
	defer j.mu.Unlock()
	for _, ev := range slices.Backward(j.list) {
		if ev.Child == ref || ev.Name == ref {
			return ev.Child
		}
	}
	return ""
}

// close ends the writing, so that what an agent that ends in good order has written can be removed.
func (j *eventHistory) close() {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.disk != nil {
		j.disk.close()
		j.disk = nil
	}
}
