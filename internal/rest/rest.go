// Package rest gives memory back after work. Go's collector lets a heap grow to twice of what lives in it and gives back what it had
// beside that little by little, over minutes in which it wakes up again and again, or not at all where nothing is allocated any more.
// A process that has served thousands of starts and then only waits would keep all that.
package rest

import (
	"runtime/debug"
	"sync"
	"time"
)

const (
	// quiet is how long there must be no work before memory is given back: what is given back is costly to get again.
	quiet = 2 * time.Second
	// worth is how much work makes it worth while: a heap that has done less is hardly larger than the least that there is.
	worth = 200
)

var work struct {
	sync.Mutex
	done    int  // since memory was given back
	before  int  // done, when the timer was set
	pending bool // the timer runs
}

// After is called after a piece of work that has allocated some tens of kilobytes. While nothing is done there is no timer.
func After() {
	work.Lock()
	defer work.Unlock()
	work.done++
	if !work.pending && work.done >= worth {
		work.pending, work.before = true, work.done
		time.AfterFunc(quiet, look)
	}
}

// look gives memory back if nothing was done since the timer was set, and otherwise sets it again.
func look() {
	work.Lock()
	if work.done != work.before {
		work.before = work.done
		time.AfterFunc(quiet, look)
		work.Unlock()
		return
	}
	work.done, work.pending = 0, false
	work.Unlock()
	debug.FreeOSMemory()
}
