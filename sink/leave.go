package sink

import (
	"context"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/muxd/muxd/sink/sinkpb"
)

// leaveMargin is how long before the call's deadline the sink decides to keep the stream, so that its answer is in time.
const leaveMargin = 100 * time.Millisecond

// early is ctx with a deadline that leaves time for an answer.
func early(ctx context.Context) (context.Context, context.CancelFunc) {
	if deadline, ok := ctx.Deadline(); ok {
		return context.WithDeadline(ctx, deadline.Add(-leaveMargin))
	}
	return ctx, func() {}
}

func (s *server) Leave(ctx context.Context, req *sinkpb.LeaveRequest) (*sinkpb.LeaveResponse, error) {
	o, err := s.find(req.Opening)
	if err != nil {
		return nil, err
	}
	ctx, cancel := early(ctx)
	defer cancel()
	s.mu.Lock()
	var f *flow
	for _, have := range o.flows {
		if have.stream == Stream(req.Stream) {
			f = have
		}
	}
	s.mu.Unlock()
	if f == nil {
		return nil, status.Errorf(codes.NotFound, "opening %q does not read %s", req.Opening, Stream(req.Stream))
	}
	f.src.Leave()
	select {
	case <-f.done.C():
	case <-ctx.Done():
		if f.src.Stay() {
			return &sinkpb.LeaveResponse{}, nil
		}
		<-f.done.C() // it is leaving: only the last flush is missing
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if f.failed != "" {
		return nil, status.Error(codes.FailedPrecondition, f.failed)
	}
	return &sinkpb.LeaveResponse{Left: true, Bytes: f.bytes}, nil
}
