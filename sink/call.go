package sink

import (
	"context"
	"fmt"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/muxd/muxd/internal/fdchan"
	"github.com/muxd/muxd/sink/sinkpb"
)

// called serves a call of the sink service that came on the fd channel: one packet there and one back take a fraction of what gRPC
// does, and the descriptors come with the call. The call's own ticket is that of its descriptors.
func (s *server) called(ctx context.Context, t fdchan.Ticket, payload []byte) []byte {
	reply, err := s.serveCall(ctx, payload)
	var b []byte
	if err == nil {
		b, err = proto.MarshalOptions{}.MarshalAppend([]byte{byte(codes.OK)}, reply)
	}
	if err == nil && len(b) > fdchan.MaxPayload {
		err = status.Errorf(codes.ResourceExhausted, "an answer of %d bytes is too long for the fd channel", len(b))
	}
	if err != nil {
		st := status.Convert(err)
		text := st.Message()
		b = append([]byte{byte(st.Code())}, text[:min(len(text), fdchan.MaxPayload-1)]...)
	}
	return b
}

// serveCall calls the method that the payload names, behind the length of its name, with the message that follows.
func (s *server) serveCall(ctx context.Context, payload []byte) (proto.Message, error) {
	if len(payload) == 0 || len(payload) <= int(payload[0]) {
		return nil, status.Error(codes.InvalidArgument, "a call on the fd channel is cut short")
	}
	name, message := string(payload[1:1+payload[0]]), payload[1+payload[0]:]
	for _, m := range sinkpb.Sink_ServiceDesc.Methods {
		if m.MethodName != name {
			continue
		}
		reply, err := m.Handler(s, ctx, func(req any) error {
			if err := proto.Unmarshal(message, req.(proto.Message)); err != nil {
				return status.Error(codes.InvalidArgument, fmt.Sprintf("call %s: %v", name, err))
			}
			return nil
		}, nil)
		if err != nil {
			return nil, err
		}
		return reply.(proto.Message), nil
	}
	return nil, status.Errorf(codes.Unimplemented, "the sink service has no call %q", name)
}
