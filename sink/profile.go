package sink

import (
	"bytes"
	"context"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/muxd/muxd/internal/profile"
	"github.com/muxd/muxd/sink/sinkpb"
)

// Counters tells what the engine has done, if there is one. What a plugin that copies does never comes into its process.
func (s *server) Counters(context.Context, *sinkpb.CountersRequest) (*sinkpb.CountersResponse, error) {
	s.starting.Lock()
	eng := s.eng
	s.starting.Unlock()
	if eng == nil {
		return &sinkpb.CountersResponse{}, nil
	}
	c := eng.Counts()
	return &sinkpb.CountersResponse{Bytes: c.Bytes, Chunks: c.Chunks, Waits: c.Waits, PutTime: int64(c.PutTime)}, nil
}

// Profile takes a profile of this process. Only its user and root can ask for it, as for anything else.
func (s *server) Profile(ctx context.Context, req *sinkpb.ProfileRequest) (*sinkpb.ProfileResponse, error) {
	d := time.Duration(req.Duration)
	if err := profile.Check(req.Kind, d); err != nil {
		return nil, status.Error(codes.InvalidArgument, err.Error())
	}
	var b bytes.Buffer
	if err := profile.Take(ctx, &b, req.Kind, d); err != nil {
		return nil, status.Error(codes.FailedPrecondition, err.Error())
	}
	return &sinkpb.ProfileResponse{Profile: b.Bytes()}, nil
}
