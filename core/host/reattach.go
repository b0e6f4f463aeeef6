package host

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"

	"github.com/hashicorp/go-hclog"
	plugin "github.com/hashicorp/go-plugin"
	"github.com/hashicorp/go-plugin/runner"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/muxd/muxd/core/keeper"
	"github.com/muxd/muxd/core/keeper/keeperpb"
	"github.com/muxd/muxd/internal/fdchan"
	"github.com/muxd/muxd/sink/sinkpb"
)

// address is how a plugin's process is found and reached, for the agent after this one. go-plugin's ReattachConfig loses the
// version that was negotiated, so it is here too.
type address struct {
	Key      string  `json:"key"`
	PID      int     `json:"pid"`
	Started  uint64  `json:"started"` // see keeper.StartTime
	Network  string  `json:"network"`
	Addr     string  `json:"addr"`
	Listener string  `json:"listener"` // where a new fd channel is opened
	Version  int     `json:"version"`
	Command  Command `json:"command"`
	File     fileID  `json:"file"`
}

func (h *Host) addressFile(name string) string { return filepath.Join(h.o.Dir, name+".json") }

// channelName is the keeper's name of our end of a plugin's fd channel.
func channelName(key string) string { return "channel/" + key }

// remember puts the plugin's address down.
func (p *Plugin) remember() error {
	started, err := keeper.StartTime(p.PID())
	if err != nil {
		return err
	}
	addr := p.client.ReattachConfig().Addr
	b, err := json.Marshal(address{
		Key: p.key, PID: p.PID(), Started: started, Network: addr.Network(), Addr: addr.String(), Listener: p.listener,
		Version: p.protocol, Command: p.command, File: p.file,
	})
	if err != nil {
		return err
	}
	file := p.host.addressFile(p.name)
	if err := os.WriteFile(file+".new", b, 0o600); err != nil {
		return err
	}
	return os.Rename(file+".new", file)
}

// Reattach connects to a plugin that an earlier agent has started, and that runs.
func (h *Host) Reattach(ctx context.Context, process *keeperpb.Process) (*Plugin, error) {
	name, _, _ := strings.Cut(strings.TrimPrefix(process.Key, KeyPrefix), "/")
	at, err := readAddress(h.addressFile(name))
	if err != nil {
		return nil, err
	}
	if at.Key != process.Key {
		return nil, fmt.Errorf("%s is of %s", h.addressFile(name), at.Key)
	}
	if !Protocols().Has(at.Version) {
		return nil, foreign(at.Version)
	}
	p := newPlugin(h, name, process.Key)
	p.process, p.command, p.listener, p.file, p.protocol = process, at.Command, at.Listener, at.File, at.Version
	ours, err := h.o.Keeper.Fetch(ctx, channelName(p.key))
	if err != nil {
		return nil, fmt.Errorf("fetch its fd channel: %w", err)
	}
	conn, err := fdchan.New(ours)
	if err != nil {
		return nil, err
	}
	p.fds = fdchan.NewEndpoint(conn, p.park)
	p.reopenLog(ctx)
	p.client = plugin.NewClient(&plugin.ClientConfig{
		HandshakeConfig:  plugin.HandshakeConfig{MagicCookieKey: cookieKey, MagicCookieValue: cookieValue},
		Plugins:          plugin.PluginSet{"sink": clientPlugin{}},
		AllowedProtocols: []plugin.Protocol{plugin.ProtocolGRPC},
		Logger:           hclog.NewNullLogger(),
		GRPCDialOptions:  p.dialOptions(),
		Reattach: &plugin.ReattachConfig{
			Protocol: plugin.ProtocolGRPC, ProtocolVersion: at.Version, Pid: int(process.Pid),
			Addr:         &net.UnixAddr{Net: at.Network, Name: at.Addr},
			ReattachFunc: func() (runner.AttachedRunner, error) { return &keeperRunner{p: p}, nil },
		},
	})
	h.mu.Lock()
	if end := h.ended[p.key]; end != nil { // since the keeper told that it runs
		h.mu.Unlock()
		p.fds.Close()
		p.client.Kill()
		return nil, errors.New(describeExit(end))
	}
	h.plugins[name] = p
	h.waiting[p.key] = p
	h.mu.Unlock()
	go p.run(p.reattach, "plugin reattached")
	select {
	case <-p.started:
		return p, p.err
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// reattach is start for a process that runs.
func (p *Plugin) reattach() error {
	err := p.connect()
	if err != nil {
		(&keeperRunner{p: p}).Kill(context.Background())
		p.client.Kill()
		p.fds.Close()
		return fmt.Errorf("reattach plugin %s: %w", p.name, err)
	}
	return nil
}

// descriptionMost bounds what a plugin says of itself: all of it is kept, and told to whoever lists plugins.
const descriptionMost = 256 << 10

// connect makes the gRPC client of a process that has shaken hands.
func (p *Plugin) connect() error {
	rpc, err := p.client.Client()
	if err != nil {
		return err
	}
	if p.protocol == 0 { // otherwise it was agreed on with an earlier agent, which go-plugin does not know of
		p.protocol = p.client.NegotiatedVersion()
	}
	raw, err := rpc.Dispense("sink")
	if err != nil {
		return err
	}
	p.sinks = sinkpb.NewSinkClient(caller{raw.(*grpc.ClientConn), p})
	ctx, cancel := context.WithTimeout(context.Background(), p.host.o.StartTimeout())
	defer cancel()
	p.desc, err = p.sinks.Describe(ctx, &sinkpb.DescribeRequest{MuxdVersion: p.host.o.Version}, grpc.MaxCallRecvMsgSize(descriptionMost))
	switch code := status.Code(err); {
	case code == codes.DeadlineExceeded:
		return fmt.Errorf("it did not describe itself within %v", p.host.o.StartTimeout())
	case code == codes.ResourceExhausted:
		return fmt.Errorf("its description has more than %d bytes", descriptionMost)
	case err != nil:
		return fmt.Errorf("it does not describe itself: %w", err)
	}
	if p.desc.Name != p.name {
		return fmt.Errorf("it calls itself %q; name it so in the config, or install it as muxd-sink-%s", p.desc.Name, p.desc.Name)
	}
	return nil
}

func newPlugin(h *Host, name, key string) *Plugin {
	return &Plugin{
		host: h, name: name, key: key, stir: make(chan struct{}, 1), reconsider: make(chan struct{}, 1),
		started: make(chan struct{}), exited: make(chan struct{}), gone: make(chan struct{}),
	}
}

// socketDirs matches the directories that go-plugin makes for plugins' sockets.
const socketDirs = "plugin-dir*"

// removeSocket removes the plugin's sockets: go-plugin does so only where it started the process.
func (p *Plugin) removeSocket() {
	if p.listener != "" {
		os.Remove(p.listener)
	}
	addr := p.client.ReattachConfig()
	if addr == nil {
		return
	}
	dir := filepath.Dir(addr.Addr.String())
	if ok, err := filepath.Match(filepath.Join(p.host.o.Dir, socketDirs), dir); err == nil && ok {
		os.RemoveAll(dir)
	}
}

// Sweep removes what plugins of earlier agents have left, but for those that run.
func (h *Host) Sweep() {
	keep := map[string]bool{}
	h.mu.Lock()
	for _, p := range h.plugins {
		if addr := p.client.ReattachConfig(); addr != nil {
			keep[filepath.Dir(addr.Addr.String())] = true
		}
		keep[p.listener] = true
	}
	h.mu.Unlock()
	for _, pattern := range []string{socketDirs, listeners} {
		found, _ := filepath.Glob(filepath.Join(h.o.Dir, pattern))
		for _, path := range found {
			if !keep[path] {
				os.RemoveAll(path)
			}
		}
	}
}
