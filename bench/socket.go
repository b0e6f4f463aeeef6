package main

import (
	"context"
	"errors"
	"net"
)

// socketTrials are about a stream that goes to a Unix socket, whose peer compares what comes.
func (b *bench) socketTrials() []*trial {
	s := shapes[0]
	to := func(name string, r role, run func(ctx context.Context, f *flow, path string) (values, error)) contender {
		return contender{name: name, role: r, run: func(ctx context.Context) (values, error) {
			f, err := b.newFlow(s)
			if err != nil {
				return nil, err
			}
			defer f.close()
			path := f.path("peer")
			ln, err := net.Listen("unix", path)
			if err != nil {
				return nil, err
			}
			defer ln.Close()
			compared := make(chan error, 1)
			go func() {
				conn, err := ln.Accept()
				if err != nil {
					compared <- err
					return
				}
				defer conn.Close()
				compared <- s.expect(conn, f.blocks)
			}()
			v, err := run(ctx, f, path)
			ln.Close()
			return v, errors.Join(err, <-compared)
		}}
	}
	socat := func(buffer string) func(ctx context.Context, f *flow, path string) (values, error) {
		return func(ctx context.Context, f *flow, path string) (values, error) {
			return f.piped(ctx, "", "socat", "-u", "-b", buffer, "STDIN", "UNIX-CONNECT:"+path)
		}
	}
	return []*trial{{name: "socket raw over Unix, bulk", contenders: []contender{
		to("muxd", subject, func(ctx context.Context, f *flow, path string) (values, error) {
			return f.muxed(ctx, "socket:unix:"+path)
		}),
		to("socat", peer, socat("65536")), to("socat, 1 MiB", peer, socat("1048576")),
	}, lines: []line{
		{metric: speed, against: bestPeer, target: 1},
		{metric: cpuCost, against: bestPeer, target: 1, atMost: true},
	}}}
}
