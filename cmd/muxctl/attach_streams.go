package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"golang.org/x/sys/unix"

	"github.com/muxd/muxd/control"
)

// receive shows what the console says.
func (a *attachment) receive() {
	defer a.returned()
	for {
		e, err := a.v.Recv()
		switch {
		case errors.Is(err, io.EOF):
			a.finish(outcome{err: fmt.Errorf("attach %s: the connection to the console broke", a.name)})
			return
		case err != nil:
			a.finish(outcome{err: fmt.Errorf("attach %s: %w", a.name, err)})
			return
		}
		switch e.Kind {
		case control.ViewerOutput, control.ViewerRedraw:
			err = a.show(e.Data)
		case control.ViewerNotice:
			a.notice(string(e.Data))
		case control.ViewerTake:
			a.asked()
		case control.ViewerScreen:
			a.restorable(e)
		case control.ViewerEnd:
			a.finish(outcome{result: attachResult{Ended: true, Status: e.Status, HasStatus: e.HasStatus}})
			return
		}
		switch {
		case errors.Is(err, errStopped):
			return
		case errors.Is(err, unix.EPIPE), errors.Is(err, unix.EIO): // whoever read stdout has gone, or the terminal
			a.finish(outcome{result: attachResult{Detached: true}})
			return
		case err != nil:
			a.finish(outcome{result: attachResult{Detached: true}, err: fmt.Errorf("attach %s: stdout: %w", a.name, err)})
			return
		}
	}
}

func (a *attachment) show(p []byte) error {
	if len(p) == 0 {
		return nil
	}
	a.mu.Lock()
	if a.screen != nil {
		a.screen.write(p)
	}
	a.last = p[len(p)-1]
	a.mu.Unlock()
	return a.out.write(p)
}

func (a *attachment) notice(text string) {
	if a.term == nil {
		a.person.brief([]byte("muxctl: " + text + "\n"))
		return
	}
	a.person.brief([]byte("\r\n[" + text + "]\r\n")) // in raw mode a newline does not return the carriage
}

// read takes what is typed, and finds the detach keys in it.
func (a *attachment) read(ctx context.Context) {
	buf := make([]byte, 4096)
	for {
		timeout := time.Duration(0)
		if a.keys.holding() {
			timeout = detachWait
		}
		revents, err := a.typing(timeout)
		if err != nil {
			return // errStopped; nothing else fails with valid descriptors
		}
		if revents == 0 {
			a.key(ctx, a.keys.flush())
			continue
		}
		n, err := a.readKeys(revents, buf)
		if err != nil {
			a.inputEnded(ctx, err)
			return
		}
		if a.term == nil {
			a.put(ctx, typed{keys: append([]byte(nil), buf[:n]...)})
			continue
		}
		keys, _, detach := a.keys.feed(buf[:n])
		a.key(ctx, keys)
		if detach {
			close(a.detaching)
			a.put(ctx, typed{detach: true})
			return
		}
	}
}

// typing blocks until something has been typed, or timeout has passed, where it is not 0.
func (a *attachment) typing(timeout time.Duration) (revents int16, err error) {
	if a.keyboard != nil {
		return a.keyboard.wait(timeout)
	}
	ms := -1
	if timeout > 0 {
		ms = int(timeout / time.Millisecond)
	}
	return a.stop.wait(a.stdin, unix.POLLIN, ms)
}

func (a *attachment) readKeys(revents int16, p []byte) (int, error) {
	if a.keyboard != nil {
		return a.keyboard.read(revents, p)
	}
	return readKeys(a.stdin, a.term != nil, revents, p)
}

// inputEnded: a terminal that ends has hung up, and that detaches; anything else has been read to its end.
func (a *attachment) inputEnded(ctx context.Context, err error) {
	switch {
	case !errors.Is(err, io.EOF):
		a.finish(outcome{result: attachResult{Detached: true}, err: fmt.Errorf("attach %s: stdin: %w", a.name, err)})
	case a.term != nil:
		a.key(ctx, a.keys.flush())
		a.finish(outcome{result: attachResult{Detached: true}})
	default:
		a.put(ctx, typed{end: true})
	}
}

// key types keys at once, where that can be done, and has the rest sent. It does not keep keys.
func (a *attachment) key(ctx context.Context, keys []byte) {
	if !a.readOnly && a.queued.Load() == 0 {
		keys = keys[a.v.Type(keys):]
	}
	a.put(ctx, typed{keys: append([]byte(nil), keys...)})
}

// put blocks while the console takes nothing, after much has been typed.
func (a *attachment) put(ctx context.Context, t typed) {
	if len(t.keys) == 0 && !t.end && !t.detach {
		return
	}
	a.queued.Add(1)
	select {
	case a.typed <- t:
	case <-ctx.Done():
	}
}

// send sends what was typed. Errors are the connection's, which receive tells, with what came before the end.
func (a *attachment) send(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case t := <-a.typed:
			switch {
			case t.detach:
				a.v.Settled(ctx) // what is typed elsewhere from now on comes after it; detachGrace bounds it
				a.finish(outcome{result: attachResult{Detached: true}})
			case a.readOnly:
			case t.end:
				a.v.EndOfInput(ctx)
			default:
				a.v.Send(ctx, t.keys)
			}
			a.queued.Add(-1)
		}
	}
}
