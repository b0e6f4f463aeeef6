package control

import (
	"context"
	"errors"
	"io"

	"google.golang.org/grpc"

	"github.com/muxd/muxd/control/controlpb"
)

// Events calls f for every event that req asks for, in order, and returns its error if it fails. With req.Follow it goes on until muxd
// ends or ctx is done, across the deaths of agents, without telling an event twice or leaving one out.
func (c *Client) Events(ctx context.Context, req *controlpb.EventsRequest, f func(*controlpb.Event) error) error {
	next := &controlpb.EventsRequest{Follow: req.Follow, Child: req.Child, After: req.After}
	for {
		var s grpc.ServerStreamingClient[controlpb.Event]
		err := c.retry(ctx, func() (err error) {
			if s, err = c.API.Events(ctx, next); err == nil {
				_, err = s.Header() // it has come to an agent
			}
			return err
		})
		if err != nil {
			return err
		}
		for err == nil {
			var ev *controlpb.Event
			if ev, err = s.Recv(); err != nil {
				break
			}
			if err := f(ev); err != nil {
				return err
			}
			next.After = ev.Seq
		}
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case !Unreachable(c.Plain(err)):
			return c.Plain(err)
		}
	}
}
