// Package profile takes profiles of its own process: of where CPU time goes, of what lives in memory, and of what is going on.
package profile

import (
	"context"
	"fmt"
	"io"
	"runtime"
	"runtime/pprof"
	"slices"
	"strings"
	"time"
)

// Kinds of profiles. All but Stacks are in pprof's format, for "go tool pprof".
const (
	CPU       = "cpu"       // where CPU time went during a while
	Heap      = "heap"      // what lives in memory, and what was allocated
	Goroutine = "goroutine" // the goroutines, by what they do
	Stacks    = "stacks"    // each goroutine with its stack, as text
)

var kinds = []string{CPU, Heap, Goroutine, Stacks}

// Most is the longest time that a profile may take.
const Most = 10 * time.Minute

// Check says what is wrong with a request for a profile.
func Check(kind string, d time.Duration) error {
	if !slices.Contains(kinds, kind) {
		return fmt.Errorf("unknown kind of profile %q: want %s", kind, strings.Join(kinds, ", "))
	}
	if kind == CPU && (d <= 0 || d > Most) {
		return fmt.Errorf("a profile of %v: want more than nothing, and at most %v", d, Most)
	}
	return nil
}

// Take writes a profile to w. One of CPU takes d, or until ctx is done; there is one at a time.
func Take(ctx context.Context, w io.Writer, kind string, d time.Duration) error {
	if err := Check(kind, d); err != nil {
		return err
	}
	switch kind {
	case CPU:
		if err := pprof.StartCPUProfile(w); err != nil {
			return err
		}
		defer pprof.StopCPUProfile()
		select {
		case <-time.After(d):
			return nil
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	case Heap:
		runtime.GC()
		return pprof.WriteHeapProfile(w)
	case Stacks:
		return pprof.Lookup(Goroutine).WriteTo(w, 2)
	}
	return pprof.Lookup(kind).WriteTo(w, 0)
}
