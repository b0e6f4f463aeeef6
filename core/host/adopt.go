package host

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/muxd/muxd/core/keeper"
	"github.com/muxd/muxd/core/keeper/keeperpb"
	"github.com/muxd/muxd/internal/fd"
	"github.com/muxd/muxd/internal/fdchan"
)

// A plugin's fd channel is a socket pair, of which keeper and agent have the other end. When both are killed together nobody can reach the
// plugin on it any more, and it goes on by itself. So each plugin has a socket beside it, on which it listens: the next
// muxd opens a new channel there.

// listeners matches the names of these sockets.
const listeners = "fd-*"

// bind makes the socket on which the plugin will listen, and returns it, owned by the caller. It is the plugin that
// calls listen(2): a connection is told the credentials of the process that did (SO_PEERCRED, unix(7)).
func (p *Plugin) bind() (*fd.FD, error) {
	var random [8]byte
	rand.Read(random[:])
	n, err := unix.Socket(unix.AF_UNIX, seqpacket|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("make a socket: %w", err)
	}
	f := fd.New(n)
	p.listener = filepath.Join(p.host.o.Dir, "fd-"+hex.EncodeToString(random[:]))
	if err := unix.Bind(n, &unix.SockaddrUnix{Name: p.listener}); err != nil { // in a directory that is the owner's alone
		f.Close()
		return nil, fmt.Errorf("bind %s: %w", p.listener, err)
	}
	return f, nil
}

// Adopt has the keeper hold the fd channels and follow the processes of plugins that an earlier keeper started and that run, but for those
// of the keys in known. It returns the processes, also of those that could not be reached.
func (h *Host) Adopt(ctx context.Context, known map[string]bool) ([]*keeperpb.Process, error) {
	files, _ := filepath.Glob(filepath.Join(h.o.Dir, "*.json"))
	var out []*keeperpb.Process
	for _, file := range files {
		at, err := readAddress(file)
		if err != nil {
			return nil, err
		}
		if known[at.Key] {
			continue
		}
		pidfd, err := keeper.OpenProcess(at.PID, at.Started)
		if err == nil && keeper.HasExited(pidfd) {
			pidfd.Close()
			err = unix.ESRCH
		}
		if errors.Is(err, unix.ESRCH) {
			h.o.Log.Error("plugin ended while nobody could take its streams: what it had not put out is lost", "key", at.Key, "pid", at.PID)
			os.Remove(file)
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("take plugin %s over: %w", at.Key, err)
		}
		p, err := h.adopt(ctx, at, pidfd)
		pidfd.Close()
		if err != nil {
			return nil, fmt.Errorf("take plugin %s over: %w", at.Key, err)
		}
		out = append(out, p)
	}
	return out, nil
}

// adopt takes one plugin over. A plugin that cannot be reached is followed all the same, so that it can be ended. An error is the keeper's.
func (h *Host) adopt(ctx context.Context, at address, pidfd *fd.FD) (*keeperpb.Process, error) {
	channel, err := h.dial(at)
	if err != nil {
		h.o.Log.Error("plugin runs and cannot be reached", "key", at.Key, "pid", at.PID, "error", err)
	} else {
		err := h.o.Keeper.Hold(ctx, channelName(at.Key), nil, channel.Int())
		channel.Close()
		if err != nil {
			return nil, err
		}
	}
	if end, err := stderrOf(at.PID); err != nil {
		h.o.Log.Warn("plugin's log cannot be followed", "key", at.Key, "pid", at.PID, "error", err)
	} else {
		err := h.o.Keeper.Hold(ctx, logName(at.Key), nil, end.Int())
		end.Close()
		if err != nil {
			return nil, err
		}
	}
	return h.o.Keeper.Watch(ctx, at.Key, at.PID, nil, pidfd.Int())
}

// dial opens an fd channel to a plugin that listens, and returns its end, owned by the caller. The plugin uses it, in place of the one before, when
// dial returns.
func (h *Host) dial(at address) (*fd.FD, error) {
	c, err := net.DialUnix("unixpacket", nil, &net.UnixAddr{Net: "unixpacket", Name: at.Listener})
	if err != nil {
		return nil, err
	}
	defer c.Close()
	cred, err := fdchan.PeerCred(c)
	if err != nil {
		return nil, err
	}
	if int(cred.Pid) != at.PID {
		return nil, fmt.Errorf("on %s listens process %d, not %d", at.Listener, cred.Pid, at.PID)
	}
	conn := fdchan.NewConn(c)
	c.SetDeadline(time.Now().Add(h.o.StartTimeout()))
	hello := fdchan.NewTicket()
	if err := conn.Send(fdchan.Packet{Type: fdchan.Hello, Ticket: hello}); err != nil {
		return nil, err
	}
	p, fds, err := conn.Recv()
	fd.CloseAll(fds)
	if err != nil {
		return nil, fmt.Errorf("wait for the answer to hello: %w", err)
	}
	if p.Type != fdchan.Ack || p.Ticket != hello {
		return nil, errors.New("it does not answer hello")
	}
	raw, err := c.SyscallConn()
	if err != nil {
		return nil, err
	}
	var out *fd.FD
	var dupErr error
	if err := raw.Control(func(n uintptr) { out, dupErr = fd.Dup(int(n)) }); err != nil {
		return nil, err
	}
	return out, dupErr
}

// readAddress reads what remember wrote.
func readAddress(file string) (address, error) {
	var at address
	b, err := os.ReadFile(file)
	if err != nil {
		return at, err
	}
	if err := json.Unmarshal(b, &at); err != nil {
		return at, fmt.Errorf("read %s: %w", file, err)
	}
	return at, nil
}
