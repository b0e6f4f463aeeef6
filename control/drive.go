package control

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/muxd/muxd/control/controlpb"
)

// Cursor is a place in the output of a child's console: behind so many bytes of one of the child's runs. The zero
// Cursor is the beginning of the run that is on.
type Cursor struct {
	Run    uint32 // from 1; 0: the one that is on
	Offset uint64
}

func (c Cursor) String() string { return fmt.Sprintf("%d:%d", c.Run, c.Offset) }

// ParseCursor reads what String wrote.
func ParseCursor(s string) (Cursor, error) {
	run, offset, _ := strings.Cut(s, ":")
	r, runErr := strconv.ParseUint(run, 10, 32)
	o, offsetErr := strconv.ParseUint(offset, 10, 64)
	if runErr != nil || offsetErr != nil {
		return Cursor{}, fmt.Errorf("cursor %q: want what send, read or expect told, as 1:4711", s)
	}
	return Cursor{uint32(r), o}, nil
}

// Sent tells what became of a Send.
type Sent struct {
	Cursor  Cursor   // where the output stood before anything was typed: the answer is behind it
	Notices []string // what the console had to say about it
}

// Send types into a child's console, and returns when the terminal has all of it. Keys and what is pasted are typed as the program
// wants them when Send begins. It blocks while the child does not read.
func (c *Client) Send(ctx context.Context, child string, what ...Typed) (Sent, error) {
	return c.SendOnce(ctx, child, "", what...)
}

// inputIDMost is how long the name of an input may be.
const inputIDMost = 32

// SendOnce is Send, and types nothing again of what was typed by an earlier call with the same id, at most 32 bytes long: whoever does not know
// what became of a call makes it once more, with the same words. The console remembers the latest 127 inputs of a run.
func (c *Client) SendOnce(ctx context.Context, child, id string, what ...Typed) (Sent, error) {
	if len(id) > inputIDMost {
		return Sent{}, fmt.Errorf("id %q has %d bytes, at most %d can be told apart", id, len(id), inputIDMost)
	}
	for _, t := range what {
		if _, err := t.bytes(InputModes{}); err != nil {
			return Sent{}, err
		}
	}
	d, err := c.drive(ctx, child, AttachOptions{Replay: "none", InputID: id}, Cursor{})
	if err != nil {
		return Sent{}, err
	}
	defer d.close()
	b, err := d.next(ctx)
	for err == nil && !b.ready {
		b, err = d.next(ctx)
	}
	s := Sent{Cursor: d.cursor(b.there)}
	var modes InputModes
	if err == nil {
		modes, err = c.inputModes(ctx, child, what)
	}
	for _, t := range what {
		var p []byte
		if err == nil {
			p, err = t.bytes(modes)
		}
		if err == nil {
			_, err = d.v.Send(ctx, p)
		}
	}
	if err == nil {
		err = d.v.Settled(ctx)
	}
	if errors.Is(err, net.ErrClosed) {
		err = d.why(err)
	}
	s.Notices = d.notices()
	return s, err
}

// inputModes are those that the console's program has asked for, where they matter for what is typed.
func (c *Client) inputModes(ctx context.Context, child string, what []Typed) (InputModes, error) {
	if !slices.ContainsFunc(what, func(t Typed) bool { _, text := t.(Text); return !text }) {
		return InputModes{}, nil
	}
	r, err := c.API.Screen(ctx, &controlpb.ScreenRequest{Child: child})
	if status.Code(err) == codes.Unimplemented { // a console that does not follow its output
		return InputModes{}, nil
	}
	return inputModes(r.GetModes()), err
}

// Reading is what Read returns.
type Reading struct {
	Data   []byte
	Cursor Cursor // behind Data: for the next Read
	Lost   uint64 // bytes before Data that are not kept any more
}

// Text is Data as text, as Expect looks at it: without control sequences, and with plain newlines.
func (r Reading) Text() string {
	var t plainText
	t.write(0, r.Data)
	return string(t.text)
}

// Read returns the output of a child's console since a cursor, as far as it has come and is kept. It does not end
// inside of a character or of a control sequence, unless that is longer than any sensible one.
func (c *Client) Read(ctx context.Context, child string, since Cursor) (Reading, error) {
	d, err := c.drive(ctx, child, AttachOptions{ReadOnly: true, Hold: true, Replay: since.replay()}, since)
	if err != nil {
		return Reading{}, err
	}
	defer d.close()
	var r Reading
	first, there := since.Offset, uint64(0)
	for ready := false; !ready; {
		b, err := d.next(ctx)
		if err != nil {
			return Reading{}, err
		}
		r.Lost += b.lost
		if len(r.Data) == 0 {
			first = b.first
		}
		r.Data = append(r.Data, b.data...)
		ready, there = b.ready, b.there
	}
	if err := d.behind(since, there); err != nil {
		return Reading{}, err
	}
	r.Data = r.Data[:whole(r.Data)]
	r.Cursor = d.cursor(first + uint64(len(r.Data)))
	return r, nil
}

// sequenceMost is the longest control sequence that Read waits for the end of.
const sequenceMost = 4 << 10

// whole is how much of p ends neither inside of a character nor of a control sequence.
func whole(p []byte) int {
	var t plainText
	t.write(0, p)
	if len(p)-int(t.ground) > sequenceMost {
		return len(p)
	}
	return int(t.ground)
}

// drivenMost is how many bytes of output wait for a program that drives a console.
const drivenMost = 1 << 20

// driven is a console that a program drives, through a viewer that nobody looks at.
type driven struct {
	v        *Viewer
	quiet    bool // the output does not matter
	received sync.WaitGroup

	mu     sync.Mutex    // for what follows
	more   chan struct{} // closed, and made anew, when there is something for next
	room   *sync.Cond    // told when next has taken what there was, and at the end
	batch  batch         // not taken yet
	news   bool          // there is something in it
	said   []string      // notices
	broken error         // what ended the connection
	closed bool
}

// batch is what has come.
type batch struct {
	first uint64 // the offset of data's first byte
	data  []byte
	lost  uint64       // bytes that are missing before data
	ready bool         // all that was there has come
	there uint64       // the offset behind it
	ended *ViewerEvent // the console's end; nothing comes after it
}

// drive attaches a viewer.
func (c *Client) drive(ctx context.Context, child string, o AttachOptions, since Cursor) (*driven, error) {
	v, err := c.Attach(ctx, child, o)
	if err != nil {
		return nil, err
	}
	if since.Run != 0 && since.Run != v.run {
		v.Close()
		return nil, &Error{codes.FailedPrecondition, fmt.Sprintf("cursor %v is in run %d of %s, and this is run %d", since, since.Run, child, v.run)}
	}
	d := &driven{v: v, quiet: o.Replay == "none", more: make(chan struct{}), batch: batch{first: since.Offset}}
	d.room = sync.NewCond(&d.mu)
	d.received.Go(d.receive)
	return d, nil
}

// replay is what a viewer asks for that wants to see the output from c on.
func (c Cursor) replay() string { return fmt.Sprintf("since=%d", c.Offset) }

// behind says what is wrong with a cursor that is behind the end of the output.
func (d *driven) behind(c Cursor, end uint64) error {
	if c.Offset <= end {
		return nil
	}
	return &Error{codes.OutOfRange, fmt.Sprintf("cursor %v is behind the end of the output, which is at %v", c, d.cursor(end))}
}

// close detaches. What was sent still reaches the console.
func (d *driven) close() {
	d.mu.Lock()
	d.closed = true
	d.room.Broadcast()
	d.mu.Unlock()
	d.v.Close()
	d.received.Wait()
}

func (d *driven) cursor(offset uint64) Cursor { return Cursor{d.v.run, offset} }

// next returns what has come since the last call. It blocks until something has, or ctx is done, which is an error
// (its cause), as is a connection that broke.
func (d *driven) next(ctx context.Context) (batch, error) {
	for {
		d.mu.Lock()
		b, news, broken, more := d.batch, d.news, d.broken, d.more
		if news {
			d.batch.first += uint64(len(b.data))
			d.batch.data, d.batch.lost, d.news = nil, 0, false
			d.room.Broadcast()
		}
		d.mu.Unlock()
		switch {
		case news:
			return b, nil
		case broken != nil:
			return b, d.why(broken)
		}
		select {
		case <-more:
		case <-ctx.Done():
			return b, context.Cause(ctx)
		}
	}
}

// receive takes what the console says until it has ended or the connection has.
func (d *driven) receive() {
	for {
		e, err := d.v.Recv()
		d.mu.Lock()
		d.take(e, err)
		for len(d.batch.data) > drivenMost && !d.closed {
			d.room.Wait()
		}
		d.mu.Unlock()
		if err != nil {
			return
		}
	}
}

// take adds what the console said. d.mu is held.
func (d *driven) take(e ViewerEvent, err error) {
	b := &d.batch
	switch {
	case err != nil:
		d.broken = err
	case e.Kind == ViewerNotice:
		d.said = append(d.said, string(e.Data))
		return
	case e.Kind == ViewerOutput && !d.quiet:
		if end := b.first + uint64(len(b.data)); e.Offset > end {
			b.lost += e.Offset - end
			b.first, b.data = e.Offset, nil
		}
		b.data = append(b.data, e.Data...)
		d.news = d.news || len(e.Data) > 0
	case e.Kind == ViewerReady:
		b.ready, b.there, d.news = true, e.Offset, true
	case e.Kind == ViewerEnd:
		b.ended, d.news = &e, true
	default:
		return
	}
	close(d.more)
	d.more = make(chan struct{})
}

func (d *driven) notices() []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.said
}

// why makes the end of a connection that of the console.
func (d *driven) why(err error) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.batch.ended != nil {
		return &Error{codes.FailedPrecondition, "the console has ended"}
	}
	return err
}
