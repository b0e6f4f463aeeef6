package control

import (
	"context"
	"fmt"
	"os"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/muxd/muxd/internal/fd"
	"github.com/muxd/muxd/internal/viewer"
)

// A viewer and its console can be one hop closer to each other, in both directions: the console writes to the viewer's terminal, which the
// client has handed over, and the client types on the master of the console's terminal, which came with the console's Take. What is
// typed so is in the terminal when it is written, so nothing has to be kept, and whoever is killed, it is typed once. The console is told
// how much it was.

const (
	directMost = 256         // what is longer is a paste, which may have to wait for the child: it goes through the console
	typedEvery = time.Second // what was typed is told at once after a silence, and then no more often
)

// direct is the terminal on which a Viewer types by itself. Viewer.mu is for all of it.
type direct struct {
	master *fd.FD      // nil: there is none
	told   uint64      // input up to here has been told
	pause  *time.Timer // until more is told; nil: there was a silence
}

// use takes ownership of descriptor, which came with Take, -1 for none.
func (d *direct) use(v *Viewer, descriptor int) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.taken = true
	d.master.Close()
	d.master = nil
	if descriptor < 0 {
		return
	}
	master := fd.New(descriptor)
	_, err := unix.IoctlGetInt(descriptor, unix.TIOCGPTN)
	flags, flagsErr := unix.FcntlInt(uintptr(descriptor), unix.F_GETFL, 0)
	if v.ended || err != nil || flagsErr != nil || flags&unix.O_NONBLOCK == 0 {
		master.Close()
		return
	}
	d.master = master
}

func (d *direct) stop() {
	d.master.Close()
	d.master = nil
	if d.pause != nil {
		d.pause.Stop()
	}
}

// Type types p at once where the console lets its client do that and nothing that was sent before is still on its way. It returns how many
// of p's bytes were typed, which may be none: Send is for the rest. It does not block.
func (v *Viewer) Type(p []byte) int {
	if len(p) == 0 || len(p) > directMost {
		return 0
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.direct.master == nil || len(v.unacked) > 0 {
		return 0
	}
	n := writeNow(v.direct.master.Int(), p)
	if n == 0 {
		return 0
	}
	v.first += uint64(n)
	if v.direct.pause == nil {
		v.tell()
		v.direct.pause = time.AfterFunc(typedEvery, func() {
			v.mu.Lock()
			defer v.mu.Unlock()
			v.direct.pause = nil
			v.tell()
		})
	}
	return n
}

// writeNow writes what there is room for to a descriptor with O_NONBLOCK. The call does not wait, and somebody waits for what it does: Go's
// scheduler is not told of it, since it wakes a thread of its own that looks after goroutines which are held up in a call.
func writeNow(fd int, p []byte) int {
	for {
		n, _, errno := unix.RawSyscall(unix.SYS_WRITE, uintptr(fd), uintptr(unsafe.Pointer(&p[0])), uintptr(len(p)))
		switch errno {
		case 0:
			return int(n)
		case unix.EINTR:
		default:
			return 0
		}
	}
}

// tell tells the console how far the client has typed by itself, where there is room for that in the socket. mu is held.
func (v *Viewer) tell() {
	if v.ended || v.direct.told >= v.first || v.direct.master == nil {
		return
	}
	var err error
	controlErr := v.raw.Control(func(s uintptr) {
		err = viewer.Send(int(s), viewer.Frame{Type: viewer.Typed, Offset: v.first}.Append(nil), -1)
	})
	if controlErr == nil && err == nil {
		v.direct.told = v.first
	}
}

// tellTyped is tell before the connection ends.
func (v *Viewer) tellTyped() {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.tell()
}

// writeTyped tells how far the client has typed by itself, before input at offset is sent. The caller holds the right to send.
func (v *Viewer) writeTyped(ctx context.Context, offset uint64) error {
	v.mu.Lock()
	first, tell := v.first, v.direct.told < v.first && v.direct.master != nil && offset == v.first
	v.direct.told = max(v.direct.told, first)
	v.mu.Unlock()
	if !tell {
		return nil
	}
	return v.write(ctx, viewer.Frame{Type: viewer.Typed, Offset: first})
}

// HandOver gives the console the terminal that it has asked for: the console writes what it shows to it, until it is told to Reclaim it or has
// ended, and while the terminal has the modes that it has now. tty is a description of the client's own, with O_NONBLOCK: it does not take
// ownership of it. Without it, nil, what is shown comes as ViewerOutput and ViewerRedraw after all. saved are the modes that the console puts
// back where this process is killed.
func (v *Viewer) HandOver(ctx context.Context, tty *os.File, saved *unix.Termios) error {
	var f *fd.FD
	if tty != nil {
		var err error
		if f, err = fd.DupFile(tty); err != nil {
			return fmt.Errorf("hand the terminal over: %w", err)
		}
		defer f.Close()
	}
	return v.say(ctx, viewer.Frame{Type: viewer.Terminal, Data: viewer.AppendModes(nil, saved)}, f.Int())
}

// Reclaim asks for a terminal that was handed over: ViewerScreen says that nothing is written to it any more, as ViewerTake does, with which
// another connection begins.
func (v *Viewer) Reclaim(ctx context.Context) error {
	return v.say(ctx, viewer.Frame{Type: viewer.Reclaim}, -1)
}

// say sends a frame that need not come again on another connection.
func (v *Viewer) say(ctx context.Context, f viewer.Frame, descriptor int) error {
	if err := v.acquire(ctx); err != nil {
		return err
	}
	defer v.release()
	err := v.writeWith(ctx, f, descriptor)
	if v.broken(err) {
		return nil
	}
	return err
}
