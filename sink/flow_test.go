package sink

import (
	"context"
	"testing"

	"github.com/muxd/muxd/internal/stage"
)

// keepsNothing is a sink.
type keepsNothing struct{}

func (keepsNothing) Write(context.Context, *Chunk) error { return nil }
func (keepsNothing) Close() error                        { return nil }

// TestChunkNeedsNoMemory hands chunks to a sink without a byte of new memory for each.
func TestChunkNeedsNoMemory(t *testing.T) {
	f := &flow{op: &opening{}, sink: keepsNothing{}}
	c := &stage.Chunk{Data: []byte("text")}
	if n := testing.AllocsPerRun(100, func() { f.Chunk(c) }); n > 0 {
		t.Errorf("%v allocations a chunk", n)
	}
}
