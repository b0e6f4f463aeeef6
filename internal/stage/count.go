package stage

import (
	"sync/atomic"
	"time"
)

// Counts is what an engine has done.
type Counts struct {
	Bytes   uint64        // put out
	Chunks  uint64        // in so many
	Waits   uint64        // how often a source was left for a moment, so that small writes became one chunk
	PutTime time.Duration // for how long chunks were in handlers' hands, together
}

// counters are Counts that all workers add to: a few nanoseconds a chunk.
type counters struct {
	bytes, chunks, waits atomic.Uint64
	putTime              atomic.Int64
}

func (c *counters) put(n int, began time.Time) {
	c.bytes.Add(uint64(n))
	c.chunks.Add(1)
	c.putTime.Add(int64(time.Since(began)))
}

// Counts tells what the engine has done so far.
func (e *Engine) Counts() Counts {
	c := &e.count
	return Counts{c.bytes.Load(), c.chunks.Load(), c.waits.Load(), time.Duration(c.putTime.Load())}
}
