package sink

import (
	"context"
	"fmt"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/muxd/muxd/internal/fdchan"
	"github.com/muxd/muxd/internal/stage"
	"github.com/muxd/muxd/sink/sinkpb"
)

// Rewire has a stream read another far end from now on. The sink notices nothing: its next chunk comes from there.
func (s *server) Rewire(ctx context.Context, req *sinkpb.RewireRequest) (*sinkpb.RewireResponse, error) {
	o, err := s.find(req.Opening)
	if err != nil {
		return nil, err
	}
	var src *stage.Source
	s.mu.Lock()
	for _, f := range o.flows {
		if f.stream == Stream(req.Stream) && f.stream != Console {
			src, _ = f.src.(*stage.Source)
		}
	}
	s.mu.Unlock()
	if src == nil {
		return nil, status.Errorf(codes.NotFound, "opening %q does not read %s", req.Opening, Stream(req.Stream))
	}
	ticket, err := fdchan.TicketFrom(req.Ticket)
	if err != nil {
		return nil, status.Error(codes.InvalidArgument, err.Error())
	}
	d, err := s.ep().Take(ctx, ticket, 1)
	if err != nil {
		return nil, openError(err)
	}
	far := d.FDs[0]
	d.FDs[0] = nil
	if err := src.Replace(far); err != nil {
		d.Refuse(err)
		return nil, openError(fmt.Errorf("rewire %s: %w", Stream(req.Stream), err))
	}
	d.Ack() // where that fails the agent has died, and another will ask again
	return &sinkpb.RewireResponse{}, nil
}
