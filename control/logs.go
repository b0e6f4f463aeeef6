package control

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/encoding/protowire"

	"github.com/muxd/muxd/control/controlpb"
)

// LogOptions say what of a log is wanted.
type LogOptions struct {
	Follow bool      // go on until the child has ended
	Tail   int       // only the last so many lines; negative: all
	Since  time.Time // zero: from the beginning
	Until  time.Time // zero: to the end
	Stream string    // stdout, stderr or console; empty: all
	Cursor string    // LogRecord.Cursor: only what came behind that record; Tail does not count then
}

// LogRecord is one line of a log.
type LogRecord struct {
	Time    time.Time // zero where the log does not say
	Stream  string    // empty where the log does not say
	Text    []byte    // without its newline
	Partial bool      // the line goes on in the next record
	Cursor  string    // goes on behind this record, without a gap and without a repetition; empty: it cannot
}

// LogReader reads records. It is for one goroutine; Close may be called from any. Where the sink's plugin dies it goes on with
// the next one, behind the last record that had a cursor.
type LogReader struct {
	buf    []byte
	redial func(ctx context.Context, o LogOptions) (*net.UnixConn, error)
	asked  LogOptions
	onWait func()
	told   int // bytes of text since the record with the cursor in asked
	skip   int // of those, how many come again

	mu     sync.Mutex
	conn   *net.UnixConn
	closed bool
}

// Logs reads back what a sink of the child has kept. The reader is owned by the caller.
func (c *Client) Logs(ctx context.Context, child string, o LogOptions) (*LogReader, error) {
	r := &LogReader{asked: o, buf: make([]byte, 64<<10)}
	r.redial = func(ctx context.Context, o LogOptions) (*net.UnixConn, error) { return c.logs(ctx, child, o) }
	var err error
	if r.conn, err = r.redial(ctx, o); err != nil {
		return nil, err
	}
	return r, nil
}

// logs opens the connection of a reader. It is returned, owned by the caller.
func (c *Client) logs(ctx context.Context, child string, o LogOptions) (*net.UnixConn, error) {
	req := &controlpb.LogsRequest{
		Child: child, Follow: o.Follow, Tail: int64(o.Tail), Stream: o.Stream, Cursor: o.Cursor,
	}
	if !o.Until.IsZero() {
		req.Until = o.Until.UnixNano()
	}
	if !o.Since.IsZero() {
		req.Since = o.Since.UnixNano()
	}
	var f *os.File
	err := c.withSession(ctx, func(ctx context.Context, s *session) (err error) {
		f, err = s.take(ctx, func(ticket []byte) error {
			req.FdSession, req.Ticket = s.id[:], ticket
			_, err := c.API.Logs(ctx, req)
			return err
		})
		return err
	})
	if err != nil {
		return nil, err
	}
	defer f.Close()
	conn, err := net.FileConn(f)
	if err != nil {
		return nil, err
	}
	return conn.(*net.UnixConn), nil
}

// Close ends the reader; a blocked Next returns net.ErrClosed.
func (r *LogReader) Close() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.closed = true
	return r.conn.Close()
}

// OnWait has f called whenever Next is going to wait: whoever collects what it writes writes it then, and is never late.
func (r *LogReader) OnWait(f func()) { r.onWait = f }

// read is a read of the connection.
func (r *LogReader) read() (n int, err error) {
	if r.onWait == nil {
		return r.conn.Read(r.buf)
	}
	raw, err := r.conn.SyscallConn()
	if err != nil {
		return 0, err
	}
	var readErr error
	if err := raw.Read(func(fd uintptr) bool {
		n, readErr = unix.Read(int(fd), r.buf)
		return true
	}); err != nil {
		return 0, err
	}
	switch {
	case readErr == nil && n == 0:
		return 0, io.EOF
	case readErr == nil:
		return n, nil
	case readErr == unix.EAGAIN:
		r.onWait()
	}
	return r.conn.Read(r.buf)
}

// Next blocks for the next record. Its error is io.EOF at the end of the log.
func (r *LogReader) Next() (LogRecord, error) {
	for {
		n, err := r.read()
		if errors.Is(err, io.EOF) {
			if err := r.reconnect(); err != nil {
				return LogRecord{}, err
			}
			continue
		}
		if err != nil {
			return LogRecord{}, err
		}
		rec, err := parseRecord(r.buf[:n])
		if err != nil {
			return rec, err
		}
		again := min(r.skip, len(rec.Text))
		r.skip -= again
		had := again > 0 && again == len(rec.Text)
		rec.Text = rec.Text[again:]
		r.told += len(rec.Text)
		if rec.Cursor != "" {
			r.asked.Cursor, r.told, r.skip = rec.Cursor, 0, 0
		}
		if !had || !rec.Partial {
			return rec, nil
		}
	}
}

// reconnect goes on where a connection was cut short.
func (r *LogReader) reconnect() error {
	if r.asked.Cursor == "" && r.told > 0 {
		return io.ErrUnexpectedEOF
	}
	ctx, cancel := context.WithTimeout(context.Background(), reconnectFor)
	defer cancel()
	conn, err := r.redial(ctx, r.asked)
	if err != nil {
		return fmt.Errorf("go on with the log: %w", err)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.conn.Close()
	r.conn, r.skip = conn, r.told
	if r.closed {
		conn.Close()
		return net.ErrClosed
	}
	return nil
}

// parseRecord reads a LogRecord of sink.proto. Its few fields are read by hand, so that this package needs nothing of the plugins'.
func parseRecord(b []byte) (LogRecord, error) {
	var r LogRecord
	var end bool
	var endErr string
	for len(b) > 0 {
		num, typ, n := protowire.ConsumeTag(b)
		if n < 0 {
			return r, protowire.ParseError(n)
		}
		b = b[n:]
		switch typ {
		case protowire.VarintType:
			v, n := protowire.ConsumeVarint(b)
			if n < 0 {
				return r, protowire.ParseError(n)
			}
			b = b[n:]
			switch num {
			case 1:
				r.Time = time.Unix(0, int64(v))
			case 2:
				r.Stream = map[uint64]string{1: "stdin", 2: "stdout", 3: "stderr", 4: "console"}[v]
			case 4:
				r.Partial = v != 0
			case 5:
				end = v != 0
			}
		case protowire.BytesType:
			v, n := protowire.ConsumeBytes(b)
			if n < 0 {
				return r, protowire.ParseError(n)
			}
			b = b[n:]
			switch num {
			case 3:
				r.Text = append([]byte(nil), v...)
			case 6:
				endErr = string(v)
			case 7:
				r.Cursor = string(v)
			}
		default:
			n := protowire.ConsumeFieldValue(num, typ, b)
			if n < 0 {
				return r, protowire.ParseError(n)
			}
			b = b[n:]
		}
	}
	switch {
	case endErr != "":
		return r, errors.New(endErr)
	case end:
		return r, io.EOF
	}
	return r, nil
}
