package control

import (
	"context"
	"errors"
	"fmt"
	"net"
	"syscall"
	"time"

	"github.com/muxd/muxd/internal/viewer"
)

// reconnectFor is how long a viewer whose connection broke tries to get another: a plugin that died has a successor long
// before.
const reconnectFor = 10 * time.Second

// redial makes another connection to the same console.
type redial func(ctx context.Context, o AttachOptions) (*Viewer, error)

// survive lets v have another connection to child when the one that it has breaks.
func (v *Viewer) survive(c *Client, child string, first AttachOptions) {
	v.rows, v.cols = first.Rows, first.Cols
	v.redial = func(ctx context.Context, o AttachOptions) (*Viewer, error) {
		o.ReadOnly, o.Hold, o.InputID, o.Terminal = first.ReadOnly, first.Hold, first.InputID, first.Terminal
		if o.Replay == "" {
			o.Replay = first.Replay
		}
		next, err := c.attach(ctx, child, o)
		if err == nil && v.run != 0 && next.run != v.run {
			next.Close()
			return nil, fmt.Errorf("the child has been started again since, as its run %d", next.run)
		}
		return next, err
	}
}

// reconnect replaces a connection that broke: the output goes on where it was, and what was typed and not acknowledged is sent
// again, of which the console types what it has not typed yet. The caller is Recv.
func (v *Viewer) reconnect() error {
	ctx, cancel := context.WithTimeout(context.Background(), reconnectFor)
	defer cancel()
	if err := v.acquire(ctx); err != nil {
		return err
	}
	defer v.release()
	v.mu.Lock()
	if v.ended {
		v.mu.Unlock()
		return net.ErrClosed
	}
	o := AttachOptions{Rows: v.rows, Cols: v.cols}
	switch {
	case v.received:
		o.Replay = fmt.Sprintf("from=%d", v.output)
	case v.taken:
		o.Replay = "again"
	}
	v.conn.Close()
	v.mu.Unlock()

	next, err := v.redial(ctx, o)
	if err != nil {
		return err
	}
	v.mu.Lock()
	if v.ended {
		v.mu.Unlock()
		next.Close()
		return net.ErrClosed
	}
	v.conn, v.raw = next.conn, next.raw
	offset, p := v.first, append([]byte(nil), v.unacked...)
	v.mu.Unlock()

	for len(p) > 0 && err == nil {
		n := min(len(p), viewer.MaxData)
		err = v.write(ctx, viewer.Frame{Type: viewer.Input, Offset: offset, Data: p[:n]})
		offset, p = offset+uint64(n), p[n:]
	}
	if err == nil && v.eof {
		err = v.write(ctx, viewer.Frame{Type: viewer.EndOfInput})
	}
	if v.broken(err) {
		return nil // this one broke too: Recv notices
	}
	return err
}

// broken says whether a send failed because the connection broke, and Recv will get another.
func (v *Viewer) broken(err error) bool {
	return v.redial != nil && (errors.Is(err, syscall.EPIPE) || errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.ENOTCONN))
}
