package agent

import (
	"context"
	"slices"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/muxd/muxd/control/controlpb"
	"github.com/muxd/muxd/sink/sinkpb"
)

func (s *api) Logs(ctx context.Context, req *controlpb.LogsRequest) (*controlpb.LogsResponse, error) {
	c, err := s.a.find(req.Child)
	if err != nil {
		return nil, err
	}
	o, streams, err := s.a.logOf(ctx, c, req.Stream)
	if err != nil {
		return nil, err
	}
	rec := s.a.snapshot(c)
	q := &sinkpb.LogsRequest{
		Spec:    wireSpec(o.choice.spec),
		Child:   c.described(rec.Run),
		Streams: streams, Follow: req.Follow, Tail: req.Tail, Since: req.Since, Opening: o.id,
		Until: req.Until, Cursor: req.Cursor,
	}
	err = s.a.connect(ctx, o, req.FdSession, req.Ticket, func(ctx context.Context, ticket []byte) error {
		q.Ticket = ticket
		_, err := o.sinks().Logs(ctx, q)
		return err
	})
	if err != nil {
		return nil, err
	}
	return &controlpb.LogsResponse{}, nil
}

func (s *api) Rotate(ctx context.Context, req *controlpb.RotateRequest) (*controlpb.RotateResponse, error) {
	c, err := s.a.find(req.Child)
	if err != nil {
		return nil, err
	}
	s.a.mu.Lock()
	name, openings := c.rec.Name, slices.Clone(c.openings)
	s.a.mu.Unlock()
	resp := &controlpb.RotateResponse{}
	for _, o := range openings {
		if !o.choice.piped() || o.plugin.Load() == nil {
			continue
		}
		switch _, err := o.sinks().Rotate(ctx, &sinkpb.RotateRequest{Opening: o.id}); status.Code(err) {
		case codes.OK:
			resp.Rotated++
		case codes.Unimplemented, codes.NotFound: // it has no file, or its streams have ended
		default:
			return nil, plainStatus(err)
		}
	}
	if resp.Rotated == 0 {
		return nil, status.Errorf(codes.FailedPrecondition, "child %s: none of its sinks is writing a file that could be rotated", name)
	}
	return resp, nil
}

// logOf finds the opening of c whose sink keeps a log that can be read back, of one stream where it is named. Its
// plugin is started, if it does not run.
func (a *Agent) logOf(ctx context.Context, c *child, stream string) (*opening, []sinkpb.Stream, error) {
	a.mu.Lock()
	name, sinks := c.rec.Name, slices.Clone(c.sinks)
	live := map[*choice]string{}
	for _, o := range c.openings {
		for _, s := range o.streams {
			live[s.as] = o.id
		}
	}
	a.mu.Unlock()
	for _, ch := range sinks {
		if ch.wiring == wiringNull || ch.wiring == wiringInherit {
			continue
		}
		var streams []sinkpb.Stream
		for _, same := range sinks { // several streams may go to one, each by itself
			for _, s := range same.streams {
				if same.text == ch.text && (stream == "" || same.streamOf(s) == stream) && s != sinkpb.Stream_STDIN {
					streams = append(streams, s)
				}
			}
		}
		slices.Sort(streams)
		streams = slices.Compact(streams)
		if len(streams) == 0 {
			continue
		}
		p, err := a.host.Get(ctx, ch.spec.Name)
		if err != nil {
			return nil, nil, invalid(err)
		}
		if p.Description().KeepsLogs {
			o := &opening{id: live[ch], child: c, choice: ch}
			o.plugin.Store(p)
			return o, streams, nil
		}
	}
	if stream != "" {
		return nil, nil, status.Errorf(codes.FailedPrecondition, "child %s: no sink keeps a log of its %s", name, stream)
	}
	return nil, nil, status.Errorf(codes.FailedPrecondition, "child %s: none of its sinks keeps a log", name)
}
