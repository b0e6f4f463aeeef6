package agent

import (
	"errors"
	"net"

	"google.golang.org/grpc/credentials"

	"github.com/muxd/muxd/core/keeper"
	"github.com/muxd/muxd/internal/peercred"
)

// clients lets in whoever peercred does, but no plugin in bounds.
type clients struct{ peercred.Server }

func (c clients) ServerHandshake(conn net.Conn) (net.Conn, credentials.AuthInfo, error) {
	uc, ok := conn.(*net.UnixConn)
	if !ok {
		return nil, nil, errors.New("not a Unix socket")
	}
	if err := keeper.CheckPeer(uc); err != nil {
		return nil, nil, err
	}
	return c.Server.ServerHandshake(conn)
}

func (c clients) Clone() credentials.TransportCredentials { return c }
