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
type dialled struct {
	port
	address address
	ctx     context.Context // done at Close
	cancel  context.CancelFunc
	turn    turn // to write, to connect, and for port.outputs
	ended   bool // no output comes any more; guarded by turn

	mu     sync.Mutex
	conn   conn // the newest; may be broken, and nil before there was one
	closed bool

	reader  sync.WaitGroup
	reading chan struct{} // closed when nobody reads stdin from the peer; nil where nobody ever does
}

// errNeverConnected is why a connection that comes again has to be made.
var errNeverConnected = errors.New("the peer could not be reached when the plugin was restarted")

// parkedConn is the tag under which the connection is parked.
const parkedConn = "conn"

// openDialled connects, or takes over the connection of an earlier process of this plugin. It fails where the peer cannot
// be reached; but where the child runs already, since that process had its streams, they wait for the peer instead.
func openDialled(ctx context.Context, s settings, p port, again bool) (*dialled, error) {
	c, err := parkedConnection(p)
	if c == nil && err == nil {
		c, err = dial(ctx, s.address)
	}
	if err == nil {
		if err = p.Park(parkedConn, c); err != nil {
			c.Close()
			return nil, err
		}
	}
	if err != nil && !again {
		return nil, err
	}
	d := &dialled{port: p, address: s.address, turn: newTurn(), conn: c}
	d.ctx, d.cancel = context.WithCancel(context.Background())
	if p.input != nil {
		d.reading = make(chan struct{})
		d.reader.Go(d.readInput)
	}
	return d, nil
}

// parkedConnection is what an earlier process had; nil where there is none.
func parkedConnection(p port) (conn, error) {
	files := p.Parked(parkedConn)
	if len(files) == 0 {
		return nil, nil
	}
	return connOf(files[0])
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
	if !last {
		return nil
	}
	if d.outputs--; d.outputs == 0 {
		d.ended = true
		c := d.current()
		if c != nil && c.CloseWrite() == nil { // otherwise the peer is dead, and nothing is left to send
			linger(ctx, c, time.Now().Add(lingerTime), !d.readsInput())
		}
	}
	return nil
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
		c, err := dial(ctx, d.address)
		if err != nil {
			wrong = err
			continue
		}
		if err := d.Park(parkedConn, c); err != nil {
			c.Close()
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
			wrong = d.input.SpliceFrom(c)
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
	d.reader.Wait()
	if errors.Is(err, net.ErrClosed) {
		return nil // it was broken
	}
	return err
}
