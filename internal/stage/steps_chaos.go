//go:build muxd_chaos

package stage

import (
	"fmt"
	"os"
	"os/signal"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// stepsEnv names the file that says where this process is to come to its end.
const stepsEnv = "MUXD_CHAOS_STEPS"

// order is a step, and the signal that the process sends to itself when it comes there.
type order struct {
	at  Step
	sig unix.Signal
}

// testSteps lets a test end this process between two steps of its choice. It is in no binary but the one that the test builds, with the tag
// muxd_chaos: on SIGUSR1 the process reads "STEP SIGNAL", the signal as a number, from the file that stepsEnv names, and sends
// itself that signal when a worker comes to that step the next time.
var testSteps = sync.OnceValue(func() func(Step) {
	path := os.Getenv(stepsEnv)
	if path == "" {
		return func(Step) {}
	}
	var next atomic.Pointer[order]
	told := make(chan os.Signal, 1)
	signal.Notify(told, unix.SIGUSR1)
	go func() {
		for range told {
			o := &order{}
			if b, err := os.ReadFile(path); err == nil {
				fmt.Sscan(string(b), &o.at, &o.sig)
				next.Store(o)
			}
		}
	}()
	return func(s Step) {
		if o := next.Load(); o != nil && o.at == s && next.CompareAndSwap(o, nil) {
			unix.Kill(unix.Getpid(), o.sig)
		}
	}
})
