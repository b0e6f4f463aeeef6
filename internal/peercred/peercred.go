// Package peercred lets gRPC servers on Unix sockets know who connects.
package peercred

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"

	"google.golang.org/grpc/credentials"

	"github.com/muxd/muxd/internal/fdchan"
)

// Server lets in only processes of this process's own user and of root (SO_PEERCRED, unix(7)), in place of mTLS: the
// sockets are private, and with mTLS no agent could take over the plugins of another.
type Server struct{}

func (Server) ServerHandshake(c net.Conn) (net.Conn, credentials.AuthInfo, error) {
	uc, ok := c.(*net.UnixConn)
	if !ok {
		return nil, nil, errors.New("not a Unix socket")
	}
	cred, err := fdchan.PeerCred(uc)
	if err != nil {
		return nil, nil, err
	}
	if cred.Uid != 0 && int(cred.Uid) != os.Geteuid() {
		return nil, nil, fmt.Errorf("process %d belongs to user %d", cred.Pid, cred.Uid)
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
