// Package latch is a channel that is closed once, and that is made only for who waits for it: thousands of streams and children have one,
// and next to nobody ever waits.
package latch

import "sync/atomic"

// Latch is a channel to be closed. The zero value is open. It is not copied.
type Latch struct{ c atomic.Pointer[chan struct{}] }

var closed = func() *chan struct{} {
	c := make(chan struct{})
	close(c)
	return &c
}()

// C is the channel: it is closed by Close, before or after.
func (l *Latch) C() <-chan struct{} {
	for {
		if c := l.c.Load(); c != nil {
			return *c
		}
		c := make(chan struct{})
		if l.c.CompareAndSwap(nil, &c) {
			return c
		}
	}
}

// Closed says whether Close was called.
func (l *Latch) Closed() bool { return l.c.Load() == closed }

// Close closes the channel. A second Close does nothing.
func (l *Latch) Close() {
	if c := l.c.Swap(closed); c != nil && c != closed {
		close(*c)
	}
}
