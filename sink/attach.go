package sink

import (
	"context"
	"fmt"
	"os"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/muxd/muxd/sink/sinkpb"
)

func (s *server) Attach(ctx context.Context, req *sinkpb.AttachRequest) (*sinkpb.AttachResponse, error) {
	if len(req.Remains) > 0 {
		return s.attachPast(ctx, req)
	}
	o, err := s.console(req.Opening)
	if err != nil {
		return nil, err
	}
	conn, err := s.connect(ctx, req.Ticket)
	if err != nil {
		return nil, err
	}
	if !o.countViewers(1) {
		conn.Close()
		return nil, status.Errorf(codes.NotFound, "opening %q has ended", req.Opening)
	}
	v := newViewer(conn)
	v.asked(req)
	if !v.ReadOnly {
		v.typist = o.types(req.InputId, req.Viewer)
	}
	go func() {
		defer o.countViewers(-1)
		defer v.typist.leave()
		defer v.Close()
		if err := o.console.Attach(o.ctx, v); err != nil {
			fmt.Fprintf(os.Stderr, "sink %s: viewer of %s: %v\n", s.plugin.Name, o.pub.ID, err)
		}
	}()
	return &sinkpb.AttachResponse{}, nil
}

// asked sets what the request says of v.
func (v *Viewer) asked(req *sinkpb.AttachRequest) {
	v.ReadOnly, v.Replay, v.Hold, v.InputID = req.ReadOnly, req.Replay, req.Hold, req.InputId
	v.Terminal = req.Terminal
	v.Rows, v.Cols = int(req.Size.GetRows()), int(req.Size.GetCols())
}

// countViewers adds n viewers, and tells. It says false where the opening is being closed.
func (o *opening) countViewers(n int) bool {
	o.srv.mu.Lock()
	defer o.srv.mu.Unlock()
	if n > 0 && o.srv.openings[o.pub.ID] != o {
		return false
	}
	o.viewers.Add(n)
	o.count += n
	for _, f := range o.flows {
		o.srv.changed(f)
	}
	return true
}
