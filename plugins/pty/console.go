package pty

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"time"
	"unsafe"

	"github.com/containerd/console"
	"golang.org/x/sys/unix"

	"github.com/muxd/muxd/sink"
)

// endGrace is how long the end of a console waits for viewers that have not taken the last of its output.
const endGrace = 2 * time.Second

// consoleSink is one console. It owns a copy of the terminal's master.
//
// Its lock is held for copies of memory and for sends that do not block, never for anything that waits.
type consoleSink struct {
	in     *master         // nil: it has ended, and is what it has left (past.go)
	size   console.Console // in, for its window size
	status func() (status uint32, known bool)
	keys   keyboard
	rec    *recorder // nil: no recording
	stop   func()    // ends work; nil: there is none
	work   sync.WaitGroup

	mu      sync.Mutex // for what follows, and for every attached
	display *display
	past    ring // the display's
	shown   shownMemory
	now     []byte // the piece that is being shown: it ends where past ends, and may be longer than past is
	viewers map[*attached]struct{}
	absent  absent
	room    chan struct{} // closed, and made anew, when a viewer has caught up, left or come back
	sizes   sizing
	ended   bool
	exit    uint32
	known   bool

	dealt     *atomic.Uint64 // offset behind the last question of the program that was dealt with
	questions []question
	answers   []byte // to be typed
}

// newConsole takes ownership of in. mem holds the latest output, of a predecessor too; status is asked when the console
// has ended.
func newConsole(in *master, mem memory, status func() (uint32, bool)) (*consoleSink, error) {
	size, err := console.ConsoleFromFile(in)
	if err != nil {
		in.Close()
		return nil, fmt.Errorf("console: %w", err)
	}
	c := &consoleSink{
		in:      in,
		size:    size,
		status:  status,
		past:    mem.past,
		shown:   mem.shown,
		dealt:   mem.saves.dealt(),
		viewers: map[*attached]struct{}{},
		room:    make(chan struct{}),
	}
	c.keys.init(in, mem.input, newStage)
	c.absent = newAbsent(c.past.viewers().Load())
	rows, cols := c.Size()
	c.display = newDisplay(mem, rows, cols, c.asked)
	c.answer()
	return c, nil
}

// Write shows a chunk of output to all viewers and does not wait for them. Only the last one waits, for endGrace at most,
// until every viewer's socket has taken all there is.
func (c *consoleSink) Write(ctx context.Context, k *sink.Chunk) error {
	if k.Last {
		if err := c.end(ctx); err != nil {
			return err
		}
		return c.rec.end(ctx, k, c.status)
	}
	for done := 0; done < len(k.Data); {
		n := min(len(k.Data)-done, sink.ViewerDataMost)
		c.show(k.Offset+uint64(done), k.Data[done:done+n])
		done += n
		c.answer()
		err := c.wait(ctx)
		c.mu.Lock()
		c.now = nil
		c.mu.Unlock()
		if err != nil {
			return err
		}
	}
	return c.rec.output(ctx, k)
}

// wait returns when no viewer that is to miss nothing is behind, or on its way back.
func (c *consoleSink) wait(ctx context.Context) error {
	for {
		c.mu.Lock()
		behind := c.absent.holding > 0
		for a := range c.viewers {
			behind = behind || a.v.Hold && a.slow && !a.over
		}
		room := c.room
		c.mu.Unlock()
		if !behind {
			return nil
		}
		select {
		case <-room:
		case <-c.absent.late.C:
			c.mu.Lock()
			c.past.viewers().Add(-c.absent.giveUp())
			c.mu.Unlock()
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// gaveRoom lets a Write look again that waits for viewers. c.mu is held.
func (c *consoleSink) gaveRoom() {
	close(c.room)
	c.room = make(chan struct{})
}

func (c *consoleSink) show(offset uint64, piece []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.display.resize(c.Size())
	c.display.write(offset, piece)
	if offset+uint64(len(piece)) == c.past.end() {
		c.now = piece
	}
	for a := range c.viewers {
		if !a.slow {
			c.push(a)
		}
	}
}

func (c *consoleSink) end(ctx context.Context) error {
	grace, cancel := context.WithTimeout(ctx, endGrace)
	defer cancel()
	select { // viewers whose connection broke with a predecessor are on their way
	case <-c.absent.back:
	case <-grace.Done():
	}
	c.keys.settled(grace)
	c.mu.Lock()
	c.exit, c.known = c.status()
	c.ended = true
	var waiting []<-chan struct{}
	for a := range c.viewers {
		c.away(a)
		waiting = append(waiting, a.done)
		if !a.slow {
			c.push(a)
		}
	}
	c.mu.Unlock()

	for _, done := range waiting {
		select {
		case <-done:
		case <-grace.Done():
			return context.Cause(ctx)
		}
	}
	return nil
}

// oldest is the offset of the oldest byte that can still be shown. c.mu is held.
func (c *consoleSink) oldest() uint64 {
	return min(c.past.start(), c.past.end()-uint64(len(c.now)))
}

// at is output from offset on, in one piece and not longer than a frame. c.mu is held.
func (c *consoleSink) at(offset uint64) []byte {
	p := c.past.at(max(offset, c.past.start()))
	if begin := c.past.end() - uint64(len(c.now)); offset >= begin {
		p = c.now[offset-begin:]
	}
	return p[:min(len(p), sink.ViewerDataMost)]
}

// Resize sets the window size. The kernel sends SIGWINCH to the terminal's foreground group where it is another size.
func (c *consoleSink) Resize(rows, cols int) error {
	if c.in == nil {
		return errEnded
	}
	if rows <= 0 || cols <= 0 || rows > 0xffff || cols > 0xffff {
		return fmt.Errorf("resize the console: %dx%d is no size", rows, cols)
	}
	if err := c.size.Resize(console.WinSize{Height: uint16(rows), Width: uint16(cols)}); err != nil {
		return fmt.Errorf("resize the console: %w", err)
	}
	c.rec.resized(rows, cols)
	return nil
}

// Mark notes a marker in the recording.
func (c *consoleSink) Mark(ctx context.Context, label string) error { return c.rec.mark(ctx, label) }

// Size is the window size, which the child may have changed by itself; zeros where it cannot be told.
func (c *consoleSink) Size() (rows, cols int) {
	if c.in == nil {
		return 0, 0
	}
	var size unix.Winsize
	if ioctlNow(c.in.fd, unix.TIOCGWINSZ, unsafe.Pointer(&size)) != nil {
		return 0, 0
	}
	return int(size.Row), int(size.Col)
}

// keep has park keep the stage of what is typed. left is a predecessor's, which it takes ownership of: what that one had in hand is typed now.
func (c *consoleSink) keep(park func(*os.File) error, left *os.File) error {
	c.keys.made = func() (*os.File, error) {
		f, err := newStage()
		if err == nil {
			err = park(f)
		}
		return f, err
	}
	<-c.keys.free // nobody types yet
	pending, err := c.keys.inherit(left)
	if err != nil || !pending {
		c.keys.give()
		return err
	}
	ctx, cancel := context.WithCancel(context.Background())
	c.stop = cancel
	c.work.Go(func() { // the child may not read just now
		defer c.keys.give()
		if err := c.keys.settle(ctx, nil); err != nil && ctx.Err() == nil {
			fmt.Fprintf(os.Stderr, "sink pty: what was being typed: %v\n", err)
		}
	})
	return nil
}

// Close closes the console's copy of the master, and its recording.
func (c *consoleSink) Close() error {
	if c.stop != nil {
		c.stop()
	}
	c.work.Wait()
	if c.in == nil {
		return nil
	}
	return errors.Join(c.keys.close(), c.in.Close(), c.rec.close())
}
