package sinktest

import (
	"context"
	"errors"
	"fmt"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/muxd/muxd/internal/fd"
	"github.com/muxd/muxd/sink/sinkpb"
)

// callOnChannel makes a call on the fd channel, with fds.
func (p *process) callOnChannel(ctx context.Context, name string, req, reply proto.Message, fds ...int) error {
	t := newTicket()
	if open, ok := req.(*sinkpb.OpenRequest); ok {
		open.Ticket = t[:]
	}
	b, err := proto.MarshalOptions{}.MarshalAppend(append([]byte{byte(len(name))}, name...), req)
	if err != nil {
		return err
	}
	answer, err := p.fds.Call(ctx, t, b, fds...)
	switch {
	case err != nil:
		return fmt.Errorf("the call %s on the fd channel: %w", name, err)
	case len(answer) == 0:
		return fmt.Errorf("the call %s on the fd channel: the answer is empty", name)
	case codes.Code(answer[0]) != codes.OK:
		return status.Error(codes.Code(answer[0]), string(answer[1:]))
	}
	return proto.Unmarshal(answer[1:], reply)
}

// fdsCall opens and ends a stream by calls on the fd channel.
func fdsCall(s *session) error {
	h, err := s.host()
	if err != nil {
		return err
	}
	ctx, cancel := s.soon()
	defer cancel()
	d, err := h.describe(ctx)
	switch {
	case err != nil:
		return err
	case !d.CallsOnChannel:
		return notApplicable("it does not say calls_on_channel")
	}
	err = h.p.callOnChannel(ctx, "NoSuchCall", &sinkpb.ForgetRequest{}, &sinkpb.ForgetResponse{})
	if status.Code(err) != codes.Unimplemented {
		return fmt.Errorf("a call on the fd channel that nobody knows: %v, want UNIMPLEMENTED", err)
	}
	if err := h.p.callOnChannel(ctx, "Forget", &sinkpb.ForgetRequest{Opening: names.next()}, &sinkpb.ForgetResponse{}); err != nil {
		return fmt.Errorf("the call Forget of an unknown opening on the fd channel: %w", err)
	}
	if s.target.out == 0 || s.target.wiring != sinkpb.Wiring_PIPE {
		return nil
	}
	before, err := h.p.openFDs()
	if err != nil {
		return err
	}
	for range 3 * fdSlack { // each leaves a descriptor behind where a call that fails keeps its own
		far, near, err := pipePair()
		if err != nil {
			return err
		}
		id := names.next()
		err = h.p.callOnChannel(ctx, "Open", &sinkpb.OpenRequest{
			Opening: id, Spec: &sinkpb.Spec{Options: map[string]string{"no-such-option": "1"}}, Child: child(id), Streams: s.target.streams(),
		}, &sinkpb.OpenResponse{}, far.Int())
		fd.CloseAll([]*fd.FD{far, near})
		if status.Code(err) != codes.InvalidArgument {
			return fmt.Errorf("the call Open on the fd channel of a spec that is wrong: %v, want INVALID_ARGUMENT", err)
		}
	}
	if err := h.settlesAt(ctx, before); err != nil {
		return fmt.Errorf("after calls of Open on the fd channel that failed: %w", err)
	}
	p, err := s.place(s.target)
	if err != nil {
		return err
	}
	if rd := newReader(s.target, p); rd != nil {
		if err := rd.begin(); err != nil {
			return err
		}
		defer rd.close()
	}
	id := names.next()
	far, near, err := pipePair()
	if err != nil {
		return err
	}
	defer func() { fd.CloseAll([]*fd.FD{far, near}) }()
	req := &sinkpb.OpenRequest{Opening: id, Spec: s.target.wire(p), Child: child(id), Streams: s.target.streams()}
	if err := h.p.callOnChannel(ctx, "Open", req, &sinkpb.OpenResponse{}, far.Int()); err != nil {
		return fmt.Errorf("the call Open on the fd channel: %w", err)
	}
	near.Close()
	k := key{id, req.Streams[0]}
	if err := h.p.events.wait(ctx, func() bool { t := h.p.events.streams[k]; return t != nil && t.over() }); err != nil {
		return fmt.Errorf("the end of a stream that was opened on the fd channel is not told: %w", err)
	}
	if err := h.p.callOnChannel(ctx, "Forget", &sinkpb.ForgetRequest{Opening: id}, &sinkpb.ForgetResponse{}); err != nil {
		return fmt.Errorf("the call Forget on the fd channel: %w", err)
	}
	if h.p.fds.Closed() {
		return errors.New("it closed its fd channel")
	}
	return nil
}
