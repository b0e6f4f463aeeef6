package sink

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"strconv"
	"sync"

	"github.com/hashicorp/go-hclog"
	plugin "github.com/hashicorp/go-plugin"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc"

	"github.com/muxd/muxd/internal/fd"
	"github.com/muxd/muxd/internal/fdchan"
	"github.com/muxd/muxd/internal/localrpc"
	"github.com/muxd/muxd/internal/peercred"
	"github.com/muxd/muxd/internal/protocols"
	"github.com/muxd/muxd/sink/sinkpb"
)

// speaks is the versions of the sink protocol that this SDK speaks. It is a variable for the linker (-X), so that a test can have a plugin
// of another time.
var speaks = "1"

// The handshake of PROTOCOL.md.
const (
	cookieKey   = "MUXD_SINK_PLUGIN"
	cookieValue = "5d6d1c1f-muxd-sink"
	channelEnv  = "MUXD_FD_CHANNEL"
	listenerEnv = "MUXD_FD_LISTENER"
)

// Serve serves p to the muxd that started this process, and returns when muxd ends it. It writes what is wrong
// to stderr, and ends the process with status 1, where it cannot serve. Stdin, stdout and stderr
// belong to it until then; afterwards os.Stdout and os.Stderr are muxd's log.
func Serve(p Plugin) {
	if err := serve(&p); err != nil {
		fmt.Fprintf(os.Stderr, "sink plugin %s: %v\n", p.Name, err)
		os.Exit(1)
	}
}

func serve(p *Plugin) error {
	if os.Getenv(cookieKey) != cookieValue {
		return errors.New("this is a plugin of muxd, which starts it when a sink spec names it; it does nothing by itself")
	}
	if err := p.valid(); err != nil {
		return err
	}
	n, err := strconv.Atoi(os.Getenv(channelEnv))
	if err != nil {
		return fmt.Errorf("%s: want the number of an open descriptor: %w", channelEnv, err)
	}
	conn, err := fdchan.New(fd.New(n))
	if err != nil {
		return err
	}
	// A write to a log whose reader is gone shall be an error, not the end (os/signal, SIGPIPE).
	signal.Notify(make(chan os.Signal, 1), unix.SIGPIPE)
	logFD, err := fd.Dup(2)
	if err != nil {
		return err
	}
	logFile := logFD.File("log")

	srv := newServer(p, conn)
	defer srv.close()
	if text, ok := os.LookupEnv(listenerEnv); ok {
		n, err := strconv.Atoi(text)
		if err != nil {
			return fmt.Errorf("%s: want the number of an open descriptor: %w", listenerEnv, err)
		}
		l, err := srv.channel.listen(fd.New(n))
		if err != nil {
			return err
		}
		defer l.Close()
		go srv.channel.serve(l)
	}
	go func() {
		srv.outlive()
		os.Exit(0)
	}()

	// Serve of go-plugin points os.Stdout and os.Stderr at pipes that its client reads. With no client they would
	// block whoever prints; muxd's log does not.
	versions := map[int]plugin.PluginSet{}
	for _, v := range protocols.Of(speaks).All() {
		versions[v] = plugin.PluginSet{"sink": &servedPlugin{srv: srv}}
	}
	var once sync.Once
	swap := func() { once.Do(func() { os.Stdout, os.Stderr = logFile, logFile }) }
	plugin.Serve(&plugin.ServeConfig{
		HandshakeConfig:  plugin.HandshakeConfig{MagicCookieKey: cookieKey, MagicCookieValue: cookieValue},
		VersionedPlugins: versions,
		Logger:           hclog.New(&hclog.LoggerOptions{Name: p.Name, Level: hclog.Warn, Output: logFile}),
		GRPCServer: func(opts []grpc.ServerOption) *grpc.Server {
			return grpc.NewServer(append(append(opts, localrpc.Server()...), grpc.Creds(peercred.Server{}), grpc.UnaryInterceptor(
				func(ctx context.Context, req any, _ *grpc.UnaryServerInfo, h grpc.UnaryHandler) (any, error) {
					swap()
					return h(ctx, req)
				}))...)
		},
	})
	return nil
}

// valid says what is wrong with the author's Plugin.
func (p *Plugin) valid() error {
	switch {
	case p.Name == "":
		return errors.New("Plugin.Name is empty")
	case len(p.Carries) == 0:
		return errors.New("Plugin.Carries is empty")
	case p.Copies && (p.Open != nil || p.OpenRaw != nil || p.OpenConsole != nil || p.carries(Stdin) || p.carries(Console)):
		return errors.New("with Plugin.Copies nothing is opened, and only Stdout and Stderr are carried")
	case p.Copies:
	case p.Open == nil && p.OpenRaw == nil && p.OpenDirect == nil && p.OpenConsole == nil:
		return errors.New("one of Plugin.Open, Plugin.OpenRaw, Plugin.OpenDirect and Plugin.OpenConsole must be set")
	case p.Open != nil && p.OpenRaw != nil:
		return errors.New("with Plugin.OpenRaw Open is not called")
	case p.OpenConsole != nil && (p.Open != nil || p.OpenRaw != nil || p.OpenDirect != nil):
		return errors.New("with Plugin.OpenConsole neither Open, OpenRaw nor OpenDirect is called")
	case (p.OpenConsole != nil) != p.carries(Console), p.carries(Console) && len(p.Carries) > 1:
		return errors.New("Plugin.Carries must be Console alone with OpenConsole, and must not hold it with Open")
	}
	return validMetrics(p.Metrics)
}

// servedPlugin registers the sink service with go-plugin's server.
type servedPlugin struct {
	plugin.NetRPCUnsupportedPlugin
	srv *server
}

func (s *servedPlugin) GRPCServer(_ *plugin.GRPCBroker, g *grpc.Server) error {
	sinkpb.RegisterSinkServer(g, s.srv)
	return nil
}

// GRPCClient is the host's half, which muxd has elsewhere.
func (s *servedPlugin) GRPCClient(context.Context, *plugin.GRPCBroker, *grpc.ClientConn) (any, error) {
	return nil, errors.New("sink: a plugin is no client of itself")
}
