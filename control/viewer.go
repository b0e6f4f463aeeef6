package control

import (
	"cmp"
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

// ViewerWindow is how many bytes of input a Viewer keeps until the console has them. Send blocks beyond it.
const ViewerWindow = 64 << 10

// ViewerEventKind says what a console tells its viewer.
type ViewerEventKind int

const (
	ViewerOutput ViewerEventKind = iota + 1 // Data, at Offset of the console's output; Data may be empty
	ViewerRedraw                            // Data draws what came before, and does not count in the output
	ViewerNotice                            // Data is a line of text for the person at the viewer
	ViewerAck                               // input up to Offset is in the terminal
	ViewerEnd                               // the console has ended, with Status where HasStatus
	ViewerReady                             // all output up to Offset has come, which is all that there was when the viewer came
	ViewerTake                              // the console takes the viewer's terminal: HandOver gives it
	ViewerScreen                            // Data would bring the screen of a terminal that was handed over back to normal
)

// ViewerEvent is something that a console tells its viewer.
type ViewerEvent struct {
	Kind      ViewerEventKind
	Offset    uint64
	Data      []byte // valid until the next Recv
	Status    uint32 // as waitpid(2) encodes it
	HasStatus bool

	// ViewerScreen: the terminal is the client's again, and nothing is written to it any more; and the cursor stands behind something.
	Returned, Unfinished bool
}

// Viewer is the client's end of a connection to a child's console. Keystrokes and output pass neither agent nor
// keeper: the other end is with the console's plugin.
//
// One goroutine calls Recv, which must be called all the time: it takes the acknowledgements that Send waits
// for. Any goroutine may call the other methods.
type Viewer struct {
	redial redial        // nil: a connection that breaks is the end
	run    uint32        // of the child, whose console it is; 0: not known
	conn   *net.UnixConn // changed by Recv only, with the right to send and mu
	raw    syscall.RawConn
	in     []byte // Recv's buffer
	over   bool   // Recv has seen the console's end

	sending chan struct{} // holds one element while nobody sends
	out     []byte        // the frame that is being sent
	eof     bool          // the input has ended, and every connection is told so

	mu       sync.Mutex    // for what follows
	changed  chan struct{} // closed and made anew when unacked has shrunk, or the connection has ended
	unacked  []byte        // sent or about to be sent, and not acknowledged
	first    uint64        // the offset of unacked's first byte
	acked    uint64        // the console has the input up to here; more than was sent, where an input of the same name was typed before
	output   uint64        // the console's output up to here has been received
	received bool          // output counts
	ended    bool          // Recv has returned an error, or Close was called
	rows     int           // the size last told
	cols     int
	taken    bool // the console has asked for the terminal
	direct   direct
}

// NewViewer takes ownership of f, a connected Unix SOCK_SEQPACKET socket as Attach returns.
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
	raw, err := uc.SyscallConn()
	if err != nil {
		uc.Close()
		return nil, fmt.Errorf("viewer: %w", err)
	}
	v := &Viewer{conn: uc, raw: raw, sending: make(chan struct{}, 1), changed: make(chan struct{})}
	v.sending <- struct{}{}
	return v, nil
}

// Close ends the connection, which detaches the viewer. What was sent still reaches the console. Blocked calls
// return net.ErrClosed. A second Close does nothing.
func (v *Viewer) Close() error {
	v.tellTyped()
	v.end()
	v.mu.Lock()
	conn := v.conn
	v.mu.Unlock()
	if err := conn.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
		return err
	}
	return nil
}

// Recv blocks until the console tells something. After ViewerEnd the error is io.EOF, and where the connection
// broke without it and no other could be had it says why. A Recv that was blocked when Close was called returns net.ErrClosed.
func (v *Viewer) Recv() (ViewerEvent, error) {
	f, descriptor, err := v.recv()
	for errors.Is(err, io.EOF) && !v.over && v.redial != nil {
		if again := v.reconnect(); again != nil {
			err = fmt.Errorf("the connection to the console broke, and there is no other: %w", again)
			break
		}
		f, descriptor, err = v.recv()
	}
	if f.Type == viewer.Take {
		v.direct.use(v, descriptor)
	} else if descriptor >= 0 {
		unix.Close(descriptor)
	}
	if err != nil {
		v.end()
		return ViewerEvent{}, err
	}
	e := ViewerEvent{Offset: f.Offset, Data: f.Data, Status: f.Status, HasStatus: f.HasStatus}
	switch f.Type {
	case viewer.Output:
		e.Kind = ViewerOutput
		v.mu.Lock()
		v.output, v.received = f.Offset+uint64(len(f.Data)), true
		v.mu.Unlock()
	case viewer.Replay:
		e.Kind = ViewerRedraw
	case viewer.Notice:
		e.Kind = ViewerNotice
	case viewer.Ack:
		e.Kind = ViewerAck
		v.acknowledge(f.Offset)
	case viewer.Ready:
		e.Kind = ViewerReady
	case viewer.Take:
		e.Kind = ViewerTake
	case viewer.Screen:
		e.Kind = ViewerScreen
		e.Returned, e.Unfinished = f.Flags&viewer.Returned != 0, f.Flags&viewer.Unfinished != 0
	case viewer.End:
		e.Kind, v.over = ViewerEnd, true
	default:
		v.end()
		return ViewerEvent{}, fmt.Errorf("receive from the console: frame of type %#x goes to the console only", byte(f.Type))
	}
	return e, nil
}

func (v *Viewer) recv() (f viewer.Frame, descriptor int, err error) {
	if v.in == nil {
		v.in = make([]byte, viewer.MaxFrame+1)
	}
	n, descriptor, err := viewer.Recv(v.raw, v.in)
	switch {
	case errors.Is(err, io.EOF), errors.Is(err, net.ErrClosed):
		return f, -1, err
	case err != nil:
		return f, -1, fmt.Errorf("receive from the console: %w", err)
	}
	if f, err = viewer.Parse(v.in[:n]); err != nil {
		err = fmt.Errorf("receive from the console: %w", err)
	}
	return f, descriptor, err
}

// Send types p into the console and returns how many of p's bytes are on their way: sent, or kept for a later
// connection. Where the console lets its client type by itself, that is done. It blocks while ViewerWindow bytes are unacknowledged or the socket is full. n < len(p) comes with an
// error: ctx's cause when ctx is done, or what ended the connection. It does not keep p.
func (v *Viewer) Send(ctx context.Context, p []byte) (n int, err error) {
	for n < len(p) {
		some, err := v.sendSome(ctx, p[n:])
		n += some
		if err != nil {
			return n, err
		}
	}
	return n, nil
}

// sendSome sends what there is room for. While it waits for room other frames can be sent.
func (v *Viewer) sendSome(ctx context.Context, p []byte) (n int, err error) {
	for {
		room, err := v.room()
		if err != nil {
			return 0, err
		}
		if room != nil {
			select {
			case <-room:
			case <-ctx.Done():
				return 0, context.Cause(ctx)
			}
			continue
		}
		if err := v.acquire(ctx); err != nil {
			return 0, err
		}
		n, err := v.sendKept(ctx, p)
		v.release()
		if n > 0 || err != nil {
			return n, err
		}
	}
}

// sendKept sends a frame of as much of p as there is room for: nothing, where somebody else was faster. The caller
// holds the right to send.
func (v *Viewer) sendKept(ctx context.Context, p []byte) (n int, err error) {
	if n := v.Type(p); n > 0 {
		v.eof = false
		return n, nil
	}
	offset, n := v.keep(p)
	if n == 0 {
		return 0, nil
	}
	v.eof = false
	if err = v.writeTyped(ctx, offset); err == nil {
		err = v.write(ctx, viewer.Frame{Type: viewer.Input, Offset: offset, Data: p[:n]})
	}
	defer v.acknowledge(0) // what the console had before it was sent is not acknowledged again
	switch {
	case err != nil && ctx.Err() != nil:
		v.unkeep(n)
		return 0, err
	case v.broken(err):
		return n, nil // it is kept for the next connection
	}
	return n, err
}

// EndOfInput says that nothing will be typed any more. It blocks like Send, after whatever was sent before.
func (v *Viewer) EndOfInput(ctx context.Context) error {
	if err := v.acquire(ctx); err != nil {
		return err
	}
	defer v.release()
	err := v.write(ctx, viewer.Frame{Type: viewer.EndOfInput})
	broken := v.broken(err)
	v.eof = err == nil || broken
	if broken {
		return nil
	}
	return err
}

// Resize tells the size of the viewer's terminal. Sizes that the protocol cannot say (beyond 65535) are cut.
func (v *Viewer) Resize(ctx context.Context, rows, cols int) error {
	if err := v.acquire(ctx); err != nil {
		return err
	}
	defer v.release()
	v.mu.Lock()
	v.rows, v.cols = rows, cols
	v.mu.Unlock()
	err := v.write(ctx, viewer.Frame{Type: viewer.Resize, Rows: clamp(rows), Cols: clamp(cols)})
	if v.broken(err) {
		return nil // the next connection begins with the size
	}
	return err
}

func clamp(n int) uint16 { return uint16(max(0, min(n, 0xffff))) }

// Settled blocks until the console has all that was sent, which Recv learns, or the connection has ended, or ctx is done.
func (v *Viewer) Settled(ctx context.Context) error {
	for {
		v.mu.Lock()
		ended, left, changed := v.ended, len(v.unacked), v.changed
		v.mu.Unlock()
		switch {
		case left == 0:
			return nil
		case ended:
			return fmt.Errorf("wait for the console: %w", net.ErrClosed)
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// Unacknowledged returns a copy of the input that the console has not acknowledged, and the offset of its first
// byte: what a viewer that reconnects must type again, where the console did not get it.
func (v *Viewer) Unacknowledged() (offset uint64, p []byte) {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.first, append([]byte(nil), v.unacked...)
}

// Position returns how far the console's output has been received. With it as the replay "from=OFFSET" another
// viewer goes on without gap or repeat. known is false before the console has told any offset.
func (v *Viewer) Position() (offset uint64, known bool) {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.output, v.received
}

// room returns nil where input can be kept, and otherwise a channel that is closed when that may have changed.
func (v *Viewer) room() (<-chan struct{}, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	switch {
	case v.ended:
		return nil, fmt.Errorf("send to the console: %w", net.ErrClosed)
	case len(v.unacked) < ViewerWindow:
		return nil, nil
	}
	return v.changed, nil
}

// keep takes as much of p into unacked as there is room for.
func (v *Viewer) keep(p []byte) (offset uint64, n int) {
	v.mu.Lock()
	defer v.mu.Unlock()
	offset = v.first + uint64(len(v.unacked))
	n = min(ViewerWindow-len(v.unacked), len(p))
	v.unacked = append(v.unacked, p[:n]...)
	return offset, n
}

// unkeep forgets the last n bytes that were kept, which could not be sent.
func (v *Viewer) unkeep(n int) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.unacked = v.unacked[:len(v.unacked)-min(n, len(v.unacked))]
}

// acknowledge forgets what was kept below offset, and below every earlier one.
func (v *Viewer) acknowledge(offset uint64) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.acked = max(v.acked, offset)
	offset = v.acked
	if offset <= v.first || len(v.unacked) == 0 {
		return
	}
	n := int(min(offset-v.first, uint64(len(v.unacked))))
	v.unacked = append(v.unacked[:0], v.unacked[n:]...)
	v.first += uint64(n)
	if !v.ended {
		close(v.changed)
		v.changed = make(chan struct{})
	}
}

// end lets every blocked Send return.
func (v *Viewer) end() {
	v.mu.Lock()
	defer v.mu.Unlock()
	if !v.ended {
		v.ended = true
		close(v.changed)
		v.direct.stop()
	}
}

func (v *Viewer) acquire(ctx context.Context) error {
	select {
	case <-v.sending:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (v *Viewer) release() { v.sending <- struct{}{} }

// write sends one frame. The caller holds the right to send. A frame is one packet, so it goes whole or not at all.
func (v *Viewer) write(ctx context.Context, f viewer.Frame) error { return v.writeWith(ctx, f, -1) }

func (v *Viewer) writeWith(ctx context.Context, f viewer.Frame, descriptor int) error {
	v.out = f.Append(v.out[:0])
	interrupted := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		v.conn.SetWriteDeadline(time.Unix(1, 0))
		close(interrupted)
	})
	var sendErr error
	err := v.raw.Write(func(s uintptr) bool {
		sendErr = viewer.Send(int(s), v.out, descriptor)
		return !errors.Is(sendErr, unix.EAGAIN)
	})
	err = cmp.Or(err, sendErr)
	if !stop() {
		<-interrupted
		v.conn.SetWriteDeadline(time.Time{})
		if err != nil {
			return context.Cause(ctx)
		}
	}
	if err != nil {
		return fmt.Errorf("send to the console: %w", err)
	}
	return nil
}
