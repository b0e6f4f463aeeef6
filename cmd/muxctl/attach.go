package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/muxd/muxd/control"
)

const (
	// detachWait is how long the beginning of the detach keys is held back for the rest of them.
	detachWait = 500 * time.Millisecond
	// detachGrace is how long a detach waits for what was typed before it to be in the console.
	detachGrace = 500 * time.Millisecond
	// reclaimGrace is how long a console may take to give the terminal back. One that does not answer, since its plugin hangs, sees that the
	// terminal's modes are others when it goes on.
	reclaimGrace = 500 * time.Millisecond
)

// attachOptions says how a console is shown.
type attachOptions struct {
	Name       string // of the child, for the person
	DetachKeys []byte // from parseDetachKeys
	ReadOnly   bool   // nothing typed reaches the console, and ^C detaches

	// Signal is asked what to do with a SIGTERM, SIGHUP, SIGINT, SIGQUIT, SIGUSR1 or SIGUSR2 to muxctl. true: it has been dealt with, and the viewer
	// stays. Otherwise, and where it is nil, the viewer detaches.
	Signal func(os.Signal) bool

	Stdin, Stdout, Stderr *os.File // nil: this process's
}

// attachResult says how it ended.
type attachResult struct {
	Detached  bool // the child goes on without this viewer
	Ended     bool // the console has ended
	Status    uint32
	HasStatus bool
}

// signalError says that a signal detached the viewer.
type signalError struct{ signal syscall.Signal }

func (e *signalError) Error() string { return "detached by " + unix.SignalName(e.signal) }

// attachTerminal connects the user's terminal, or whatever stdin and stdout are, with the console of v until the
// console ends, the user detaches, a signal comes, stdout breaks, or ctx is done. It takes ownership of v. When it
// returns, by a panic too, the terminal has its modes back and no goroutine is left.
//
// The error is a *signalError after a signal, ctx's cause, or says that the connection broke.
func attachTerminal(ctx context.Context, v *control.Viewer, o attachOptions) (attachResult, error) {
	defer v.Close()
	a, err := newAttachment(v, o)
	if err != nil {
		return attachResult{}, err
	}
	defer a.close()
	defer runtime.KeepAlive(o) // the descriptors in a are those of o's files
	return a.run(ctx)
}

// attachment is one run of attachTerminal. Three goroutines serve it: receive (console to stdout), read (stdin to
// typed) and send (typed to console), and resize where there is a terminal. The first of them that comes to an end
// that matters tells it to outcome; run waits for that and for signals, and then stops them all.
type attachment struct {
	v             *control.Viewer
	name          string
	readOnly      bool
	ask           func(os.Signal) bool
	keys          detachKeys
	stdin, stdout int
	term          *terminal // nil where stdin is none
	keyboard      *keyboard // nil where it is none, or cannot be opened again
	out           *outlet   // stdout
	person        *outlet   // stderr
	stop          *stopper

	typed     chan typed
	queued    atomic.Int32 // of typed, and in send's hands
	sizes     chan bool    // resize; true: so that the child draws its screen again
	outcome   chan outcome
	detaching chan struct{} // closed when the detach keys have been typed

	handing sync.Mutex // held while the terminal is handed over, or reclaimed; taken before mu

	mu      sync.Mutex   // for what follows
	screen  *screenModes // nil where stdin or stdout is no terminal
	last    byte         // of the output
	handed  handed
	stopped bool // the terminal is given back, since this process stops
}

// typed is something to send, in its order.
type typed struct {
	keys   []byte
	end    bool // the input has ended
	detach bool
}

type outcome struct {
	result attachResult
	err    error
}

func newAttachment(v *control.Viewer, o attachOptions) (*attachment, error) {
	a := &attachment{
		v:         v,
		name:      o.Name,
		readOnly:  o.ReadOnly,
		ask:       o.Signal,
		keys:      detachKeys{keys: o.DetachKeys},
		typed:     make(chan typed, 256),
		sizes:     make(chan bool, 1),
		outcome:   make(chan outcome, 4),
		detaching: make(chan struct{}),
		last:      '\n',
	}
	var err error
	if a.stdin, err = descriptor(orElse(o.Stdin, os.Stdin)); err != nil {
		return nil, fmt.Errorf("attach: stdin: %w", err)
	}
	if a.stdout, err = descriptor(orElse(o.Stdout, os.Stdout)); err != nil {
		return nil, fmt.Errorf("attach: stdout: %w", err)
	}
	stderr, err := descriptor(orElse(o.Stderr, os.Stderr))
	if err != nil {
		return nil, fmt.Errorf("attach: stderr: %w", err)
	}
	if isTerminal(a.stdin) {
		if a.term, err = openTerminal(a.stdin, o.ReadOnly); err != nil {
			return nil, fmt.Errorf("attach: %w", err)
		}
		if isTerminal(a.stdout) {
			a.screen = &screenModes{own: true}
		}
	}
	if a.stop, err = newStopper(); err != nil {
		return nil, fmt.Errorf("attach: %w", err)
	}
	if a.term != nil {
		a.keyboard, _ = newKeyboard(a.stdin, a.stop)
	}
	a.out, a.person = newOutlet(a.stdout, a.stop), newOutlet(stderr, a.stop)
	return a, nil
}

func orElse(f, otherwise *os.File) *os.File {
	if f != nil {
		return f
	}
	return otherwise
}

func (a *attachment) close() {
	if a.keyboard != nil {
		a.keyboard.close()
	}
	a.out.close()
	a.person.close()
	a.stop.close()
}

func (a *attachment) run(parent context.Context) (result attachResult, err error) {
	ctx, cancel := context.WithCancel(parent)
	defer cancel()
	signals := make(chan os.Signal, 8)
	signal.Notify(signals, a.signals()...)
	defer signal.Stop(signals)
	if a.term != nil {
		if err := a.term.enter(); err != nil {
			end := a.terminalFailed(err)
			return end.result, end.err
		}
		defer a.term.leave()
		if a.screen != nil {
			a.out.brief([]byte(saveTitle))
		}
		a.sizes <- false
	}

	var input, output sync.WaitGroup
	a.start(&output, func() { a.receive() })
	a.start(&input, func() { a.send(ctx) })
	if a.term != nil {
		a.start(&input, func() { a.resize(ctx) })
	}
	if a.term != nil || !a.readOnly {
		a.start(&input, func() { a.read(ctx) })
	}

	end := a.wait(parent, signals)
	a.reclaim()
	cancel()
	a.stop.stop()
	a.v.Close()
	input.Wait()
	if a.term != nil {
		a.term.leave() // before the output is waited for, which only a terminal that stands still can delay
	}
	output.Wait()
	a.farewell(end)
	return end.result, end.err
}

// start runs f in a goroutine of group. A panic in it, which ends the process, gives the terminal back first.
func (a *attachment) start(group *sync.WaitGroup, f func()) {
	group.Go(func() {
		defer func() {
			if r := recover(); r != nil {
				if a.term != nil {
					a.term.leave()
				}
				panic(r)
			}
		}()
		f()
	})
}

func (a *attachment) signals() []os.Signal {
	s := []os.Signal{unix.SIGTERM, unix.SIGHUP, unix.SIGINT, unix.SIGQUIT}
	if a.ask != nil {
		s = append(s, unix.SIGUSR1, unix.SIGUSR2)
	}
	if a.term != nil {
		s = append(s, unix.SIGWINCH, unix.SIGTSTP, unix.SIGCONT)
	}
	return s
}

// wait returns what the end is.
func (a *attachment) wait(ctx context.Context, signals <-chan os.Signal) outcome {
	detached := attachResult{Detached: true}
	detaching := a.detaching
	var grace <-chan time.Time
	for {
		select {
		case end := <-a.outcome:
			return end
		case <-detaching:
			detaching, grace = nil, time.After(detachGrace)
		case <-grace:
			return outcome{result: detached}
		case <-ctx.Done():
			return outcome{result: detached, err: context.Cause(ctx)}
		case s := <-signals:
			if end, over := a.signal(s); over {
				return end
			}
		}
	}
}

func (a *attachment) signal(s os.Signal) (end outcome, over bool) {
	switch s {
	case unix.SIGWINCH:
		a.resized(false)
	case unix.SIGTSTP:
		a.suspend()
	case unix.SIGCONT:
		a.resume()
	default:
		hungUp := s == unix.SIGHUP && a.term != nil && a.term.hungUp() // read sees it too, sooner or later
		if hungUp || a.readOnly && s == unix.SIGINT {                  // ^C, the way out
			return outcome{result: attachResult{Detached: true}}, true
		}
		if a.ask != nil && a.ask(s) {
			return end, false
		}
		return outcome{result: attachResult{Detached: true}, err: &signalError{s.(syscall.Signal)}}, true
	}
	return end, false
}

// suspend gives the terminal back and stops this process. Output waits meanwhile.
func (a *attachment) suspend() {
	a.mu.Lock()
	a.stopped = true
	a.mu.Unlock()
	a.reclaim()
	a.term.leave()
	a.mu.Lock()
	defer a.mu.Unlock()
	a.out.brief(a.restore())
	unix.Kill(os.Getpid(), unix.SIGSTOP) // SIGTSTP is caught, so it would not stop anything
}

// resume takes the terminal again, also after a SIGSTOP that nobody could see coming, and has the child draw again.
func (a *attachment) resume() {
	if err := a.term.enter(); err != nil {
		a.finish(a.terminalFailed(err))
		return
	}
	a.reclaim() // after a SIGSTOP the console may have found that somebody else had the terminal
	a.mu.Lock()
	a.stopped = false
	if a.screen != nil {
		a.out.brief([]byte(a.screen.again()))
	}
	taken := a.handed.asked
	a.mu.Unlock()
	if taken {
		a.handOver()
	}
	a.resized(!taken)
}

// terminalFailed is what an error of the terminal means. One that hangs up sends SIGHUP and SIGCONT, in this order, to the leader of its
// session (__tty_hangup in drivers/tty/tty_io.c), and which of them a program sees first is chance.
func (a *attachment) terminalFailed(err error) outcome {
	if a.term.hungUp() {
		return outcome{result: attachResult{Detached: true}}
	}
	return outcome{err: fmt.Errorf("attach: %w", err)}
}

// finish tells what the end is; only the first counts.
func (a *attachment) finish(end outcome) {
	select {
	case a.outcome <- end:
	default:
	}
}

// resized has the size sent. A redraw that is waiting is not forgotten for it.
func (a *attachment) resized(redraw bool) {
	select {
	case a.sizes <- redraw:
	case waiting := <-a.sizes:
		a.sizes <- redraw || waiting
	}
}

// resize tells the console the terminal's size. The kernel sends SIGWINCH to the child only where the size is another
// than before, so for a redraw it is another one first.
func (a *attachment) resize(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case redraw := <-a.sizes:
			rows, cols := a.term.size()
			if a.readOnly || rows == 0 || cols == 0 {
				continue
			}
			if redraw {
				a.v.Resize(ctx, rows, cols+1) // an error is the connection's, which receive tells
			}
			a.v.Resize(ctx, rows, cols)
		}
	}
}

// farewell cleans the screen up and says what happened, where there is a person.
func (a *attachment) farewell(end outcome) {
	if a.term == nil {
		return
	}
	a.out.brief(a.restore())
	line := a.line(end)
	if line == "" {
		return
	}
	if a.last != '\n' {
		line = "\n" + line
	}
	a.person.brief([]byte("\r" + line + "\n"))
}

func (a *attachment) line(end outcome) string {
	status := unix.WaitStatus(end.result.Status)
	switch {
	case end.result.Detached:
		return fmt.Sprintf("[detached from %s]", a.name)
	case !end.result.Ended:
		return ""
	case !end.result.HasStatus:
		return fmt.Sprintf("[%s has ended; its exit status is not known]", a.name)
	case status.Signaled() && status.CoreDump():
		return fmt.Sprintf("[%s was killed by signal %s, core dumped]", a.name, unix.SignalName(status.Signal()))
	case status.Signaled():
		return fmt.Sprintf("[%s was killed by signal %s]", a.name, unix.SignalName(status.Signal()))
	}
	return fmt.Sprintf("[%s exited with status %d]", a.name, status.ExitStatus())
}
