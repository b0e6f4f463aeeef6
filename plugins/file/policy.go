package file

import (
	"fmt"
	"time"

	"github.com/muxd/muxd/sink"
)

// policy says what becomes of output while its file cannot be written.
type policy string

const (
	block      policy = "block"       // the child waits
	dropOldest policy = "drop-oldest" // a queue keeps the latest
	dropNewest policy = "drop-newest" // a queue keeps what came first
	spill      policy = "spill"       // like dropOldest, with the queue in a file
)

// patience is how long a child waits for a file that does take what is written, but slowly, before its policy holds.
const patience = 100 * time.Millisecond

// lingerTime is how long what was dropped otherwise may still be put out when its child has ended.
const lingerTime = 2 * time.Second

// The bounds of queue. The least holds the longest record.
const (
	queueLeast    = 256 << 10
	queueMost     = 1 << 30
	queueUsual    = 1 << 20
	queueOfSpills = 64 << 20
)

// The options about it, which files of children that write themselves cannot have.
var policyOptions = []sink.Option{
	{Name: "policy", Type: sink.Enum, Values: []string{string(block), string(dropOldest), string(dropNewest), string(spill)}, Default: string(block),
		Help: "while the file cannot be written: the child waits, or goes on and output waits in a queue, and is dropped and counted " +
			"when that is full; spill: the queue is a file"},
	{Name: "queue", Type: sink.Size, Help: "how much waits for a file that cannot be written; 1MiB, and 64MiB with policy=spill"},
	{Name: "spill-dir", Type: sink.Path, Default: "/var/tmp", Help: "with policy=spill: where the queue's file is made, without a name"},
}

// parsePolicy understands these options.
func (s *settings) parsePolicy(r *sink.Request) error {
	s.policy, s.spillDir = policy(r.Options.String("policy")), r.Options.String("spill-dir")
	if s.direct && s.policy != block {
		return fmt.Errorf("policy=%s with mode=direct: the child writes the file itself; use mode=pipe", s.policy)
	}
	s.queue = queueUsual
	if s.policy == spill {
		s.queue = queueOfSpills
	}
	if !r.Options.Has("queue") {
		return nil
	}
	if s.policy == block {
		return fmt.Errorf("queue with policy=block: the child waits, so nothing has to; give another policy too")
	}
	n := r.Options.Int("queue")
	if n < queueLeast || n > queueMost {
		return fmt.Errorf("queue=%d: want 256KiB to 1GiB", n)
	}
	s.queue = int(n+7) &^ 7 // so that the words of the next one are aligned
	return nil
}
