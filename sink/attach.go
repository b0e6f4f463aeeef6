package sink

import (
	"context"
	"fmt"
	"os"

	"github.com/muxd/muxd/sink/sinkpb"
)

func (s *server) Attach(ctx context.Context, req *sinkpb.AttachRequest) (*sinkpb.AttachResponse, error) {
	o, err := s.console(req.Opening)
	if err != nil {
		return nil, err
	}
	conn, err := s.connect(ctx, req.Ticket)
	if err != nil {
		return nil, err
	}
	v := newViewer(conn)
	v.ReadOnly, v.Replay = req.ReadOnly, req.Replay
	v.Rows, v.Cols = int(req.Size.GetRows()), int(req.Size.GetCols())
	o.viewers.Add(1)
	go func() {
		defer o.viewers.Done()
		defer v.Close()
		if err := o.console.Attach(o.ctx, v); err != nil {
			fmt.Fprintf(os.Stderr, "sink %s: viewer of %s: %v\n", s.plugin.Name, o.pub.ID, err)
		}
		o.viewersChanged()
	}()
	return &sinkpb.AttachResponse{}, nil
}
