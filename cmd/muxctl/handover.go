package main

import (
	"context"
	"os"

	"golang.org/x/sys/unix"

	"github.com/muxd/muxd/control"
)

// A console may take the user's terminal: it writes what it shows to it, one hop less than through this process, which goes on to read
// the keyboard, has the terminal's modes in its hands, and reclaims the terminal before it gives it to somebody else. The console tells what
// would bring the screen back to normal, in case it is killed.

// handed is the state of that. attachment.mu is for all of it.
type handed struct {
	asked   bool          // the console that there is now takes the terminal
	over    bool          // it has it
	back    chan struct{} // closed when it has not; nil: nobody waits
	restore []byte        // what would bring the screen back to normal
}

// canHandOver says whether stdin and stdout are one terminal that can be opened again: what is handed over is a description of its own, so that
// O_NONBLOCK on it is nobody else's.
func canHandOver(stdin, stdout int) bool {
	var in, out unix.Stat_t
	if !isTerminal(stdin) || !isTerminal(stdout) || unix.Fstat(stdin, &in) != nil || unix.Fstat(stdout, &out) != nil || in.Rdev != out.Rdev {
		return false
	}
	n, err := openAgain(stdout)
	if err == nil {
		unix.Close(n)
	}
	return err == nil
}

// asked: the console takes the terminal. It does not have it, whatever one before it had.
func (a *attachment) asked() {
	a.mu.Lock()
	a.handed.asked, a.handed.over = true, false
	a.last = 0 // nobody knows
	a.mu.Unlock()
	a.returned()
	a.handOver()
}

// handOver gives the console the terminal, unless this process is about to stop.
func (a *attachment) handOver() {
	a.handing.Lock()
	defer a.handing.Unlock()
	a.mu.Lock()
	stopped := a.stopped
	a.handed.over = !stopped
	a.mu.Unlock()
	if stopped {
		return
	}
	var f *os.File
	saved := &unix.Termios{}
	if a.term != nil && a.out.owned {
		saved = &a.term.saved
		if n, err := unix.FcntlInt(uintptr(a.out.fd), unix.F_DUPFD_CLOEXEC, 3); err == nil {
			f = os.NewFile(uintptr(n), "terminal")
			defer f.Close()
		}
	}
	a.v.HandOver(context.Background(), f, saved) // an error is the connection's, which receive tells
}

// reclaim has the console give the terminal back, if it has it.
func (a *attachment) reclaim() {
	a.handing.Lock()
	defer a.handing.Unlock()
	a.mu.Lock()
	if !a.handed.over {
		a.mu.Unlock()
		return
	}
	back := make(chan struct{})
	a.handed.back = back
	a.mu.Unlock()
	ctx, cancel := context.WithTimeout(context.Background(), reclaimGrace)
	defer cancel()
	if a.v.Reclaim(ctx) == nil {
		select {
		case <-back:
		case <-ctx.Done():
		}
	}
	a.returned()
}

// returned: the console does not have the terminal, or nothing can be done about it.
func (a *attachment) returned() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.handed.over = false
	if a.handed.back != nil {
		close(a.handed.back)
		a.handed.back = nil
	}
}

// restorable learns what would bring the screen back to normal.
func (a *attachment) restorable(e control.ViewerEvent) {
	a.mu.Lock()
	a.handed.restore = append(a.handed.restore[:0], e.Data...)
	if e.Returned {
		if a.last = '\n'; e.Unfinished {
			a.last = 0
		}
	}
	a.mu.Unlock()
	if e.Returned {
		a.returned()
	}
}

// restore is what brings the screen back to normal. mu is held, or no goroutine is left.
func (a *attachment) restore() []byte {
	b := append([]byte(nil), a.handed.restore...)
	if a.screen != nil {
		b = append(b, a.screen.restore()...)
	}
	return b
}
