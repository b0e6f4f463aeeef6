package sink

import (
	"fmt"
	"testing"

	"github.com/muxd/muxd/sink/sinkpb"
)

func idle(*typedEntry) bool { return false }

// Whoever types has an entry of its own, which it finds again, also in another process; what was told gives its entry away, the oldest first.
func TestTypedTable(t *testing.T) {
	b := make([]byte, typedBytes())
	table := typedIn(b)
	first := table.claim([]byte("first"), &sinkpb.Viewer{Pid: 1, Uid: 2, Name: "v1"}, idle)
	first.counted.Store(10)
	second := table.claim([]byte("second"), &sinkpb.Viewer{Pid: 3}, idle)
	if first == second || first.untold() != 10 || second.untold() != 0 {
		t.Fatalf("%p has %d, %p %d", first, first.untold(), second, second.untold())
	}
	next := typedIn(b)
	again := next.claim([]byte("first"), &sinkpb.Viewer{Pid: 1, Uid: 2, Name: "v2"}, idle)
	if v := again.viewer(); again != first || again.counted.Load() != 10 || v.Pid != 1 || v.Uid != 2 || v.Name != "v2" {
		t.Errorf("%v has %d", again.viewer(), again.counted.Load())
	}
	for i := range 3 * len(next) {
		e := next.claim(fmt.Append(nil, "other ", i), &sinkpb.Viewer{}, func(e *typedEntry) bool { return e == second })
		if e == first || e == second {
			t.Fatalf("claim %d takes the entry of somebody who is there, or has not been told of", i)
		}
		e.counted.Store(1)
		e.told.Store(1)
	}
	first.told.Store(10)
	for range next {
		if e := next.claim(nil, &sinkpb.Viewer{}, idle); e.used.Load() != 0 && &e.used == &first.used {
			t.Fatal("an input without a name has an entry of the table")
		}
	}
	for i := range next { // all are to be told: there is none left
		next[i].used.Store(1)
		next[i].counted.Store(5)
		next[i].told.Store(0)
	}
	if e := next.claim([]byte("late"), &sinkpb.Viewer{}, idle); e.counted.Load() != 0 {
		t.Error("it has what another one has typed")
	}
}
