// Package peercred lets gRPC servers on Unix sockets know who connects.
package peercred

import (
	"context"
	"errors"
	"net"

	"google.golang.org/grpc/credentials"
)

// Server lets in whoever Check does, in place of mTLS: the sockets are private, and with mTLS no agent could take over the plugins of
// another.
type Server struct{}

func (Server) ServerHandshake(c net.Conn) (net.Conn, credentials.AuthInfo, error) {
	uc, ok := c.(*net.UnixConn)
	if !ok {
		return nil, nil, errors.New("not a Unix socket")
	}
	if _, err := Check(uc); err != nil {
		return nil, nil, err
	}
	return c, info{}, nil
}

func (Server) ClientHandshake(context.Context, string, net.Conn) (net.Conn, credentials.AuthInfo, error) {
	return nil, nil, errors.New("peercred: server only")
}

func (Server) Info() credentials.ProtocolInfo {
	return credentials.ProtocolInfo{SecurityProtocol: "peercred"}
}
func (c Server) Clone() credentials.TransportCredentials { return c }
func (Server) OverrideServerName(string) error           { return nil }

type info struct{}

func (info) AuthType() string { return "peercred" }
