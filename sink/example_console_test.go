package sink_test

import (
	"bytes"
	"context"
	"errors"
	"os"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/muxd/muxd/sink"
)

// keeps is how much of its latest output a terminal keeps for who attaches later, or reads slowly.
const keeps = 256 << 10

// terminal is a console whose screen nobody follows: it shows viewers what came lately, and then what comes.
type terminal struct {
	o          *sink.Opening
	master     int // a copy of ours, for what is typed
	rows, cols int

	mu      sync.Mutex
	changed *sync.Cond
	out     []byte // the latest output
	end     uint64 // the offset behind it
	over    bool
	viewers map[*watcher]bool
}

// watcher is a viewer, and how far it has been shown the output.
type watcher struct {
	*sink.Viewer
	at   uint64
	left bool
}

func newTerminal(_ context.Context, o *sink.Opening) (sink.ConsoleSink, error) {
	t := &terminal{o: o, rows: o.Rows, cols: o.Cols, viewers: map[*watcher]bool{}}
	t.changed = sync.NewCond(&t.mu)
	var err error
	if o.Again || o.Given { // there is one
		t.master, err = o.Master()
		return t, err
	}
	fd, err := unix.Open("/dev/ptmx", unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	master := os.NewFile(uintptr(fd), "master")
	unlock := unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0)
	n, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.TIOCGPTPEER, unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC)
	if unlock != nil || errno != 0 {
		master.Close()
		return nil, errors.Join(unlock, errno)
	}
	tty := os.NewFile(n, "tty")
	t.master, err = unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 3)
	if err = errors.Join(err, t.Resize(o.Rows, o.Cols)); err != nil {
		master.Close()
		tty.Close()
		unix.Close(t.master)
		return nil, err
	}
	return t, o.Terminal(master, tty)
}

// Write keeps the output, and lets the child wait only for a viewer that is to miss nothing.
func (t *terminal) Write(ctx context.Context, c *sink.Chunk) error {
	defer context.AfterFunc(ctx, t.wake)()
	t.mu.Lock()
	defer t.mu.Unlock()
	for t.behind(c.Offset+uint64(len(c.Data))) && ctx.Err() == nil {
		t.changed.Wait()
	}
	t.out = append(t.out, c.Data...)
	t.out = bytes.Clone(t.out[max(0, len(t.out)-keeps):])
	t.end, t.over = c.Offset+uint64(len(c.Data)), c.Last
	t.changed.Broadcast()
	return ctx.Err()
}

// behind says whether somebody would miss something if the output went on up to end.
func (t *terminal) behind(end uint64) bool {
	for w := range t.viewers {
		if w.Hold && !w.left && w.at+keeps < end {
			return true
		}
	}
	return false
}

func (t *terminal) wake() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.changed.Broadcast()
}

func (t *terminal) Attach(ctx context.Context, v *sink.Viewer) error {
	w := &watcher{Viewer: v}
	t.mu.Lock()
	w.at = t.from(v.Replay)
	t.viewers[w] = true
	t.mu.Unlock()
	defer context.AfterFunc(ctx, t.wake)()
	typed := make(chan error, 1)
	go func() { typed <- t.listen(w) }()
	err := t.show(ctx, w)
	v.Close()
	return errors.Join(err, <-typed)
}

// from is where a viewer begins.
func (t *terminal) from(replay string) uint64 {
	oldest := t.end - uint64(len(t.out))
	how, text, _ := strings.Cut(replay, "=")
	n, _ := strconv.ParseUint(text, 10, 64)
	switch how {
	case "none":
		return t.end
	case "from", "since":
		return min(max(n, oldest), t.end)
	}
	return oldest
}

// show shows a viewer what comes, until it leaves or the console ends.
func (t *terminal) show(ctx context.Context, w *watcher) error {
	defer func() {
		t.mu.Lock()
		defer t.mu.Unlock()
		delete(t.viewers, w)
		t.changed.Broadcast()
	}()
	for ready := false; ; {
		t.mu.Lock()
		for ready && w.at == t.end && !t.over && !w.left && ctx.Err() == nil {
			t.changed.Wait()
		}
		oldest := t.end - uint64(len(t.out))
		missed := w.at < oldest
		w.at = max(w.at, oldest)
		piece := bytes.Clone(t.out[w.at-oldest:])
		piece = piece[:min(len(piece), sink.ViewerDataMost)]
		over, left, all := t.over, w.left, t.end == w.at+uint64(len(piece))
		t.mu.Unlock()
		if left || ctx.Err() != nil {
			return nil
		}
		if missed {
			if err := w.send(ctx, func() error { return w.Redraw([]byte("\r\n[something is missing here]\r\n")) }); err != nil {
				return err
			}
		}
		if err := w.send(ctx, func() error { return w.Output(w.at, piece) }); err != nil {
			return err
		}
		t.mu.Lock()
		w.at += uint64(len(piece))
		t.changed.Broadcast()
		t.mu.Unlock()
		if all && !ready {
			ready = true
			if err := w.send(ctx, func() error { return w.Ready(w.at) }); err != nil {
				return err
			}
		}
		if over && all {
			status, known := t.o.Status()
			return w.send(ctx, func() error { return w.End(status, known) })
		}
	}
}

// send sends something as soon as there is room.
func (w *watcher) send(ctx context.Context, what func() error) error {
	for {
		err := what()
		if !errors.Is(err, sink.ErrSlow) {
			return nil // other errors say that it has left, which listen sees too
		}
		if err := w.Writable(ctx); err != nil {
			return nil
		}
	}
}

// listen does what a viewer asks for, until it leaves.
func (t *terminal) listen(w *watcher) error {
	defer func() {
		t.mu.Lock()
		defer t.mu.Unlock()
		w.left = true
		t.changed.Broadcast()
	}()
	for {
		e, err := w.Recv()
		if err != nil {
			return nil
		}
		switch {
		case w.ReadOnly:
		case e.Kind == sink.ViewerInput:
			if err := t.typeIn(e.Data); err != nil {
				return err
			}
			w.Ack(e.Offset + uint64(len(e.Data)))
		case e.Kind == sink.ViewerEndOfInput:
			t.typeIn([]byte{4}) // ctrl-d
		case e.Kind == sink.ViewerResize:
			t.Resize(e.Rows, e.Cols)
		}
	}
}

// typeIn writes to the terminal, whose master is non-blocking.
func (t *terminal) typeIn(b []byte) error {
	for len(b) > 0 {
		n, err := unix.Write(t.master, b)
		switch {
		case err == unix.EAGAIN:
			unix.Poll([]unix.PollFd{{Fd: int32(t.master), Events: unix.POLLOUT}}, 100)
		case err != nil && err != unix.EINTR:
			return err
		case n > 0:
			b = b[n:]
		}
	}
	return nil
}

func (t *terminal) Resize(rows, cols int) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.rows, t.cols = rows, cols
	return unix.IoctlSetWinsize(t.master, unix.TIOCSWINSZ, &unix.Winsize{Row: uint16(rows), Col: uint16(cols)})
}

func (t *terminal) Size() (rows, cols int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.rows, t.cols
}

func (t *terminal) Screen() (*sink.Screen, error) { return nil, errors.ErrUnsupported }

func (t *terminal) Mark(context.Context, string) error { return errors.New("it records nothing") }

func (t *terminal) Remains() []byte { return nil }

func (t *terminal) Close() error { return unix.Close(t.master) }

// A console: the plugin makes a terminal, which the SDK reads, and serves the viewers.
func Example_console() {
	sink.Serve(sink.Plugin{
		Name:        "terminal",
		Help:        "shows what came lately",
		Carries:     []sink.Stream{sink.Console},
		OpenConsole: newTerminal,
	})
}
