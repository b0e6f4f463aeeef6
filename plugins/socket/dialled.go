package socket

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"github.com/muxd/muxd/sink"
)

// dialled is a sink on a connection that we make. The connection is parked, so it survives this process.
//
//	connected → (a write or read fails) → broken → (a dial succeeds) → connected
//	broken is also where it begins when it comes again and the peer is away
//	any → (the last output ended) → shut down for writing, for good
//	any → (Close) → closed
//
// Whoever finds the connection broken has the turn and makes it anew: the writer, or the goroutine that reads the
// child's stdin.
//
// Where the bytes can be moved as they are, they are (put). Otherwise they are rendered into a queue, which a goroutine
// sends (enqueue, sendAll).
type dialled struct {
	port
	settings
	ctx    context.Context // done at Close
	cancel context.CancelFunc
	turn   turn   // to write and to connect
	ended  bool   // no output comes any more; guarded by turn
	queue  *queue // nil where bytes are moved

	last sync.Mutex // for port.outputs

	mu     sync.Mutex
	conn   conn // the newest; may be broken, and nil before there was one
	closed bool

	work    sync.WaitGroup
	reading chan struct{} // closed when nobody reads stdin from the peer; nil where nobody ever does
}

// errNeverConnected is why a connection that comes again has to be made.
var errNeverConnected = errors.New("the peer could not be reached when the plugin was restarted")

// parkedConn is the tag under which the connection is parked.
const parkedConn = "conn"

// openDialled connects, or takes over the connection of an earlier process of this plugin. It fails where the peer cannot
// be reached; but where the child runs already, since that process had its streams, they wait for the peer instead.
func openDialled(ctx context.Context, s settings, p port, again bool) (*dialled, error) {
	d := &dialled{port: p, settings: s, turn: newTurn()}
	var err error
	if d.conn, err = d.parked(); d.conn == nil && err == nil {
		d.conn, err = d.connect(ctx)
	}
	if err != nil && !again {
		return nil, err
	}
	if !s.moves() && s.outputs > 0 {
		if d.queue, err = d.openQueue(); err != nil {
			if d.conn != nil {
				d.conn.Close()
			}
			return nil, err
		}
	}
	d.ctx, d.cancel = context.WithCancel(context.Background())
	if d.queue != nil {
		d.work.Go(d.sendAll)
	}
	if p.input != nil && s.network == unixGram {
		p.input.Close() // nobody answers datagrams
	} else if p.input != nil {
		d.reading = make(chan struct{})
		d.work.Go(d.readInput)
	}
	return d, nil
}

// parked is the connection of an earlier process; nil where there is none.
func (d *dialled) parked() (conn, error) {
	files := d.Parked(parkedConn)
	if len(files) == 0 {
		return nil, nil
	}
	c, err := d.connOf(files[0])
	if err == nil {
		err = d.Park(parkedConn, c)
	}
	return c, err
}

// connect makes a connection, and parks it.
func (d *dialled) connect(ctx context.Context) (conn, error) {
	c, err := d.dial(ctx)
	if err != nil || d.network == secure {
		return c, err // the keys of a TLS connection are in this process: it ends with it
	}
	if err := d.Park(parkedConn, c); err != nil {
		c.Close()
		return nil, err
	}
	return c, nil
}

// openQueue makes the queue, or finds that of an earlier process.
func (d *dialled) openQueue() (*queue, error) {
	queues, err := openQueues(d.settings, d.port, 1)
	if err != nil {
		return nil, err
	}
	q := queues[0]
	if !q.used() {
		q.begin()
	}
	return q, q.open(d.settings, d.port)
}

// unseen is a chunk whose bytes are moved without being looked at.
type unseen interface {
	Left() int
	Move(fd uintptr, n int) (int, error)
}

// put moves the chunk to the peer, and blocks until the kernel has accepted it, over as many connections as that takes.
func (d *dialled) put(ctx context.Context, chunk unseen, last bool) error {
	if err := d.turn.lock(ctx); err != nil {
		return err
	}
	defer d.turn.unlock()
	if chunk.Left() > 0 {
		if err := d.send(ctx, func(c conn) error { return move(ctx, c, chunk) }); err != nil {
			return err
		}
	}
	if last && d.isLast() {
		d.finish(ctx)
	}
	return nil
}

// isLast counts a stream that has ended, and says whether it was the last one.
func (d *dialled) isLast() bool {
	d.last.Lock()
	defer d.last.Unlock()
	d.port.outputs--
	return d.port.outputs == 0
}

// finish tells the peer that no output comes any more, and lets it take in what it has been sent. The turn is held.
func (d *dialled) finish(ctx context.Context) {
	d.ended = true
	c := d.current()
	if c != nil && c.CloseWrite() == nil && !d.network.packets() { // otherwise the peer is dead, and nothing is left to send
		linger(ctx, c, time.Now().Add(lingerTime), !d.readsInput())
	}
}

// enqueue puts the chunk at offset into the queue, and returns what is left of it: an unfinished line. After the last chunk
// it blocks until the peer has been sent all, as long as the policy wants it to.
func (d *dialled) enqueue(ctx context.Context, offset uint64, p part) (rest []byte, err error) {
	records, rest := p.records(d.queue.framing, d.longest)
	if err := d.queue.append(ctx, streamNumber(p.stream), offset, records); err != nil {
		return nil, err
	}
	tellDropped(&d.port, d.queue.dropped())
	if !p.last {
		return rest, nil
	}
	err = d.queue.flush(ctx, streamNumber(p.stream))
	tellDropped(&d.port, d.queue.dropped())
	if d.isLast() && err == nil {
		// Who waits for a peer that takes nothing has the turn until Close. What there was is dropped then, and nobody hears of the end.
		soon, cancel := context.WithTimeout(ctx, lingerTime)
		defer cancel()
		if d.turn.lock(soon) != nil {
			return nil, context.Cause(ctx)
		}
		defer d.turn.unlock()
		d.finish(ctx)
	}
	return nil, err
}

// sendAll sends what is in the queue, until Close.
func (d *dialled) sendAll() {
	for d.queue.take(d.ctx) == nil {
		if d.turn.lock(d.ctx) != nil {
			return
		}
		err := d.send(d.ctx, func(c conn) error { return d.queue.send(d.ctx, c) })
		d.turn.unlock()
		if err != nil {
			return
		}
	}
}

// send has write write to the connection, and to the next one as often as it fails. It blocks until write succeeds or
// ctx is done. The turn is held.
func (d *dialled) send(ctx context.Context, write func(conn) error) error {
	for c := d.current(); ; {
		wrong := errNeverConnected
		if c != nil {
			if wrong = write(c); wrong == nil {
				return nil
			}
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		var err error
		if c, err = d.reconnect(ctx, c, fmt.Errorf("write to %s: %w", d.address, cause(wrong))); err != nil {
			return err
		}
	}
}

func (d *dialled) current() conn {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.conn
}

// readsInput says whether a goroutine reads from the peer.
func (d *dialled) readsInput() bool {
	if d.reading == nil {
		return false
	}
	select {
	case <-d.reading:
		return false
	default:
		return true
	}
}

// reconnect connects anew where broken is still the newest connection, and returns the newest. It blocks until that
// succeeds or ctx is done. The turn is held.
func (d *dialled) reconnect(ctx context.Context, broken conn, wrong error) (conn, error) {
	if c := d.current(); c != broken {
		return c, nil
	}
	if broken != nil {
		broken.Close()
	}
	try := d.retries.New()
	defer try.Over()
	for {
		if err := try.Wait(ctx, wrong); err != nil {
			return nil, err
		}
		c, err := d.connect(ctx)
		if err != nil {
			wrong = err
			continue
		}
		if d.ended {
			c.CloseWrite()
		}
		d.mu.Lock()
		defer d.mu.Unlock()
		if d.closed {
			c.Close()
			return nil, net.ErrClosed
		}
		d.conn = c
		return c, nil
	}
}

// readInput gives the child what the peer sends. When the peer has sent all, so has the child's stdin: it is closed. A
// connection that breaks instead is made anew, and goes on.
func (d *dialled) readInput() {
	defer close(d.reading)
	defer d.input.Close()
	for c := d.current(); ; {
		wrong := errNeverConnected
		if c != nil {
			wrong = d.feed(d.input, c)
		}
		if wrong == nil || errors.Is(wrong, sink.ErrInputOver) {
			return
		}
		// Where the writer was first, it has closed the connection, and has made another when it lets the turn go.
		if d.turn.lock(d.ctx) != nil {
			return // closed
		}
		next, err := d.reconnect(d.ctx, c, fmt.Errorf("read from %s: %w", d.address, cause(wrong)))
		d.turn.unlock()
		if err != nil {
			return
		}
		c = next
	}
}

// feed gives the child what c sends.
func (s settings) feed(to *sink.Input, c conn) error {
	if s.network.spliced() {
		return to.SpliceFrom(c)
	}
	return copyInput(to, c)
}

// Close closes the connection, and returns when nobody reads from it.
func (d *dialled) Close() error {
	d.cancel()
	d.mu.Lock()
	d.closed = true
	var err error
	if d.conn != nil {
		err = d.conn.Close()
	}
	d.mu.Unlock()
	if d.input != nil {
		d.input.Close()
	}
	d.work.Wait()
	d.queue.close()
	if errors.Is(err, net.ErrClosed) {
		return nil // it was broken
	}
	return err
}
