package pty

import (
	"context"
	"errors"
	"fmt"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/muxd/muxd/plugins/pty/screen"
	"github.com/muxd/muxd/sink"
)

// handed is the terminal of a viewer whose client has handed it over. It owns a descriptor of it, of a description that it shares with that
// client only, and that does not block. The client is in charge of the terminal's modes: it has put it into raw mode before, and takes it
// back before it does anything else with it. Where the modes are others somebody else has the terminal, as a shell whose job the client is
// and which was stopped: then nothing is written. consoleSink.mu is for all of it.
//
// So the states of a viewer with a terminal are
//
//	awaited ── the terminal comes ──> handed ── Reclaim, another one's modes, gone ──> awaited
//	   └───────── it cannot be used ──> framed: what is shown goes through the client
//
// A viewer whose terminal is awaited is shown nothing. A client that ends without a Reclaim was killed: its terminal is
// brought back to normal here.
type handed struct {
	master // its descriptor
	saved  unix.Termios
	raw    unix.Termios
	now    unix.Termios    // for ours
	gone   context.Context // done when nothing more is to be written
	let    context.CancelFunc

	told  bool // what stands in the two that follow
	what  screen.Mode
	depth int
}

// errNotOurs says that somebody else has the terminal.
var errNotOurs = errors.New("the terminal has other modes")

// newHanded takes ownership of descriptor n.
func newHanded(n int, saved *unix.Termios) (*handed, error) {
	h := &handed{master: master{n}, saved: *saved}
	flags, err := unix.FcntlInt(uintptr(n), unix.F_GETFL, 0)
	switch {
	case err != nil:
	case flags&unix.O_ACCMODE == unix.O_RDONLY || flags&unix.O_NONBLOCK == 0:
		err = errors.New("it blocks, or cannot be written to")
	default:
		var raw *unix.Termios
		if raw, err = unix.IoctlGetTermios(n, unix.TCGETS); err == nil {
			h.raw = *raw
		}
	}
	if err != nil {
		h.Close()
		return nil, fmt.Errorf("a viewer's terminal: %w", err)
	}
	h.gone, h.let = context.WithCancel(context.Background())
	return h, nil
}

// ours says whether the terminal has the modes that it came with, as far as somebody who takes it changes them.
func (h *handed) ours() bool {
	const which = unix.ICANON | unix.ECHO | unix.ISIG | unix.IEXTEN
	return ioctlNow(h.fd, unix.TCGETS, unsafe.Pointer(&h.now)) == nil && h.now.Lflag&which == h.raw.Lflag&which
}

// write writes what fits of p. The error is sink.ErrSlow where that is not all of it.
func (h *handed) write(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	if !h.ours() {
		return 0, errNotOurs
	}
	n, err := writeNow(h.fd, p)
	if errors.Is(err, unix.EAGAIN) || err == nil && n < len(p) {
		err = sink.ErrSlow
	}
	return n, err
}

// writable takes ownership of tty, a viewer's terminal, and blocks until there is room in it, it is let go, or ctx is done.
func writable(ctx context.Context, tty *master, gone context.Context) {
	defer tty.Close()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(gone, cancel)()
	tty.wait(ctx, nil) // an error is the next write's
}

// letGo has nothing more written to the terminal.
func (h *handed) letGo() {
	h.let()
	h.Close()
}

// restore brings the terminal back to normal, as far as that can be done at once.
func (h *handed) restore(screen []byte) {
	h.Write(screen)
	if h.ours() {
		unix.IoctlSetTermios(h.fd, unix.TCSETS, &h.saved)
	}
}

// take has a hand its terminal over. Whoever may type there may also do that on the master itself, where what is typed is not
// recorded. c.mu is held.
func (c *consoleSink) take(a *attached) {
	master := -1
	if !a.v.ReadOnly && !c.rec.typing() {
		master = c.in.fd
	}
	a.awaited, a.slow = true, true
	a.v.Take(master) // an error is the end of the connection, which serve notices
}

// comes takes ownership of descriptor n, a terminal that a has handed over.
func (c *consoleSink) comes(a *attached, n int, saved *unix.Termios) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.drop(a)
	h, err := newHanded(n, saved)
	if err != nil {
		fmt.Fprintf(os.Stderr, "sink pty: %v; its client writes to it\n", err)
	}
	if a.tty = h; h != nil {
		a.place = c.shown.place(a.v.InputID)
	}
	a.awaited = false
	if a.back {
		c.drawAnew(a)
	}
	c.push(a)
}

// reclaimed gives the terminal of a back.
func (c *consoleSink) reclaimed(a *attached) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.drop(a)
	a.place.writing() // somebody else will write to it
	a.awaited, a.owed, a.back = true, true, true
	c.push(a)
}

// away has a viewer whose terminal somebody else has, as the console ends, be sent what it would be shown. c.mu is held.
func (c *consoleSink) away(a *attached) {
	if a.awaited && a.back {
		a.awaited, a.slow = false, false
		c.drawAnew(a)
	}
}

// drawAnew has the screen drawn on the terminal of a, which has shown something else. c.mu is held.
func (c *consoleSink) drawAnew(a *attached) {
	rows := a.rows
	if rows == 0 {
		rows = a.v.Rows
	}
	a.back, a.next, a.draw = false, c.past.end(), c.display.redraw(true, rows, 0)
}

// drop lets the terminal of a go, if there is one. c.mu is held.
func (c *consoleSink) drop(a *attached) {
	if a.tty != nil {
		a.tty.letGo()
		a.tty, a.stuck = nil, nil
	}
}

// stuck is a copy of the terminal of a that has no room, owned by the caller, and what is done when it is let go. nil: there is none.
func (c *consoleSink) stuck(a *attached) (*master, context.Context) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if a.stuck == nil {
		return nil, nil
	}
	tty, err := a.stuck.dup()
	if err != nil { // out of descriptors: what it is shown goes through its client from now on
		c.drop(a)
		return nil, nil
	}
	return tty, a.tty.gone
}

// giveBack tells a that its terminal is its own again. c.mu is held.
func (c *consoleSink) giveBack(a *attached) error {
	m := c.display.model
	err := a.v.Returned(m.AppendRestore(nil, m.Changed()), m.Unfinished())
	a.owed = a.owed && err != nil
	return err
}

// lose lets go of the terminal of a, which has left. c.mu is held.
func (c *consoleSink) lose(a *attached) {
	if a.tty != nil && a.killed {
		m := c.display.model
		a.tty.restore(m.AppendRestore(nil, m.Changed()|a.tty.what))
	}
	c.drop(a)
}

// tellRestore tells a what would bring its terminal back to normal, before it becomes something else. c.mu is held.
func (c *consoleSink) tellRestore(a *attached) error {
	h, m := a.tty, c.display.model
	if h == nil {
		return nil
	}
	// What a program changes again and again is told once: to put back what is as it should be harms nobody, but for the alternate
	// screen, whose end moves the cursor.
	what := m.Changed() | h.what&^screen.ModeAlternate
	if h.told && h.what == what && h.depth == m.Depth() {
		return nil
	}
	if err := a.v.Restore(m.AppendRestore(nil, what)); err != nil {
		return err
	}
	h.told, h.what, h.depth = true, what, m.Depth()
	return nil
}

// draw shows p on the terminal of a, as far as there is room, and returns how much it was. c.mu is held.
func (c *consoleSink) draw(a *attached, p []byte) (int, error) {
	if a.tty == nil {
		if err := a.v.Redraw(p); err != nil {
			return 0, err
		}
		return len(p), nil
	}
	a.place.writing()
	n, err := a.tty.write(p)
	a.stuck = nil
	switch {
	case errors.Is(err, sink.ErrSlow):
		a.stuck = a.tty
	case err != nil: // somebody else has it, or it is gone: its client, if there is one, will come with it again
		c.drop(a)
		a.place.writing()
		a.awaited, a.back = true, true
		err = sink.ErrSlow
	}
	return n, err
}
