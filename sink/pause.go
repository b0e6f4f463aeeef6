package sink

import (
	"context"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/muxd/muxd/sink/sinkpb"
)

// pauseFor bounds a pause after which the process is not ended.
const pauseFor = 10 * time.Second

func (s *server) Pause(ctx context.Context, _ *sinkpb.PauseRequest) (*sinkpb.PauseResponse, error) {
	s.starting.Lock()
	eng := s.eng
	s.starting.Unlock()
	if eng == nil { // it has never had a stream
		return &sinkpb.PauseResponse{}, nil
	}
	err := eng.Pause(ctx, pauseFor)
	if err == nil {
		err = s.pauseRaw(ctx)
	}
	if err != nil {
		return nil, status.Error(codes.DeadlineExceeded, "a chunk is still being put out")
	}
	return &sinkpb.PauseResponse{}, nil
}
