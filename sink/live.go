package sink

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/muxd/muxd/internal/fd"
	"github.com/muxd/muxd/internal/fdchan"
	"github.com/muxd/muxd/internal/latch"
	"github.com/muxd/muxd/internal/stage"
	"github.com/muxd/muxd/sink/sinkpb"
)

// opening is an Opening that is being served.
type opening struct {
	srv        *server
	pub        *Opening
	wiring     Wiring
	sink       interface{ Close() error }
	console    ConsoleSink // the same as sink, where it is one
	ctx        context.Context
	cancel     context.CancelFunc
	opened     chan struct{}             // closed when open has returned
	openErr    error                     // what it returned; set before opened is closed
	viewers    sync.WaitGroup            // Attach calls
	count      int                       // of viewers; server.mu
	typists    map[*typedEntry]*typist   // viewers that may type; server.mu
	typed      []typedNews               // by them, and not told yet; server.mu
	typedTable typedTable                // behind Opening.Memory of a console; server.mu
	memoryFD   *fd.FD                    // of Opening.Memory; server.mu
	mapped     []byte                    // that, with what is behind it
	parking    sync.Mutex                // held while anything of it is parked, so that what Repark parks is never older than what is there
	parked     map[string][]syscall.Conn // what the sink has parked, by tag; server.mu
	tags       map[string]bool           // under which something was parked, by a predecessor too; server.mu
	closing    sync.Once
	forgotten  atomic.Bool      // nobody comes again
	branches   []*sinkpb.Branch // as they were when it was opened
	lossy      bool             // its stream is a branch that may lose some of it
	flows      []*flow
	input      *flow         // once stdin has been closed; server.mu
	early      []earlyNumber // server.mu
	shut       bool          // the sink is closed; server.mu
}

func newOpening(s *server, id string, r *Request, w Wiring) *opening {
	o := &opening{srv: s, wiring: w, opened: make(chan struct{})}
	o.ctx, o.cancel = context.WithCancel(context.Background())
	o.pub = &Opening{Request: *r, ID: id, Rows: 24, Cols: 80, live: o}
	return o
}

// open makes the sink and moves the descriptors.
func (o *opening) open(ctx context.Context, ticket fdchan.Ticket) (*sinkpb.OpenResponse, error) {
	if !o.pub.Again { // what runs goes on
		if err := room(); err != nil {
			return nil, openError(err)
		}
	}
	switch {
	case o.wiring == Direct:
		return o.openDirect(ctx, ticket)
	case o.srv.plugin.OpenConsole != nil && (o.pub.Again || o.pub.Given):
		return o.openConsoleGiven(ctx, ticket)
	case o.wiring == PTY:
		return o.openConsole(ctx, ticket)
	}
	return o.openPipes(ctx, ticket)
}

// openConsoleGiven takes over the terminal of a predecessor, or one that somebody else made.
func (o *opening) openConsoleGiven(ctx context.Context, ticket fdchan.Ticket) (*sinkpb.OpenResponse, error) {
	d, err := o.srv.ep().Take(ctx, ticket, 1+endsOf(o.branches...))
	if err != nil {
		return nil, openError(err)
	}
	ends := slices.Clone(d.FDs[1:])
	defer func() { fd.CloseAll(ends) }()
	o.pub.master = d.FDs[0]
	clear(d.FDs)
	fail := func(err error) (*sinkpb.OpenResponse, error) {
		d.Refuse(err)
		o.pub.master.Close()
		o.close(!o.pub.Again) // nobody comes again for what was never open
		return nil, openError(err)
	}
	if err := unix.SetNonblock(o.pub.master.Int(), true); err != nil {
		return fail(fmt.Errorf("set O_NONBLOCK on the terminal's master: %w", err))
	}
	// The terminal side by its master, whatever mount namespace it was made in (TIOCGPTPEER, ioctl_tty(2)).
	tty, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(o.pub.master.Int()), unix.TIOCGPTPEER,
		unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC)
	if errno != 0 {
		return fail(fmt.Errorf("open the console's terminal: %w", errno))
	}
	o.pub.tty = fd.New(int(tty))
	console, err := o.srv.plugin.OpenConsole(ctx, o.pub)
	if err != nil {
		return fail(err)
	}
	o.console = console
	o.sink = o.console
	branches, err := branchesOf(o.branches, ends)
	ends = nil
	if err != nil {
		return fail(err)
	}
	if err := o.read(o.pub.master, Console, console, branches, nil); err != nil {
		return fail(err)
	}
	d.Ack() // where that fails the agent has died, and another will open it again
	return &sinkpb.OpenResponse{Wiring: sinkpb.Wiring(o.wiring)}, nil
}

func (o *opening) openPipes(ctx context.Context, ticket fdchan.Ticket) (*sinkpb.OpenResponse, error) {
	n := len(o.pub.Streams) + endsOf(o.branches...)
	if o.lossy {
		n++
	}
	d, err := o.srv.ep().Take(ctx, ticket, n)
	if err != nil {
		return nil, openError(err)
	}
	fail := func(err error) (*sinkpb.OpenResponse, error) {
		d.Refuse(err)
		o.close(!o.pub.Again) // nobody comes again for what was never open
		return nil, openError(err)
	}
	for i, st := range o.pub.Streams {
		if st != Stdin {
			continue
		}
		in, err := newInput(d.FDs[i], o.inputClosed)
		d.FDs[i] = nil
		if err == nil {
			o.srv.mu.Lock()
			o.pub.Input = in
			o.srv.mu.Unlock()
			err = o.stageInput(in)
		}
		if err != nil {
			return fail(fmt.Errorf("take stdin: %w", err))
		}
	}
	if o.srv.plugin.Copies {
		far, ends := d.FDs[0], slices.Clone(d.FDs[1:])
		clear(d.FDs)
		if err := o.copies(far, ends, o.branches); err != nil {
			return fail(err)
		}
		d.Ack()
		return &sinkpb.OpenResponse{Wiring: sinkpb.Wiring_PIPE}, nil
	}
	if o.srv.plugin.Open == nil && o.srv.plugin.OpenRaw == nil {
		return fail(fmt.Errorf("sink %s reads no pipes", o.srv.plugin.Name))
	}
	if _, err := o.srv.engine(); err != nil {
		return fail(err)
	}
	read, err := o.openSink(ctx)
	if err != nil {
		return fail(err)
	}
	for i, st := range o.pub.Streams {
		if st == Stdin {
			continue
		}
		far := d.FDs[i]
		d.FDs[i] = nil
		var memory *fd.FD
		if o.lossy {
			memory = d.FDs[i+1]
			d.FDs[i+1] = nil
		}
		if err := read(far, st, memory); err != nil {
			return fail(err)
		}
	}
	d.Ack() // where that fails the agent has died, and another will open it again
	return &sinkpb.OpenResponse{Wiring: sinkpb.Wiring_PIPE}, nil
}

// openSink makes the sink, and returns what begins to read a stream. A RawSink is no branch that may lose something.
func (o *opening) openSink(ctx context.Context) (read func(far *fd.FD, st Stream, memory *fd.FD) error, err error) {
	if o.srv.plugin.OpenRaw != nil {
		raw, err := o.srv.plugin.OpenRaw(ctx, o.pub)
		if err != nil {
			return nil, err // whatever came with it: a nil pointer in an interface is not nil
		}
		o.sink = raw
		return func(far *fd.FD, st Stream, _ *fd.FD) error { return o.readRaw(raw, far, st) }, nil
	}
	sink, err := o.srv.plugin.Open(ctx, o.pub)
	if err != nil {
		return nil, err
	}
	o.sink = sink
	return func(far *fd.FD, st Stream, memory *fd.FD) error { return o.read(far, st, sink, nil, memory) }, nil
}

func (o *opening) openDirect(ctx context.Context, ticket fdchan.Ticket) (*sinkpb.OpenResponse, error) {
	if o.srv.plugin.OpenDirect == nil {
		return nil, openError(fmt.Errorf("sink %s has no direct mode", o.srv.plugin.Name))
	}
	files, err := o.srv.plugin.OpenDirect(ctx, &o.pub.Request)
	var near []*fd.FD
	defer func() { fd.CloseAll(near) }()
	for _, f := range files {
		n, fdErr := fd.FromFile(f)
		if fdErr != nil {
			err = cmp.Or(err, fdErr)
			continue
		}
		near = append(near, n)
	}
	if err == nil && len(near) != len(o.pub.Streams) {
		err = fmt.Errorf("sink %s gave %d files for %d streams", o.srv.plugin.Name, len(near), len(o.pub.Streams))
	}
	if err == nil {
		err = o.srv.ep().Give(ctx, ticket, fd.Ints(near)...)
	}
	if err != nil {
		return nil, openError(err)
	}
	return &sinkpb.OpenResponse{Wiring: sinkpb.Wiring_DIRECT, NearEnds: uint32(len(near))}, nil
}

func (o *opening) openConsole(ctx context.Context, ticket fdchan.Ticket) (*sinkpb.OpenResponse, error) {
	fail := func(err error) (*sinkpb.OpenResponse, error) {
		o.pub.master.Close()
		o.close(true) // nobody comes again for what was never open
		return nil, openError(err)
	}
	console, err := o.srv.plugin.OpenConsole(ctx, o.pub)
	if err != nil {
		return fail(err)
	}
	o.console = console
	o.sink = o.console
	if o.pub.master == nil || o.pub.tty == nil {
		return fail(fmt.Errorf("sink %s made no terminal", o.srv.plugin.Name))
	}
	if err := unix.SetNonblock(o.pub.master.Int(), true); err != nil {
		return fail(fmt.Errorf("set O_NONBLOCK on the terminal's master: %w", err))
	}
	if err := o.srv.ep().Give(ctx, ticket, o.pub.tty.Int(), o.pub.master.Int()); err != nil {
		return fail(err)
	}
	if err := o.read(o.pub.master, Console, console, nil, nil); err != nil {
		return fail(err)
	}
	return &sinkpb.OpenResponse{Wiring: sinkpb.Wiring_PTY, NearEnds: 1, FarEnds: 1}, nil
}

// read takes ownership of far, of the pipes of branches, and of the memory of what is lost of a stream that is a branch itself, and begins to
// read for sink.
func (o *opening) read(far *fd.FD, st Stream, sink Sink, branches []stage.Branch, memory *fd.FD) error {
	eng, err := o.srv.engine()
	if err != nil {
		far.Close()
		memory.Close()
		closeBranches(branches)
		return err
	}
	f := &flow{op: o, stream: st, sink: sink}
	key := o.pub.ID + "/" + st.String()
	var src *stage.Source
	switch {
	case memory != nil:
		src, err = eng.AddLossy(far, key, f, o.pub.Unseen, memory)
	case len(branches) > 0: // of a sink that was not Unseen
		src, err = eng.AddInto(far, key, f, branches)
	case o.pub.Unseen:
		src, err = eng.AddUnseen(far, key, f)
	default:
		src, err = eng.Add(far, key, f)
	}
	if err != nil {
		return err
	}
	if st == Console {
		f.into = src
	}
	o.flowing(f, src)
	return nil
}

// flowing adds f, which src reads.
func (o *opening) flowing(f *flow, src source) {
	o.srv.mu.Lock()
	defer o.srv.mu.Unlock()
	f.src = src
	o.flows = append(o.flows, f)
	f.numbersBegin()
}

// inputClosed tells that the sink has ended the child's stdin.
func (o *opening) inputClosed() {
	o.srv.mu.Lock()
	defer o.srv.mu.Unlock()
	o.input = &flow{op: o, stream: Stdin, told: told{eof: true}}
	o.srv.changed(o.input)
}

// childExited ends the input, and lets go of the terminal side of a console: until now it was kept so that a child
// which closes its terminal and opens it again does not end its console (a master whose last terminal side is
// closed reads EIO).
func (o *opening) childExited(status uint32, known bool) {
	o.srv.mu.Lock()
	o.pub.status, o.pub.statusKnown = status, known
	tty := o.pub.tty
	o.pub.tty = nil
	o.srv.mu.Unlock()
	tty.Close()
	if o.pub.Input != nil {
		o.pub.Input.Close()
	}
}

// cut ends the streams now. A sink that does not put out the rest within cutGrace loses it.
func (o *opening) cut() {
	o.srv.mu.Lock()
	flows := o.flows
	o.srv.mu.Unlock()
	for _, f := range flows {
		f.src.Cut()
		time.AfterFunc(cutGrace, func() {
			select {
			case <-f.done.C():
			default:
				o.cancel()
				f.src.GiveUp()
			}
		})
	}
}

// over says whether every stream has ended. server.mu is held.
func (o *opening) over() bool {
	for _, f := range o.flows {
		if !f.flushed && f.failed == "" {
			return false
		}
	}
	return true
}

// close releases everything, once. With forget, all streams have ended, and no successor will come for them; otherwise the process
// ends, or the opening failed.
func (o *opening) close(forget bool) {
	o.closing.Do(func() {
		o.forgotten.Store(forget)
		o.cancel()
		if !forget && o.pub.Input != nil {
			o.pub.Input.once.Do(func() {}) // the child's stdin goes on with a successor
		}
		o.childExited(0, false)
		o.viewers.Wait()
		for _, f := range o.flows {
			f.src.GiveUp()
			<-f.done.C()
		}
		if o.sink != nil {
			if err := o.sink.Close(); err != nil {
				fmt.Fprintf(os.Stderr, "sink %s: close %s: %v\n", o.srv.plugin.Name, o.pub.ID, err)
			}
		}
		o.srv.mu.Lock()
		o.shut = true
		o.srv.mu.Unlock()
		if o.pub.Input != nil {
			o.pub.Input.stage.close()
		}
		if forget {
			for _, f := range o.flows {
				f.src.Forget()
			}
		}
		o.dropMemory(forget)
		if forget {
			o.dropParked()
		}
	})
}

// flow is one output stream of an opening, and what muxd is told of it.
type flow struct {
	op     *opening
	stream Stream
	sink   Sink // that the SDK reads for
	src    source
	into   brancher    // the same as src, where it can have branches
	done   latch.Latch // closed when nothing more is written
	lost   int         // of the chunk that was not put out
	ending *time.Timer // tells eof; server.mu
	warned bool        // a trouble was told; server.mu

	told // server.mu
}

// told is what muxd is told of a flow.
type told struct {
	eof     bool
	flushed bool
	failed  string
	trouble string
	passed  string // a trouble that was over before muxd was told of it
	untold  bool   // muxd was not told of trouble
	held    bool   // trouble is why the stream is held back
	bytes   uint64 // at the end
	dropped uint64

	missed     map[string]uint64 // by branch
	missedTold time.Time

	remains     []byte // of a console, once it is flushed
	remainsTold bool   // on the Watch that is on
}

// stageSlot is the author's view of a stage.Slot.
type stageSlot struct{ stage.Slot }

func (s stageSlot) intent() []byte     { return s.Intent() }
func (s stageSlot) setIntent(b []byte) { s.SetIntent(b) }
func (s stageSlot) state() []byte      { return s.State() }
func (s stageSlot) setState(b []byte)  { s.SetState(b) }

// handed is a chunk in a sink's hands. An idle stream has none.
type handed struct {
	chunk Chunk
	slot  stageSlot
}

var allHanded = sync.Pool{New: func() any { return &handed{} }}

func (f *flow) Chunk(c *stage.Chunk) error {
	h := allHanded.Get().(*handed)
	defer func() {
		*h = handed{}
		allHanded.Put(h)
	}()
	h.slot = stageSlot{c.Slot}
	h.chunk = Chunk{
		Stream: f.stream, Offset: c.Offset, Data: c.Data, Time: c.Time, Last: c.Last, Again: c.Again, Missed: c.Missed,
		slot: &h.slot, unseen: c,
	}
	err := f.sink.Write(f.op.ctx, &h.chunk)
	if err != nil {
		f.lost = len(h.chunk.Data) + h.chunk.Left()
	}
	return err
}

func (f *flow) Held(why error) {
	f.update(func() { f.trouble, f.held = why.Error(), true })
}

// eofTell is how long a stream's end waits to be told together with that it is put out, which mostly comes at once: each waking of muxd
// costs more than what it is told.
const eofTell = 2 * time.Millisecond

func (f *flow) Eof(n uint64) {
	f.op.srv.mu.Lock()
	defer f.op.srv.mu.Unlock()
	f.eof, f.bytes = true, n
	f.ending = time.AfterFunc(eofTell, func() { f.update(func() {}) })
}

func (f *flow) Done(n uint64, err error) {
	f.op.tellTyped()
	var remains []byte
	if err == nil && f.op.console != nil {
		if remains = f.op.console.Remains(); len(remains) > RemainsMost {
			remains = nil
		}
	}
	f.update(func() {
		f.remains = remains
		if f.ending != nil {
			f.ending.Stop()
		}
		if errors.Is(err, context.Canceled) && f.op.ctx.Err() != nil && f.src != nil {
			lost := f.lost + f.src.Unread()
			err = fmt.Errorf("the stream was given up, and %d bytes of it were not put out", lost)
			if f.trouble != "" {
				err = fmt.Errorf("%w: %s", err, f.trouble)
			}
		}
		f.bytes, f.trouble = n, ""
		if err != nil {
			f.failed = err.Error()
		} else {
			f.flushed = true
		}
	})
	f.done.Close()
}

// update changes what muxd is to know of f, and tells it.
func (f *flow) update(change func()) {
	f.op.srv.mu.Lock()
	defer f.op.srv.mu.Unlock()
	change()
	f.op.srv.changed(f)
}
