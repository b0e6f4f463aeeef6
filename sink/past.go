package sink

import (
	"context"
	"fmt"
	"os"
	"sync"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/muxd/muxd/sink/sinkpb"
)

// pasts are viewers of consoles that have ended. Each has the console for itself, which goes when it leaves.
type pasts struct {
	ctx     context.Context
	cancel  context.CancelFunc
	viewers sync.WaitGroup
}

func newPasts() pasts {
	ctx, cancel := context.WithCancel(context.Background())
	return pasts{ctx: ctx, cancel: cancel}
}

func (p *pasts) close() {
	p.cancel()
	p.viewers.Wait()
}

// past makes a console again that has ended.
func (s *server) past(remains []byte) (ConsoleSink, error) {
	if s.plugin.Past == nil {
		return nil, status.Errorf(codes.Unimplemented, "sink %s keeps nothing of a console that has ended", s.plugin.Name)
	}
	c, err := s.plugin.Past(remains)
	if err != nil {
		return nil, status.Errorf(codes.FailedPrecondition, "what is left of the console: %v", err)
	}
	return c, nil
}

func (s *server) attachPast(ctx context.Context, req *sinkpb.AttachRequest) (*sinkpb.AttachResponse, error) {
	c, err := s.past(req.Remains)
	if err != nil {
		return nil, err
	}
	conn, err := s.connect(ctx, req.Ticket)
	if err != nil {
		c.Close()
		return nil, err
	}
	v := newViewer(conn)
	v.asked(req)
	s.pasts.viewers.Go(func() {
		defer c.Close()
		defer v.Close()
		if err := c.Attach(s.pasts.ctx, v); err != nil {
			fmt.Fprintf(os.Stderr, "sink %s: viewer of a console that has ended: %v\n", s.plugin.Name, err)
		}
	})
	return &sinkpb.AttachResponse{}, nil
}

// screenOf is Screen of one that has ended.
func (s *server) screenOf(remains []byte) (*sinkpb.ScreenResponse, error) {
	c, err := s.past(remains)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	return s.screen(c)
}
