package host

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"github.com/hashicorp/go-hclog"
	plugin "github.com/hashicorp/go-plugin"
	"github.com/hashicorp/go-plugin/runner"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	"github.com/muxd/muxd/core/keeper"
	"github.com/muxd/muxd/core/keeper/keeperpb"
	"github.com/muxd/muxd/internal/fd"
	"github.com/muxd/muxd/internal/peercred"
)

// This file is all that muxd knows of go-plugin's peculiarities:
//   - The process is the keeper's child, not the agent's: a runner.Runner of our own starts it there.
//   - Its stdin must be given (go-plugin would pass on the host's), and its stderr is a pipe that the keeper holds (log.go), not one to
//     the agent: with its host dead, a plugin that logs would get SIGPIPE.
//   - The broker does not outlive a reattach, so nothing uses it.
//   - Liveness is what the keeper says; go-plugin would poll a pid.
//   - Kill is no graceful end while the plugin has streams: the agent ends those first.

const seqpacket = unix.SOCK_SEQPACKET

// The handshake of PROTOCOL.md.
const (
	cookieKey   = "MUXD_SINK_PLUGIN"
	cookieValue = "5d6d1c1f-muxd-sink"
)

// start starts the process, shakes hands, and hands it what its predecessor left. On an error the process, if there is one, is killed.
func (p *Plugin) start() error {
	return p.launch(func(ctx context.Context) error {
		if err := p.recover(ctx); err != nil {
			return fmt.Errorf("hand over what its predecessor left: %w", err)
		}
		if err := p.remember(); err != nil {
			return fmt.Errorf("write down its address: %w", err)
		}
		return nil
	})
}

// launch starts the process, shakes hands, and calls then. On an error the process, if there is one, is killed.
func (p *Plugin) launch(then func(ctx context.Context) error) (err error) {
	h := p.host
	if p.command, err = h.o.Lookup(p.name); err != nil {
		return err
	}
	theirs, err := p.channel()
	if err != nil {
		return fmt.Errorf("start plugin %s: %w", p.name, err)
	}
	defer theirs.Close()
	listen, err := p.bind()
	if err != nil {
		p.fds.Close()
		return fmt.Errorf("start plugin %s: %w", p.name, err)
	}
	defer listen.Close()
	run := &keeperRunner{p: p, channel: theirs, listen: listen}
	p.client = plugin.NewClient(&plugin.ClientConfig{
		HandshakeConfig:  plugin.HandshakeConfig{MagicCookieKey: cookieKey, MagicCookieValue: cookieValue},
		VersionedPlugins: versioned(),
		AllowedProtocols: []plugin.Protocol{plugin.ProtocolGRPC},
		StartTimeout:     h.o.StartTimeout(),
		SkipHostEnv:      true,
		UnixSocketConfig: &plugin.UnixSocketConfig{TempDir: h.o.Dir},
		Logger:           hclog.NewNullLogger(),
		GRPCDialOptions:  p.dialOptions(),
		RunnerFunc: func(_ hclog.Logger, cmd *exec.Cmd, _ string) (runner.Runner, error) {
			run.env = cmd.Env
			return run, nil
		},
	})
	defer func() {
		if err != nil {
			run.Kill(context.Background())
			p.client.Kill()
			p.fds.Close()
			os.Remove(p.listener)
			err = p.explain(err, run)
		}
	}()
	if err := p.connect(); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), h.o.StartTimeout())
	defer cancel()
	return then(ctx)
}

var versionRE = regexp.MustCompile(`Plugin version: (\S+), (?:Client versions: \[(.*)\]|Core version)`)

// explain turns go-plugin's words into a sentence for the user: what was done, to what, why, and the way out.
func (p *Plugin) explain(err error, run *keeperRunner) error {
	text := err.Error()
	fix := ""
	wrote := p.log.settle()
	switch m := versionRE.FindStringSubmatch(text); {
	case m != nil:
		version, _ := strconv.Atoi(m[1])
		text = foreign(version).Error()
	case strings.Contains(text, "Unrecognized remote plugin message"):
		said := strings.TrimSpace(run.said.String())
		if said == "" {
			text = "it ended or closed its stdout without the handshake of a sink plugin"
		} else {
			text = fmt.Sprintf("it said %.80q instead of the handshake of a sink plugin", said)
		}
		fix = "; is it a plugin of muxd?"
		if wrote != "" {
			fix = "; its log ends with: " + wrote
		}
	case strings.Contains(text, "timeout while waiting for plugin to start"):
		text = fmt.Sprintf("no handshake came within %v", p.host.o.StartTimeout())
		fix = "; see plugin_start_timeout in the config"
	case strings.Contains(text, "plugin exited before we could connect"):
		text = "it ended before the handshake"
		if wrote != "" {
			fix = "; its log ends with: " + wrote
		}
	}
	if errors.Is(err, syscall.EMFILE) || errors.Is(err, syscall.ENFILE) {
		fix = "; raise the limit of open files (ulimit -n, LimitNOFILE=)"
	}
	return fmt.Errorf("start plugin %s (%s): %s%s", p.name, p.command.Path, text, fix)
}

// versioned is the service in every version that this host speaks.
func versioned() map[int]plugin.PluginSet {
	out := map[int]plugin.PluginSet{}
	for _, v := range Protocols().All() {
		out[v] = plugin.PluginSet{"sink": clientPlugin{}}
	}
	return out
}

// clientPlugin is the host's half of the sink service.
type clientPlugin struct{ plugin.NetRPCUnsupportedPlugin }

func (clientPlugin) GRPCServer(*plugin.GRPCBroker, *grpc.Server) error {
	return errors.New("the host serves no plugin")
}

func (clientPlugin) GRPCClient(_ context.Context, _ *plugin.GRPCBroker, c *grpc.ClientConn) (any, error) {
	return c, nil
}

// keeperRunner starts the plugin as a child of the keeper.
type keeperRunner struct {
	p       *Plugin
	channel *fd.FD // the plugin's end; borrowed, as listen is
	listen  *fd.FD
	env     []string
	stdout  *os.File
	said    limited
}

// limited keeps the beginning of what is written to it.
type limited struct{ strings.Builder }

func (l *limited) Write(b []byte) (int, error) {
	if room := 1024 - l.Len(); room > 0 {
		l.Builder.Write(b[:min(room, len(b))])
	}
	return len(b), nil
}

func (r *keeperRunner) Start(ctx context.Context) error {
	h := r.p.host
	null, err := os.OpenFile(os.DevNull, os.O_RDONLY, 0)
	if err != nil {
		return err
	}
	defer null.Close()
	in, err := fd.DupFile(null)
	if err != nil {
		return err
	}
	defer in.Close()
	out, outW, err := fd.Pipe()
	if err != nil {
		return err
	}
	defer outW.Close()
	r.stdout = out.File("plugin stdout")

	errW, err := r.p.openLog()
	if err != nil {
		r.stdout.Close()
		return err
	}
	defer errW.Close()

	c := &r.p.command
	fds := []int{in.Int(), outW.Int(), errW.Int(), r.channel.Int(), r.listen.Int()}
	sp := &keeperpb.Spawn{
		Key: r.p.key, Path: []byte(c.path()), Cwd: []byte("/"), Fds: []uint32{0, 1, 2, 3, 4},
		Argv: [][]byte{[]byte(c.Path)}, Credential: c.User, Rlimits: c.Rlimits,
		TimerSlack: uint64(keeper.TimerSlack),
	}
	pinned, err := r.executable()
	if err != nil {
		r.stdout.Close()
		return err
	}
	if pinned != nil {
		defer pinned.Close()
		fds, sp.Fds, sp.Program = append(fds, pinned.Int()), append(sp.Fds, programFD), proto.Uint32(programFD)
	}
	if sp.Confine, err = r.admit(); err != nil {
		r.stdout.Close()
		return err
	}
	if sp.Confine != nil && peercred.CanMark() {
		sp.Rlimits = append(slices.Clone(sp.Rlimits), &keeperpb.Rlimit{Resource: peercred.MarkResource, Soft: peercred.Mark, Hard: peercred.Mark})
	}
	h.mu.Lock()
	h.waiting[r.p.key] = r.p
	h.mu.Unlock()
	for _, a := range c.Args {
		sp.Argv = append(sp.Argv, []byte(a))
	}
	env := append(r.env, "MUXD_FD_CHANNEL=3", "MUXD_FD_LISTENER=4")
	for _, name := range []string{"PATH", "TZ", coverDir} {
		if v, ok := os.LookupEnv(name); ok {
			env = append(env, name+"="+v)
		}
	}
	for _, e := range append(env, c.Env...) {
		sp.Env = append(sp.Env, []byte(e))
	}
	r.p.process, err = h.o.Keeper.Spawn(ctx, sp, fds)
	if err != nil {
		h.mu.Lock()
		delete(h.waiting, r.p.key)
		h.mu.Unlock()
		r.stdout.Close()
		return err
	}
	return nil
}

func (r *keeperRunner) Wait(context.Context) error {
	<-r.p.exited
	return nil
}

// Kill kills the whole group: what the process has started would keep its stdout open, which go-plugin reads to the end.
func (r *keeperRunner) Kill(ctx context.Context) error {
	if r.p.process == nil {
		return nil
	}
	if err := r.p.host.o.Keeper.Signal(ctx, r.p.key, unix.SIGKILL, true); !errors.Is(err, syscall.ESRCH) {
		return err
	}
	return nil
}

func (r *keeperRunner) Stdout() io.ReadCloser {
	return stdoutReader{r}
}

// stdoutReader closes the plugin's stdout at its end, which go-plugin does not.
type stdoutReader struct{ r *keeperRunner }

func (s stdoutReader) Read(b []byte) (int, error) {
	n, err := s.r.stdout.Read(b)
	s.r.said.Write(b[:n])
	if err != nil {
		s.r.stdout.Close()
	}
	return n, err
}

func (s stdoutReader) Close() error { return s.r.stdout.Close() }

func (r *keeperRunner) Stderr() io.ReadCloser                            { return io.NopCloser(strings.NewReader("")) }
func (r *keeperRunner) Name() string                                     { return r.p.command.Path }
func (r *keeperRunner) ID() string                                       { return r.p.key }
func (r *keeperRunner) Diagnose(context.Context) string                  { return "" }
func (r *keeperRunner) PluginToHost(n, a string) (string, string, error) { return n, a, nil }
func (r *keeperRunner) HostToPlugin(n, a string) (string, string, error) { return n, a, nil }

// crashed says whether a process ended by itself: not because somebody killed it.
func crashed(p *keeperpb.Process) bool {
	ws := syscall.WaitStatus(p.Status)
	return p.StatusKnown && (!ws.Signaled() || !slices.Contains([]syscall.Signal{unix.SIGKILL, unix.SIGTERM, unix.SIGINT}, ws.Signal()))
}

// describeExit says how a process ended.
func describeExit(p *keeperpb.Process) string {
	if !p.StatusKnown {
		return "its exit status is not known"
	}
	ws := syscall.WaitStatus(p.Status)
	if ws.Signaled() {
		return fmt.Sprintf("killed by %s", unix.SignalName(ws.Signal()))
	}
	return fmt.Sprintf("exit status %d", ws.ExitStatus())
}
