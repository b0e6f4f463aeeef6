package rest

import (
	"runtime"
	"testing"
	"testing/synctest"
	"time"
)

// Memory is given back once, when there was enough work and then none, and no timer is left.
func TestAfter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		collections := func() uint32 {
			synctest.Wait()
			var m runtime.MemStats
			runtime.ReadMemStats(&m)
			return m.NumForcedGC
		}
		before := collections()
		for range worth - 1 {
			After()
		}
		time.Sleep(10 * quiet)
		if n := collections() - before; n != 0 {
			t.Fatalf("memory was given back %d times after too little work", n)
		}
		for range 5 { // never quiet for long enough
			After()
			time.Sleep(quiet / 2)
		}
		if n := collections() - before; n != 0 {
			t.Fatalf("memory was given back %d times in the middle of work", n)
		}
		time.Sleep(10 * quiet)
		if n := collections() - before; n != 1 || work.pending {
			t.Errorf("memory was given back %d times, want once; a timer is left: %v", n, work.pending)
		}
	})
}
