package pty

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/muxd/muxd/sink"
)

// noticeEvery is how often a viewer is told at most that it reads too slowly.
const noticeEvery = 10 * time.Second

// cancelSequence brings a viewer's terminal out of a sequence whose rest it will never see (CAN), and out of the
// colours that were on then.
const cancelSequence = "\x18\x1b[m"

// lineNotice is what whoever types a line that is too long is told.
var lineNotice = fmt.Sprintf("the terminal reads lines, of %d bytes at most: the rest of a longer line is lost; "+
	"end lines sooner, or have the program read keys (stty -icanon)", lineMost)

// attached is a viewer's place in the output. consoleSink.mu is for all of it but the channels.
//
// While slow is false the viewer has everything up to the ring's end, and whoever adds to the ring sends it at once.
// When its socket is full it becomes slow, and its pump goes on when there is room again.
type attached struct {
	v    *sink.Viewer
	raw  syscall.RawConn
	wake chan struct{} // holds an element when the pump has something to do
	done chan struct{} // closed when nothing more will be sent: the end was, or the viewer has left

	slow   bool
	over   bool   // done is closed
	next   uint64 // the offset of the next byte for it
	draw   []byte // the rest of what draws the screen on its terminal, before that byte
	redraw uint64 // what lies below this is redrawn, not output: where it has no terminal
	told   bool   // it knows the offset at which it is, from an Output
	there  uint64 // where the output ended when it came
	ready  bool   // it knows that it has been shown all that was there

	acked, ackSent uint64
	cancel         bool     // cancelSequence is to be sent
	notices        []string // to be sent
	skipped        uint64   // bytes it has not seen, and not been told about
	noticed        time.Time
	refused        bool // it has been told that it is read-only

	terminal   bool    // it has one
	awaited    bool    // and will hand it over, before it is shown anything: see handed
	tty        *handed // and has
	place      shownPlace
	stuck      *handed // tty, where that had no room
	owed       bool    // it is to be told that its terminal is its own again
	back       bool    // and when it comes again, its screen is drawn anew
	killed     bool    // it has ended without a word
	rows, cols int     // of its terminal; zero where it has none
}

// Attach serves v until it leaves, the console has ended and v has all of it, or ctx is done. It does not take
// ownership of v, but closes it to end its own Recv.
func (c *consoleSink) Attach(ctx context.Context, v *sink.Viewer) error {
	want, err := parseReplay(v.Replay)
	if err != nil {
		v.Notice(err.Error())
		return err
	}
	raw, err := v.SyscallConn()
	if err != nil {
		return fmt.Errorf("attach: %w", err)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	a := &attached{v: v, raw: raw, terminal: v.Rows > 0 && v.Cols > 0, wake: make(chan struct{}, 1), done: make(chan struct{})}
	c.admit(a, want)
	defer c.leave(a)
	var pump sync.WaitGroup
	pump.Go(func() {
		if c.pump(ctx, a) {
			cancel() // before Close, which waits for an input that is being written
			v.Close()
		}
	})
	err = c.serve(ctx, a)
	cancel()
	pump.Wait()
	return err
}

func (c *consoleSink) admit(a *attached, want replay) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.viewers[a] = struct{}{}
	if c.absent.here(a) {
		defer c.gaveRoom() // when a is among those that wait waits for
	} else {
		c.past.viewers().Add(a.count())
	}
	if !a.v.ReadOnly {
		c.fit(c.sizes.sized(a, a.v.Rows, a.v.Cols))
	}
	c.begin(a, want)
	if a.terminal && a.v.Terminal && !c.ended && (want.draw || want.again || want.exact) {
		c.take(a)
		return
	}
	c.push(a)
}

// begin finds out where a begins, and what it is shown before. c.mu is held.
func (c *consoleSink) begin(a *attached, want replay) {
	a.there = c.past.end()
	if want.again && !c.ended {
		want.from, want.exact = c.shown.shown(a.v.InputID)
	}
	offset, exact := c.past.begin(want)
	switch {
	case exact:
		a.next = offset
	case a.terminal:
		a.next = a.there
		if want.draw || want.exact || want.again {
			c.display.resize(c.Size())
			a.draw = c.display.redraw(want.draw, a.v.Rows, want.above)
		}
	default:
		a.next, a.redraw = offset, a.there
	}
}

func (c *consoleSink) leave(a *attached) {
	c.mu.Lock()
	defer c.mu.Unlock()
	a.finish()
	c.lose(a)
	delete(c.viewers, a)
	c.gaveRoom()
	c.past.viewers().Add(-a.count())
	c.fit(c.sizes.left(a))
}

// finish is called when nothing more will be sent. c.mu is held.
func (a *attached) finish() {
	if !a.over {
		a.over = true
		close(a.done)
	}
}

// pump goes on with a viewer that was slow, when there is room. It returns when nothing more is to be sent, and says
// whether the viewer is to be closed, which it is not where it has left: what it typed before is still to be read.
func (c *consoleSink) pump(ctx context.Context, a *attached) (closeIt bool) {
	for {
		select {
		case <-ctx.Done():
			return true
		case <-a.done:
			c.mu.Lock()
			defer c.mu.Unlock()
			return c.ended
		case <-a.wake:
		}
		if stuck, gone := c.stuck(a); stuck != nil {
			writable(ctx, stuck, gone)
		} else if a.v.Writable(ctx) != nil {
			return ctx.Err() != nil
		}
		c.mu.Lock()
		c.push(a)
		c.mu.Unlock()
	}
}

// push sends a what it has not got, as far as there is room. c.mu is held.
func (c *consoleSink) push(a *attached) {
	if a.over {
		return
	}
	err := c.send(a)
	if a.slow && !errors.Is(err, sink.ErrSlow) {
		defer c.gaveRoom()
	}
	a.slow = errors.Is(err, sink.ErrSlow)
	switch {
	case a.slow && a.awaited:
	case a.slow:
		select {
		case a.wake <- struct{}{}:
		default:
		}
	case err != nil:
		a.finish()
	}
}

// send sends until all is sent or an error comes; what was sent is not sent again. c.mu is held.
func (c *consoleSink) send(a *attached) error {
	if a.next < c.oldest() {
		c.skip(a)
	}
	if a.cancel {
		if err := a.v.Redraw([]byte(cancelSequence)); err != nil {
			return err
		}
		a.cancel = false
	}
	if a.owed {
		if err := c.giveBack(a); err != nil {
			return err
		}
	}
	for len(a.notices) > 0 {
		if a.tty != nil {
			a.draw = fmt.Appendf(a.draw, "\r\n[%s]\r\n", a.notices[0])
		} else if err := a.v.Notice(a.notices[0]); err != nil {
			return err
		}
		a.notices = a.notices[1:]
	}
	if a.acked != a.ackSent { // behind what there is to say about this input
		if err := a.v.Ack(a.acked); err != nil {
			return err
		}
		a.ackSent = a.acked
	}
	if a.awaited {
		return sink.ErrSlow
	}
	if err := c.tellRestore(a); err != nil {
		return err
	}
	for len(a.draw) > 0 {
		n, err := c.draw(a, a.draw[:min(len(a.draw), sink.ViewerDataMost)])
		if a.draw = a.draw[n:]; err != nil {
			return err
		}
		if len(a.draw) == 0 {
			a.place.done(a.next)
		}
	}
	for a.next < c.past.end() || !a.told || !a.ready {
		if err := c.sendPiece(a); err != nil {
			return err
		}
	}
	if !c.ended {
		return nil
	}
	if a.tty != nil {
		c.drop(a)
		a.owed = true
	}
	if a.owed {
		if err := c.giveBack(a); err != nil {
			return err
		}
	}
	if err := a.v.End(c.exit, c.known); err != nil {
		return err
	}
	a.finish()
	return nil
}

// sendPiece sends the next piece of output, or says that what there was has been shown. c.mu is held.
func (c *consoleSink) sendPiece(a *attached) error {
	if a.told && !a.ready && a.next >= a.there {
		err := a.v.Ready(a.next)
		a.ready = err == nil
		return err
	}
	p := c.at(a.next)
	switch {
	case a.tty != nil:
		n, err := c.draw(a, c.masked(a, a.next, p))
		a.next, a.told = a.next+uint64(n), true
		if a.tty != nil {
			a.place.done(a.next)
		}
		return err
	case a.next < a.redraw:
		p = p[:min(uint64(len(p)), a.redraw-a.next)]
		if err := a.v.Redraw(p); err != nil {
			return err
		}
	default:
		if err := a.v.Output(a.next, c.masked(a, a.next, p)); err != nil {
			return err
		}
		a.told = true
	}
	a.next += uint64(len(p))
	return nil
}

// skip has a viewer that has fallen out of the ring go on with the present, as its terminal is redrawn. Without a terminal it
// goes on with what is kept. c.mu is held.
func (c *consoleSink) skip(a *attached) {
	to := c.past.end()
	if a.terminal {
		a.draw = c.display.redraw(false, 0, 0)
	} else {
		to = max(c.past.sensible(), a.next)
		a.redraw, a.cancel = c.past.end(), true
	}
	a.skipped += to - a.next
	a.next, a.told = to, false
	if now := time.Now(); now.Sub(a.noticed) >= noticeEvery {
		a.notices = append(a.notices, fmt.Sprintf("%d bytes of output were skipped: this viewer reads too slowly", a.skipped))
		a.skipped, a.noticed = 0, now
	}
}

// serve does what the viewer says until it has left (nil), the console has ended or ctx is done (nil), or it
// says what cannot be understood.
func (c *consoleSink) serve(ctx context.Context, a *attached) error {
	if c.in == nil {
		<-ctx.Done() // it is sent what there is, and closed
		return nil
	}
	if err := c.typedBefore(ctx, a); err != nil {
		return err
	}
	for {
		e, err := a.v.Recv()
		switch {
		case errors.Is(err, io.EOF):
			c.mu.Lock()
			a.killed = true // unless it has said before that it would leave
			c.mu.Unlock()
			return nil
		case errors.Is(err, net.ErrClosed):
			return nil
		case err != nil:
			return err
		case e.Kind == sink.ViewerTerminal:
			c.comes(a, e.Terminal, &e.Saved)
			continue
		case e.Kind == sink.ViewerReclaim:
			c.reclaimed(a)
			continue
		}
		if a.v.ReadOnly {
			c.refuse(a)
			continue
		}
		switch err := c.heed(ctx, a, e); {
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, errLeft): // the rest of what it typed, if any, may still find room
		case err != nil:
			return err
		}
	}
}

// typedBefore has a viewer whose client has typed on an earlier connection go on where that one was.
func (c *consoleSink) typedBefore(ctx context.Context, a *attached) error {
	offset, _, known, err := c.keys.before(ctx, a.v.InputID)
	switch {
	case err != nil && ctx.Err() != nil:
		return nil
	case err != nil || !known:
		return err
	}
	a.v.Typed(offset)
	c.mu.Lock()
	defer c.mu.Unlock()
	a.acked = offset
	if !a.slow {
		c.push(a)
	}
	return nil
}

func (c *consoleSink) heed(ctx context.Context, a *attached, e sink.ViewerEvent) error {
	c.mu.Lock()
	if e.Kind == sink.ViewerResize {
		c.fit(c.sizes.sized(a, e.Rows, e.Cols))
	} else {
		c.fit(c.sizes.typed(a))
	}
	c.mu.Unlock()
	switch e.Kind {
	case sink.ViewerTyped: // by itself, and it is in the terminal
	case sink.ViewerInput:
		return c.keys.typed(ctx, a.v.InputID, e.Offset, e.Data, a.raw, func(modes *unix.Termios, lost bool) {
			c.rec.typed(modes, e.Data)
			c.mu.Lock()
			defer c.mu.Unlock()
			if lost {
				a.notices = append(a.notices, lineNotice)
			}
			a.acked = e.Offset + uint64(len(e.Data))
			if !a.slow {
				c.push(a)
			}
		})
	case sink.ViewerEndOfInput:
		return c.keys.endOfInput(ctx, a.v.InputID, e.Offset, a.raw)
	}
	return nil
}

// fit gives the console the size that sizing has found, if any. c.mu is held.
func (c *consoleSink) fit(rows, cols int) {
	if rows > 0 && cols > 0 {
		c.Resize(rows, cols) // it fails only where the terminal is gone, and then nobody is left to care
	}
}

// refuse tells a read-only viewer once that what it says does not count.
func (c *consoleSink) refuse(a *attached) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if a.refused {
		return
	}
	a.refused = true
	a.notices = append(a.notices, "this viewer is read-only: what it types and its size do not count")
	if !a.slow {
		c.push(a)
	}
}
