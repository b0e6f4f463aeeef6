package latch

import (
	"sync"
	"testing"
)

func TestLatch(t *testing.T) {
	for range 200 {
		var l Latch
		if l.Closed() {
			t.Fatal("a new one is closed")
		}
		var all sync.WaitGroup
		for range 4 {
			all.Go(func() { <-l.C() })
			all.Go(l.Close)
		}
		all.Wait()
		l.Close()
		if <-l.C(); !l.Closed() {
			t.Fatal("it is open after Close")
		}
	}
}
