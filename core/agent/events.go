package agent

import (
	"sync"
	"time"

	"github.com/muxd/muxd/control/controlpb"
)

// eventsKept is how many events Events can tell afterwards.
const eventsKept = 4096

// journalOfEvents is the latest events, for clients that ask what has happened. The zero value is empty.
type journalOfEvents struct {
	mu   sync.Mutex
	list []*controlpb.Event // ascending by Seq
	seq  uint64
	more chan struct{} // closed at the next event
}

// emit records an event of c. Agent.mu is held.
func (a *Agent) emit(c *child, kind, stream, text string) {
	a.log.Debug(kind, "child", c.id(), "name", c.rec.Name, "stream", stream, "text", text)
	a.events.add(&controlpb.Event{
		Time: time.Now().UnixNano(), Kind: kind, Child: c.id(), Name: c.rec.Name, Stream: stream, Text: text,
	})
}

func (j *journalOfEvents) add(ev *controlpb.Event) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.seq++
	ev.Seq = j.seq
	if len(j.list) == eventsKept {
		j.list = append(j.list[:0:0], j.list[eventsKept/2:]...)
	}
	j.list = append(j.list, ev)
	if j.more != nil {
		close(j.more)
		j.more = nil
	}
}

// after returns the events behind seq, and a channel that is closed when there are more.
func (j *journalOfEvents) after(seq uint64) ([]*controlpb.Event, <-chan struct{}) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.more == nil {
		j.more = make(chan struct{})
	}
	i := len(j.list)
	for i > 0 && j.list[i-1].Seq > seq {
		i--
	}
	return append([]*controlpb.Event(nil), j.list[i:]...), j.more
}
