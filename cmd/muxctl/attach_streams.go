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
		timeout := -1
		if a.keys.holding() {
			timeout = int(detachWait / time.Millisecond)
		}
		revents, err := a.stop.wait(a.stdin, unix.POLLIN, timeout)
		if err != nil {
			return // errStopped; poll itself does not fail with two valid descriptors
		}
		if revents == 0 {
			a.put(ctx, typed{keys: append([]byte(nil), a.keys.flush()...)})
			continue
		}
		n, err := readKeys(a.stdin, a.term != nil, revents, buf)
		if err != nil {
			a.inputEnded(ctx, err)
			return
		}
		if a.term == nil {
			a.put(ctx, typed{keys: append([]byte(nil), buf[:n]...)})
			continue
		}
		keys, _, detach := a.keys.feed(buf[:n])
		a.put(ctx, typed{keys: append([]byte(nil), keys...)})
		if detach {
			close(a.detaching)
			a.put(ctx, typed{detach: true})
			return
		}
	}
}

// inputEnded: a terminal that ends has hung up, and that detaches; anything else has been read to its end.
func (a *attachment) inputEnded(ctx context.Context, err error) {
	switch {
	case !errors.Is(err, io.EOF):
		a.finish(outcome{result: attachResult{Detached: true}, err: fmt.Errorf("attach %s: stdin: %w", a.name, err)})
	case a.term != nil:
		a.put(ctx, typed{keys: append([]byte(nil), a.keys.flush()...)})
		a.finish(outcome{result: attachResult{Detached: true}})
	default:
		a.put(ctx, typed{end: true})
	}
}

// put blocks while the console takes nothing, after much has been typed.
func (a *attachment) put(ctx context.Context, t typed) {
	if len(t.keys) == 0 && !t.end && !t.detach {
		return
	}
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
		}
	}
}
