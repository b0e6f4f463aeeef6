package pty

import (
	"context"
	"testing"
	"time"

	"github.com/muxd/muxd/sink"
)

// A viewer that is to miss nothing, and whose connection broke with the predecessor, is waited for before more is shown.
func TestHoldOverADeath(t *testing.T) {
	h := newHarness(t, 4<<10)
	h.c.absent = newAbsent(2*oneHolding + oneOther)
	h.c.past.viewers().Store(2*oneHolding + oneOther)
	over, cancel := context.WithCancel(context.Background())
	cancel()
	if h.c.wait(over) == nil {
		t.Fatal("two are missing")
	}
	clients := []*client{h.attach("all", 0, 0, false), h.attachAs(func(v *sink.Viewer) { v.Hold = true })}
	if h.c.wait(over) == nil {
		t.Error("one is missing")
	}
	clients = append(clients, h.attachAs(func(v *sink.Viewer) { v.Hold = true }))
	if err := h.c.wait(over); err != nil {
		t.Error(err)
	}
	select {
	case <-h.c.absent.back:
	default:
		t.Error("all are back, and it is not said")
	}
	if n := h.c.past.viewers().Load(); n != 2*oneHolding+oneOther {
		t.Errorf("count %#x", n)
	}
	for _, k := range clients {
		k.leave()
	}
	within(t, 20*time.Second, "leaving", h.attached.Wait)
	if n := h.c.past.viewers().Load(); n != 0 {
		t.Errorf("count %#x, and nobody is there", n)
	}
}

// One that does not come back is waited for so long, and then forgotten.
func TestHoldIsGivenUp(t *testing.T) {
	h := newHarness(t, 4<<10)
	h.c.absent = newAbsent(oneHolding + oneOther)
	h.c.past.viewers().Store(oneHolding + oneOther)
	h.c.absent.late.Reset(0)
	if err := h.c.wait(context.Background()); err != nil {
		t.Error(err)
	}
	if n := h.c.past.viewers().Load(); n != oneOther || h.c.absent.holding != 0 {
		t.Errorf("count %#x, missing %d", n, h.c.absent.holding)
	}
}
