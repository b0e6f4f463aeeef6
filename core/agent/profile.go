package agent

import (
	"bytes"
	"context"
	"errors"
	"os"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/muxd/muxd/control/controlpb"
	"github.com/muxd/muxd/core/host"
	"github.com/muxd/muxd/core/keeper"
	"github.com/muxd/muxd/internal/profile"
	"github.com/muxd/muxd/sink/sinkpb"
)

// profileMost bounds what a plugin may answer.
const profileMost = 64 << 20

func (s *api) Profile(ctx context.Context, req *controlpb.ProfileRequest) (*controlpb.ProfileResponse, error) {
	d := time.Duration(req.Duration)
	if err := profile.Check(req.Kind, d); err != nil {
		return nil, status.Error(codes.InvalidArgument, err.Error())
	}
	switch req.Process {
	case "agent":
		var b bytes.Buffer
		if err := profile.Take(ctx, &b, req.Kind, d); err != nil {
			return nil, status.Error(codes.FailedPrecondition, err.Error())
		}
		return &controlpb.ProfileResponse{Pid: int32(os.Getpid()), Profile: b.Bytes()}, nil
	case "keeper":
		b, err := s.a.keeper.Profile(ctx, req.Kind, d)
		if errors.Is(err, keeper.ErrGone) {
			return nil, spawnError(err)
		}
		if err != nil {
			return nil, status.Error(codes.FailedPrecondition, err.Error())
		}
		return &controlpb.ProfileResponse{Pid: int32(os.Getppid()), Profile: b}, nil
	}
	p := s.a.host.Running(req.Process)
	if p == nil {
		return nil, status.Errorf(codes.NotFound, "profile: no plugin %q runs; there are also agent and keeper", req.Process)
	}
	resp, err := p.Sinks().Profile(ctx, &sinkpb.ProfileRequest{Kind: req.Kind, Duration: req.Duration}, grpc.MaxCallRecvMsgSize(profileMost))
	if status.Code(err) == codes.Unimplemented {
		return nil, status.Errorf(codes.Unimplemented, "profile: plugin %s takes none", req.Process)
	}
	if err != nil {
		return nil, plainStatus(err)
	}
	return &controlpb.ProfileResponse{Pid: int32(p.PID()), Profile: resp.Profile}, nil
}

// countersOf asks a plugin what it has done; nil where it does not say.
func countersOf(ctx context.Context, p *host.Plugin) *controlpb.Counters {
	if p == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	c, err := p.Sinks().Counters(ctx, &sinkpb.CountersRequest{})
	if err != nil {
		return nil
	}
	return &controlpb.Counters{Bytes: c.Bytes, Chunks: c.Chunks, Waits: c.Waits, PutTime: c.PutTime}
}
