package host

import (
	"context"
	"strings"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/muxd/muxd/internal/fdchan"
	"github.com/muxd/muxd/sink/sinkpb"
)

// The calls that every child costs come to a plugin on its fd channel, if it serves calls there: one packet with what gRPC would
// carry, and the descriptors beside it, and one packet back, which acknowledges them too. All others are gRPC's, which
// knows streams, deadlines and long answers.

// onChannel are the calls that go there, by their full names.
var onChannel = map[string]bool{
	sinkpb.Sink_Open_FullMethodName: true, sinkpb.Sink_End_FullMethodName: true, sinkpb.Sink_Cut_FullMethodName: true,
	sinkpb.Sink_Forget_FullMethodName: true,
}

// caller is a plugin's gRPC connection, and its fd channel for calls that go there.
type caller struct {
	grpc.ClientConnInterface
	p *Plugin
}

// given are the descriptors of a call, in its context.
type given struct {
	ticket fdchan.Ticket
	fds    []int
}

type givenKey struct{}

// Invoke makes a call, with the descriptors that ctx has for it.
func (c caller) Invoke(ctx context.Context, method string, req, reply any, opts ...grpc.CallOption) error {
	with, _ := ctx.Value(givenKey{}).(given)
	if onChannel[method] && c.p.desc.GetCallsOnChannel() {
		name := method[strings.LastIndexByte(method, '/')+1:]
		b, err := proto.MarshalOptions{}.MarshalAppend(append([]byte{byte(len(name))}, name...), req.(proto.Message))
		if err != nil {
			return status.Error(codes.Internal, err.Error())
		}
		if len(b) <= fdchan.MaxPayload {
			return c.p.call(ctx, b, reply.(proto.Message), with)
		}
	}
	if len(with.fds) == 0 {
		return c.ClientConnInterface.Invoke(ctx, method, req, reply, opts...)
	}
	err := c.p.fds.GiveUnder(ctx, with.ticket, with.fds, func(ctx context.Context) error {
		return c.ClientConnInterface.Invoke(ctx, method, req, reply, opts...)
	})
	if fdchan.Broken(err) {
		return errNoConn
	}
	return err
}

// call makes a call on the fd channel.
func (p *Plugin) call(ctx context.Context, payload []byte, reply proto.Message, with given) error {
	if len(with.fds) == 0 {
		with.ticket = fdchan.NewTicket()
	}
	p.Stir()
	answer, err := p.fds.Call(ctx, with.ticket, payload, with.fds...)
	switch {
	case fdchan.Broken(err):
		return errNoConn
	case err != nil && ctx.Err() != nil:
		return status.FromContextError(ctx.Err()).Err()
	case err != nil:
		return plainError(status.Error(codes.FailedPrecondition, err.Error()))
	case len(answer) == 0:
		return status.Error(codes.Internal, "an empty answer came on the fd channel")
	case codes.Code(answer[0]) != codes.OK:
		return plainError(status.Error(codes.Code(answer[0]), string(answer[1:])))
	}
	if err := proto.Unmarshal(answer[1:], reply); err != nil {
		return status.Error(codes.Internal, err.Error())
	}
	plainMessage(reply.ProtoReflect())
	return nil
}
