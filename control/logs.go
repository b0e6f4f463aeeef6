package control

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"time"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/muxd/muxd/control/controlpb"
)

// LogOptions say what of a log is wanted.
type LogOptions struct {
	Follow bool      // go on until the child has ended
	Tail   int       // only the last so many lines; negative: all
	Since  time.Time // zero: from the beginning
	Stream string    // stdout, stderr or console; empty: all
}

// LogRecord is one line of a log.
type LogRecord struct {
	Time    time.Time // zero where the log does not say
	Stream  string    // empty where the log does not say
	Text    []byte    // without its newline
	Partial bool      // the line goes on in the next record
}

// LogReader reads records. It is for one goroutine; Close may be called from any.
type LogReader struct {
	conn *net.UnixConn
	buf  []byte
}

// Logs reads back what a sink of the child has kept. The reader is owned by the caller.
func (c *Client) Logs(ctx context.Context, child string, o LogOptions) (*LogReader, error) {
	req := &controlpb.LogsRequest{
		Child: child, Follow: o.Follow, Tail: int64(o.Tail), Stream: o.Stream,
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
	return &LogReader{conn: conn.(*net.UnixConn), buf: make([]byte, 64<<10)}, nil
}

// Close ends the reader; a blocked Next returns net.ErrClosed.
func (r *LogReader) Close() error { return r.conn.Close() }

// Next blocks for the next record. Its error is io.EOF at the end of the log, and io.ErrUnexpectedEOF where the
// sink went away before.
func (r *LogReader) Next() (LogRecord, error) {
	n, err := r.conn.Read(r.buf)
	if errors.Is(err, io.EOF) {
		return LogRecord{}, io.ErrUnexpectedEOF
	}
	if err != nil {
		return LogRecord{}, err
	}
	return parseRecord(r.buf[:n])
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
