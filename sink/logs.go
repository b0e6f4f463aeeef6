package sink

import (
	"context"
	"errors"
	"net"
	"os"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"golang.org/x/sys/unix"

	"github.com/muxd/muxd/internal/fd"
	"github.com/muxd/muxd/internal/fdchan"
	"github.com/muxd/muxd/sink/sinkpb"
)

// recordText is the most text in one packet; a longer record is sent as several, partial ones.
const recordText = 32 << 10

// connect gives one end of a new SEQPACKET pair to the core under ticket, and returns the other, owned by the caller.
func (s *server) connect(ctx context.Context, ticket []byte) (*net.UnixConn, error) {
	t, err := fdchan.TicketFrom(ticket)
	if err != nil {
		return nil, status.Error(codes.InvalidArgument, err.Error())
	}
	ours, theirs, err := fd.Socketpair(unix.SOCK_SEQPACKET)
	if err != nil {
		return nil, openError(err)
	}
	defer theirs.Close()
	file := ours.File("connection")
	defer file.Close()
	if err := s.ep().Give(ctx, t, theirs.Int()); err != nil {
		return nil, openError(err)
	}
	conn, err := net.FileConn(file)
	if err != nil {
		return nil, openError(err)
	}
	return conn.(*net.UnixConn), nil
}

func (s *server) Logs(ctx context.Context, req *sinkpb.LogsRequest) (*sinkpb.LogsResponse, error) {
	if s.plugin.Logs == nil {
		return nil, status.Errorf(codes.Unimplemented, "sink %s keeps nothing that could be read back", s.plugin.Name)
	}
	r, _, err := s.check(req.Spec, req.Child, req.Streams)
	if err != nil {
		return nil, err
	}
	q := &LogQuery{Request: *r, Follow: req.Follow, Tail: int(req.Tail)}
	if req.Since != 0 {
		q.Since = time.Unix(0, req.Since)
	}
	if req.Until != 0 {
		q.Until = time.Unix(0, req.Until)
	}
	q.Cursor = req.Cursor
	s.mu.Lock()
	live := s.openings[req.Opening]
	s.mu.Unlock()
	if live == nil && req.Follow && req.Opening != "" { // this process has only begun, and it will come again
		return nil, status.Errorf(codes.Unavailable, "opening %q is not open yet", req.Opening)
	}
	conn, err := s.connect(ctx, req.Ticket)
	if err != nil {
		return nil, err
	}
	go s.serveLogs(conn, q, live)
	return &sinkpb.LogsResponse{}, nil
}

func (s *server) Rotate(ctx context.Context, req *sinkpb.RotateRequest) (*sinkpb.RotateResponse, error) {
	o, err := s.find(req.Opening)
	if err != nil {
		return nil, err
	}
	select {
	case <-o.opened:
	case <-ctx.Done():
		return nil, openError(ctx.Err())
	}
	r, ok := o.sink.(Rotator)
	if !ok {
		return nil, status.Errorf(codes.Unimplemented, "sink %s has no file to rotate", s.plugin.Name)
	}
	if err := r.Rotate(ctx); err != nil {
		return nil, openError(err)
	}
	return &sinkpb.RotateResponse{}, nil
}

// serveLogs sends the records of a log. A follow ends when live, the opening that writes the log, is over.
func (s *server) serveLogs(conn *net.UnixConn, q *LogQuery, live *opening) {
	defer conn.Close()
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	go func() { // ends when the reader closes, or conn.Close does
		conn.Read(make([]byte, 1))
		cancel()
	}()
	if live == nil {
		q.Follow = false
	} else if q.Follow {
		go func() {
			for _, f := range live.flows {
				select {
				case <-f.done.C():
				case <-ctx.Done():
				}
			}
			cancel()
		}()
	}
	send := func(r *sinkpb.LogRecord) error {
		b, err := proto.Marshal(r)
		if err != nil {
			return err
		}
		_, err = conn.Write(b)
		return err
	}
	err := s.plugin.Logs(ctx, q, func(r Record) error {
		w := &sinkpb.LogRecord{Stream: sinkpb.Stream(r.Stream)}
		if !r.Time.IsZero() {
			w.Time = r.Time.UnixNano()
		}
		for rest := r.Text; ; {
			w.Text = rest[:min(len(rest), recordText)]
			rest = rest[len(w.Text):]
			w.Partial = r.Partial || len(rest) > 0
			if len(rest) == 0 {
				w.Cursor = r.Cursor
			}
			if err := send(w); err != nil {
				return err
			}
			if len(rest) == 0 {
				return nil
			}
		}
	})
	end := &sinkpb.LogRecord{End: true}
	if err != nil && !errors.Is(err, context.Canceled) && !errors.Is(err, os.ErrClosed) {
		end.Error = err.Error()
	}
	send(end)
}
