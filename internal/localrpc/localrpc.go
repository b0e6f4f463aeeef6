// Package localrpc is what gRPC is told where both sides are on one machine, at the ends of a Unix socket. Left to itself it measures
// the connection, to find windows that suit it: with the first data of every call it sends a ping, which the other side answers, so a
// small call has twice the packets, and wakes twice as many threads, as it needs.
package localrpc

import "google.golang.org/grpc"

// window is how many bytes a stream, or a connection, may have on the way. Nothing is reserved for it.
const window = 4 << 20

// Server are the options of a server.
func Server() []grpc.ServerOption {
	return []grpc.ServerOption{grpc.StaticStreamWindowSize(window), grpc.StaticConnWindowSize(window)}
}

// Client are the options of a client.
func Client() []grpc.DialOption {
	return []grpc.DialOption{grpc.WithStaticStreamWindowSize(window), grpc.WithStaticConnWindowSize(window)}
}
