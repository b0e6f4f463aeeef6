package sink

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/muxd/muxd/internal/viewer"
)

// ErrSlow says that a viewer's socket is full: the viewer reads too slowly. Nothing was sent. See Viewer.Writable.
var ErrSlow = errors.New("the viewer reads too slowly: its socket is full")

// ViewerDataMost is the most bytes that one Output, Redraw or Notice may have.
const ViewerDataMost = viewer.MaxData

// ViewerEventKind says what a viewer has done.
type ViewerEventKind int

const (
	ViewerInput      ViewerEventKind = iota + 1 // it typed Data
	ViewerResize                                // its terminal has Rows and Cols now
	ViewerEndOfInput                            // it will type nothing any more, and goes on watching
	ViewerTerminal                              // it hands its terminal over, since it was asked to with Take
	ViewerReclaim                               // it wants its terminal back: Returned answers, and nothing is written to it from then on
	ViewerTyped                                 // it has typed up to Offset by itself, on the master that Take has given
)

// ViewerEvent is something that a viewer did.
type ViewerEvent struct {
	Kind       ViewerEventKind
	Offset     uint64 // in this viewer's input, of Data's first byte; with ViewerEndOfInput and ViewerTyped of its end
	Data       []byte // ViewerInput; valid until the next Recv
	Rows, Cols int    // ViewerResize

	// ViewerTerminal: a descriptor of the terminal, owned by the caller, -1 where it did not arrive; and the modes that its owner wants back.
	Terminal int
	Saved    unix.Termios
}

// Viewer is a client attached to a console. A console sink gets one with ConsoleSink.Attach, and the SDK closes it when
// Attach returns.
//
// One goroutine may call Recv, and any number everything else. What is sent never blocks: a viewer that
// does not read is the sink's to wait for (Writable), to skip (Redraw) or to leave (Close).
type Viewer struct {
	ReadOnly   bool   // what it types and its size do not count
	Replay     string // what it wants to see of the past: screen, all, none, lines=N, from=OFFSET, since=OFFSET
	Rows, Cols int    // of its terminal at the beginning; zero where it has none
	Hold       bool   // it shall miss nothing: the console waits where it reads too slowly
	InputID    []byte // the name of its input, at most 32 bytes, by which an earlier connection of its client is known; empty: none
	Terminal   bool   // it can hand over its terminal: see Take

	typist *typist // nil: what it types does not count
	conn   *net.UnixConn
	raw    syscall.RawConn

	in        []byte // Recv's buffer, made when it is first called
	begun     bool   // inputNext counts
	inputNext uint64 // the offset that the viewer's next input has
	typed     uint64 // input below this was typed on an earlier connection
	taking    bool   // Take was sent, and no terminal has come; mu

	mu  sync.Mutex // for what follows
	out []byte     // the frame that is being sent
}

// newViewer takes ownership of conn, the sink's end of a SOCK_SEQPACKET socket pair whose other end the client has.
// The caller sets the exported fields.
func newViewer(conn *net.UnixConn) *Viewer {
	raw, err := conn.SyscallConn()
	if err != nil {
		panic("sink: a viewer needs a connection: " + err.Error())
	}
	return &Viewer{conn: conn, raw: raw}
}

// NewViewer makes a viewer without muxd, for the tests of a console sink. It takes ownership of f, one end of a
// SOCK_SEQPACKET Unix socket pair; the test is the client at the other end. The caller sets the exported fields.
func NewViewer(f *os.File) (*Viewer, error) {
	defer f.Close()
	c, err := net.FileConn(f)
	if err != nil {
		return nil, fmt.Errorf("viewer: %w", err)
	}
	uc, ok := c.(*net.UnixConn)
	if !ok || uc.LocalAddr().Network() != "unixpacket" {
		c.Close()
		return nil, errors.New("viewer: not a Unix SEQPACKET socket")
	}
	return newViewer(uc), nil
}

// Close ends the connection. What was sent before stays readable for the client. A Recv or Writable that blocks
// returns net.ErrClosed. A second Close does nothing.
func (v *Viewer) Close() error {
	if err := v.conn.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
		return err
	}
	return nil
}

// Typed says that the client's input below offset was typed on an earlier connection, whose InputID was the same: Recv does not return it
// again. It is called before the first Recv. The client is to be told with Ack.
func (v *Viewer) Typed(offset uint64) { v.typed = offset }

// SyscallConn gives the socket to poll(2) it next to others: POLLHUP says that the client has left, also while
// what it typed before has not been received. The socket's flags must stay as they are.
func (v *Viewer) SyscallConn() (syscall.RawConn, error) { return v.raw, nil }

// Recv blocks until the viewer does something. io.EOF: it has left. net.ErrClosed: Close was called. Any other
// error, such as a malformed frame, is the end of this viewer too; the viewer has been told why.
//
// Input comes without a gap and without a repeat: what a client that reconnected sends a second time on the same
// connection is dropped here.
func (v *Viewer) Recv() (ViewerEvent, error) {
	for {
		if v.in == nil {
			// One more than the largest frame, since a longer packet is cut off silently.
			v.in = make([]byte, viewer.MaxFrame+1)
		}
		n, descriptor, err := viewer.Recv(v.raw, v.in)
		switch {
		case errors.Is(err, io.EOF), errors.Is(err, net.ErrClosed):
			return ViewerEvent{}, err
		case err != nil:
			return ViewerEvent{}, fmt.Errorf("receive from a viewer: %w", err)
		}
		e, ok, err := v.event(v.in[:n])
		if e.Kind == ViewerTerminal {
			e.Terminal = descriptor
		} else if descriptor >= 0 {
			unix.Close(descriptor)
		}
		if err != nil {
			v.Notice("muxd did not understand this viewer, and ends the connection: " + err.Error())
			return ViewerEvent{}, err
		}
		if ok {
			return e, nil
		}
	}
}

// event reads a packet. ok is false where it says nothing new.
func (v *Viewer) event(b []byte) (e ViewerEvent, ok bool, err error) {
	f, err := viewer.Parse(b)
	if err != nil {
		return e, false, err
	}
	switch f.Type {
	case viewer.Input:
		return v.input(f)
	case viewer.Resize:
		return ViewerEvent{Kind: ViewerResize, Rows: int(f.Rows), Cols: int(f.Cols)}, true, nil
	case viewer.EndOfInput:
		return ViewerEvent{Kind: ViewerEndOfInput, Offset: max(v.inputNext, v.typed)}, true, nil
	case viewer.Terminal:
		v.mu.Lock()
		asked := v.taking
		v.taking = false
		v.mu.Unlock()
		if !asked {
			return e, false, errors.New("a terminal came that was not asked for")
		}
		e.Kind = ViewerTerminal
		viewer.ParseModes(f.Data, &e.Saved)
		return e, true, nil
	case viewer.Reclaim:
		v.mu.Lock()
		v.taking = v.Terminal // it may come again
		v.mu.Unlock()
		return ViewerEvent{Kind: ViewerReclaim}, true, nil
	case viewer.Typed:
		return v.typedItself(f.Offset)
	}
	return e, false, fmt.Errorf("viewer frame of type %#x goes from the console to the viewer only", byte(f.Type))
}

func (v *Viewer) input(f viewer.Frame) (e ViewerEvent, ok bool, err error) {
	if !v.begun {
		v.begun, v.inputNext = true, max(f.Offset, v.typed)
	}
	end := f.Offset + uint64(len(f.Data))
	switch {
	case end < f.Offset:
		return e, false, fmt.Errorf("viewer input at offset %d: there are no offsets beyond its end", f.Offset)
	case f.Offset > v.inputNext:
		return e, false, fmt.Errorf("viewer input at offset %d: the bytes from %d on are missing", f.Offset, v.inputNext)
	case end <= v.inputNext:
		return e, false, nil
	}
	e = ViewerEvent{Kind: ViewerInput, Offset: v.inputNext, Data: f.Data[v.inputNext-f.Offset:]}
	v.inputNext = end
	v.typist.count(e.Offset, len(e.Data))
	return e, true, nil
}

// typedItself goes on behind what the client has typed itself.
func (v *Viewer) typedItself(offset uint64) (e ViewerEvent, ok bool, err error) {
	if !v.begun {
		if v.begun, v.inputNext = true, v.typed; v.Replay == "again" {
			v.inputNext = max(offset, v.typed) // an earlier connection was told of most of it
			v.typist.countAgain(offset)
		}
	}
	if offset <= v.inputNext {
		return e, false, nil
	}
	v.typist.count(v.inputNext, int(min(offset-v.inputNext, typedAtOnce)))
	v.inputNext = offset
	return ViewerEvent{Kind: ViewerTyped, Offset: offset}, true, nil
}

// typedAtOnce bounds what a client can say that it has typed.
const typedAtOnce = 1 << 20

// Output sends console output whose first byte has that offset in the stream. Without bytes it tells the viewer where
// the output stands, which a viewer that got a Redraw cannot know otherwise. At most ViewerDataMost bytes.
func (v *Viewer) Output(offset uint64, p []byte) error {
	return v.send(viewer.Frame{Type: viewer.Output, Offset: offset, Data: p})
}

// Redraw sends bytes that draw what came before. They do not count in the output's offset. At most ViewerDataMost bytes.
func (v *Viewer) Redraw(p []byte) error {
	return v.send(viewer.Frame{Type: viewer.Replay, Data: p})
}

// Ack tells the viewer that its input up to offset is in the terminal and need not be kept any longer.
func (v *Viewer) Ack(offset uint64) error {
	return v.send(viewer.Frame{Type: viewer.Ack, Offset: offset})
}

// Ready tells the viewer that it has been shown all output up to offset, which is all that there was when it came, or more.
func (v *Viewer) Ready(offset uint64) error {
	return v.send(viewer.Frame{Type: viewer.Ready, Offset: offset})
}

// Notice tells the person at the viewer something, in one line. Text beyond ViewerDataMost bytes is cut off.
func (v *Viewer) Notice(text string) error {
	return v.send(viewer.Frame{Type: viewer.Notice, Data: []byte(text[:min(len(text), viewer.MaxData)])})
}

// End tells that the console has ended, with the child's wait status (as waitpid(2) encodes it) where it is known.
func (v *Viewer) End(status uint32, known bool) error {
	return v.send(viewer.Frame{Type: viewer.End, Status: status, HasStatus: known})
}

// Take asks a viewer whose Terminal is set for its terminal, which comes with ViewerTerminal. With master, a descriptor of the console's PTY
// master with O_NONBLOCK, -1 for none, the client may type there itself, and says so with ViewerTyped. It does not take ownership of master.
func (v *Viewer) Take(master int) error {
	v.mu.Lock()
	v.taking = true
	v.mu.Unlock()
	return v.sendWith(viewer.Frame{Type: viewer.Take}, master)
}

// Restore tells a viewer that has handed over its terminal what would bring its screen back to normal, for the case that this process is
// killed. At most ViewerDataMost bytes.
func (v *Viewer) Restore(p []byte) error {
	return v.send(viewer.Frame{Type: viewer.Screen, Data: p})
}

// Returned gives the terminal back: nothing is written to it any more. p brings its screen back to normal, and unfinished says that
// the cursor stands behind something in its line.
func (v *Viewer) Returned(p []byte, unfinished bool) error {
	flags := byte(viewer.Returned)
	if unfinished {
		flags |= viewer.Unfinished
	}
	return v.send(viewer.Frame{Type: viewer.Screen, Flags: flags, Data: p})
}

// send sends a whole frame, or nothing: ErrSlow; io.EOF where the client has left; net.ErrClosed.
func (v *Viewer) send(f viewer.Frame) error { return v.sendWith(f, -1) }

func (v *Viewer) sendWith(f viewer.Frame, descriptor int) error {
	if len(f.Data) > viewer.MaxData {
		return fmt.Errorf("send to a viewer: %d bytes at once, the most is %d", len(f.Data), viewer.MaxData)
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	v.out = f.Append(v.out[:0])
	var sendErr error
	err := v.raw.Control(func(s uintptr) { sendErr = viewer.Send(int(s), v.out, descriptor) })
	switch {
	case err != nil:
		return net.ErrClosed
	case sendErr == nil:
		return nil
	case errors.Is(sendErr, unix.EAGAIN):
		return ErrSlow
	case errors.Is(sendErr, unix.EPIPE), errors.Is(sendErr, unix.ECONNRESET):
		return io.EOF
	}
	return fmt.Errorf("send to a viewer: %w", os.NewSyscallError("sendto", sendErr))
}

// Writable blocks until there is room in the viewer's socket, which is when three quarters of it are free
// (unix_writable in net/unix/af_unix.c), or the viewer has left. It returns ctx's cause when ctx is done, and
// net.ErrClosed after Close. One goroutine may call it at a time.
func (v *Viewer) Writable(ctx context.Context) error {
	defer v.conn.SetWriteDeadline(time.Time{})
	interrupted := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		v.conn.SetWriteDeadline(time.Unix(1, 0))
		close(interrupted)
	})
	var pollErr error
	err := v.raw.Write(func(s uintptr) bool {
		var ready bool
		ready, pollErr = pollNow(int(s), unix.POLLOUT)
		return ready
	})
	if !stop() {
		<-interrupted // so that the deadline is not set after it has been taken back
		return context.Cause(ctx)
	}
	switch {
	case err != nil:
		return net.ErrClosed
	case pollErr != nil:
		return fmt.Errorf("wait for a viewer: %w", pollErr)
	}
	return nil
}

// pollNow says without blocking whether s is ready for events or has an error or hang-up to tell.
func pollNow(s int, events int16) (bool, error) {
	fds := []unix.PollFd{{Fd: int32(s), Events: events}}
	for {
		n, err := unix.Poll(fds, 0)
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil:
			return true, os.NewSyscallError("poll", err)
		default:
			return n > 0, nil
		}
	}
}
