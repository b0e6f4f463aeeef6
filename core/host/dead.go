package host

import (
	"context"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/muxd/muxd/core/keeper/keeperpb"
	"github.com/muxd/muxd/sink/sinkpb"
)

// Dead is a plugin of that name whose process has ended: what stands for one until it is known to run.
func Dead(name string) *Plugin {
	p := &Plugin{name: name, process: &keeperpb.Process{}, sinks: sinkpb.NewSinkClient(noConn{}), gone: make(chan struct{})}
	close(p.gone)
	return p
}

// noConn answers every call as a broken connection does.
type noConn struct{}

var errNoConn = status.Error(codes.Unavailable, "the plugin's process has ended")

func (noConn) Invoke(context.Context, string, any, any, ...grpc.CallOption) error { return errNoConn }

func (noConn) NewStream(context.Context, *grpc.StreamDesc, string, ...grpc.CallOption) (grpc.ClientStream, error) {
	return nil, errNoConn
}
