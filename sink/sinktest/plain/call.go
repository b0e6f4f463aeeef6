package main

import (
	"context"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/muxd/muxd/internal/fdchan"
	"github.com/muxd/muxd/sink/sinkpb"
)

// called serves a call on the fd channel, as gRPC would.
func (p *plain) called(ctx context.Context, _ fdchan.Ticket, b []byte) []byte {
	name, message := string(b[1:1+b[0]]), b[1+b[0]:]
	for _, m := range sinkpb.Sink_ServiceDesc.Methods {
		if m.MethodName != name {
			continue
		}
		reply, err := m.Handler(p, ctx, func(req any) error { return proto.Unmarshal(message, req.(proto.Message)) }, nil)
		if err != nil {
			return append([]byte{byte(status.Code(err))}, status.Convert(err).Message()...)
		}
		out, _ := proto.MarshalOptions{}.MarshalAppend([]byte{byte(codes.OK)}, reply.(proto.Message))
		return out
	}
	if p.is("fds.call") {
		return []byte{byte(codes.OK)}
	}
	return []byte{byte(codes.Unimplemented)}
}
