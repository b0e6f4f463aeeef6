package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"

	"github.com/muxd/muxd/control/controlpb"
	"github.com/muxd/muxd/core/host"
	"github.com/muxd/muxd/core/keeper"
	"github.com/muxd/muxd/internal/fd"
)

// An upgrade goes through three processes: the agent that is asked examines everything and has the keeper go on as the new program
// (core/keeper/upgrade.go), which starts an agent, which replaces the plugins. What they have to tell each other, and
// the client that asked, is in a file in the runtime directory.
type upgrade struct {
	ID       string          `json:"id"` // of the request
	Target   string          `json:"target"`
	File     uint64          `json:"file"` // inode of the program that was to run
	From     string          `json:"from"`
	Agent    int             `json:"agent"`    // the pid of the one that was asked
	Replaces bool            `json:"replaces"` // keeper and agent too
	Steps    json.RawMessage `json:"steps,omitempty"`
	Done     bool            `json:"done"`
	Error    string          `json:"error,omitempty"`

	resp *controlpb.UpgradeResponse
	done chan struct{} // closed when it is over
}

func (a *Agent) upgradeFile() string { return filepath.Join(a.o.RuntimeDir, "agent-upgrade.json") }

// save writes u down for the next agent.
func (a *Agent) saveUpgrade(u *upgrade) error {
	var err error
	if u.Steps, err = protojson.Marshal(u.resp); err != nil {
		return err
	}
	b, err := json.Marshal(u)
	if err != nil {
		return err
	}
	file := a.upgradeFile()
	if err := os.WriteFile(file+".new", b, 0o600); err != nil {
		return err
	}
	return os.Rename(file+".new", file)
}

// resumeUpgrade goes on with an upgrade that an agent before this one began, if there is one.
func (a *Agent) resumeUpgrade() error {
	b, err := os.ReadFile(a.upgradeFile())
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	u := &upgrade{resp: &controlpb.UpgradeResponse{}, done: make(chan struct{})}
	if err == nil {
		err = json.Unmarshal(b, u)
	}
	if err == nil {
		err = protojson.Unmarshal(u.Steps, u.resp)
	}
	if err != nil {
		return fmt.Errorf("read what became of the upgrade: %w", err)
	}
	a.mu.Lock()
	a.upgrading = u
	a.mu.Unlock()
	if u.Done {
		close(u.done)
		return nil
	}
	a.follow(func() { a.finishUpgrade(u) })
	return nil
}

// Upgrade is made again by a client whose agent was replaced over it, and gets the answer from the next.
func (s *api) Upgrade(ctx context.Context, req *controlpb.UpgradeRequest) (*controlpb.UpgradeResponse, error) {
	a := s.a
	a.mu.Lock()
	u := a.upgrading
	if u == nil || u.ID != req.RequestId {
		if u != nil && !u.over() {
			a.mu.Unlock()
			return nil, status.Error(codes.FailedPrecondition, "another upgrade is under way")
		}
		u = &upgrade{
			ID: req.RequestId, From: a.o.Version, Agent: os.Getpid(), resp: &controlpb.UpgradeResponse{}, done: make(chan struct{}),
		}
		a.upgrading = u
		a.follow(func() { a.beginUpgrade(u) })
	}
	a.mu.Unlock()
	select {
	case <-u.done:
	case <-ctx.Done():
		return nil, status.FromContextError(ctx.Err()).Err()
	}
	if u.Error != "" {
		return nil, status.Error(codes.FailedPrecondition, u.Error)
	}
	return u.resp, nil
}

func (u *upgrade) over() bool {
	select {
	case <-u.done:
		return true
	default:
		return false
	}
}

// endUpgrade ends u.
func (a *Agent) endUpgrade(u *upgrade, err error) {
	if err != nil {
		a.log.Error("upgrade failed", "error", err)
		u.Error = "upgrade: " + err.Error()
	}
	u.Done = true
	if err := a.saveUpgrade(u); err != nil {
		a.log.Error("the end of the upgrade is not written down", "error", err)
	}
	close(u.done)
}

// beginUpgrade looks at all that would be replaced, and replaces it. Where it does not end u, the keeper kills this process.
func (a *Agent) beginUpgrade(u *upgrade) {
	exe, err := a.examine(u)
	if err != nil {
		a.endUpgrade(u, fmt.Errorf("%w; nothing was changed", err))
		return
	}
	defer exe.Close()
	if !u.Replaces {
		a.finishUpgrade(u)
		return
	}
	if err := a.saveUpgrade(u); err != nil {
		a.endUpgrade(u, err)
		return
	}
	a.log.Info("upgrading", "from", u.From, "to", u.Target, "path", a.o.Path)
	a.endUpgrade(u, a.keeper.Upgrade(a.ctx, exe.Int()))
}

// examine says whether keeper and agent are to be replaced, by the program that it returns, owned by the caller, and whether all that
// is to be replaced can be. It changes nothing.
func (a *Agent) examine(u *upgrade) (*fd.FD, error) {
	f, err := os.Open(a.o.Path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	there, err := f.Stat()
	if err != nil {
		return nil, err
	}
	here, err := os.Stat(keeper.Self)
	if err != nil {
		return nil, err
	}
	u.Target = u.From
	if u.Replaces = !os.SameFile(there, here); u.Replaces {
		p, err := askProtocols(a.ctx, f)
		if err == nil {
			err = p.against(ProtocolsOf(a.o.Version))
		}
		for _, running := range a.host.All() {
			if err == nil {
				err = p.speaksTo(running.Name(), running.Protocol())
			}
		}
		if err == nil && a.o.ConfigPath != "" {
			_, err = ask(a.ctx, f, "--config", a.o.ConfigPath, "--check-config")
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w", a.o.Path, err)
		}
		var st unix.Stat_t
		if err := unix.Stat(a.o.Path, &st); err != nil {
			return nil, err
		}
		u.Target, u.File = p.Version, st.Ino
	}
	for _, p := range a.host.All() {
		changed, err := p.Changed()
		if err == nil && changed && !p.Builtin() {
			err = a.host.Try(p.Name())
		}
		if err != nil {
			return nil, err
		}
	}
	return fd.FromFile(f)
}

// finishUpgrade is what the agent after it does: it says what has become of keeper and agent, and replaces plugins.
func (a *Agent) finishUpgrade(u *upgrade) {
	var st unix.Stat_t
	err := unix.Stat(keeper.Self, &st)
	if err == nil && u.Replaces && st.Ino != u.File {
		err = fmt.Errorf("version %s did not come up, and version %s goes on; see its log", u.Target, a.o.Version)
	}
	if err != nil {
		a.endUpgrade(u, err)
		return
	}
	if len(u.resp.Steps) == 0 {
		u.resp.Steps = []*controlpb.Upgraded{
			{What: "keeper", PidBefore: int32(os.Getppid()), Pid: int32(os.Getppid()), VersionBefore: u.From, Version: u.Target, Replaced: u.Replaces},
			{What: "agent", PidBefore: int32(u.Agent), Pid: int32(os.Getpid()), VersionBefore: u.From, Version: u.Target, Replaced: u.Replaces},
		}
	}
	plugins := a.host.All()
	slices.SortFunc(plugins, func(x, y *host.Plugin) int { return strings.Compare(x.Name(), y.Name()) })
	for _, p := range plugins {
		if slices.ContainsFunc(u.resp.Steps, func(s *controlpb.Upgraded) bool { return s.What == "plugin "+p.Name() }) {
			continue // by an agent that died over the next
		}
		if err := a.upgradePlugin(u, p); err != nil {
			a.endUpgrade(u, err)
			return
		}
	}
	a.log.Info("upgraded", "from", u.From, "to", u.Target)
	a.endUpgrade(u, nil)
}

// upgradePlugin replaces p if it is another program by now.
func (a *Agent) upgradePlugin(u *upgrade, p *host.Plugin) error {
	changed, err := p.Changed()
	if err != nil {
		return err
	}
	version := p.Description().Version
	step := &controlpb.Upgraded{
		What: "plugin " + p.Name(), PidBefore: int32(p.PID()), Pid: int32(p.PID()), VersionBefore: version, Version: version, Replaced: changed,
	}
	if changed {
		if err := a.restartPlugin(a.ctx, p.Name()); err != nil {
			return errors.New(plainError(err).Error())
		}
		if now := a.host.Running(p.Name()); now != nil {
			step.Pid, step.Version = int32(now.PID()), now.Description().Version
		}
	}
	u.resp.Steps = append(u.resp.Steps, step)
	return a.saveUpgrade(u)
}

// keeperGone is called when the keeper's channel has ended. A keeper that goes on as another program kills this process when that
// stands; only one that dies has this process as its successor.
func (a *Agent) keeperGone(keeper *fd.FD) error {
	for a.keeper.Upgrading() {
		p := []unix.PollFd{{Fd: int32(keeper.Int()), Events: unix.POLLIN}}
		if _, err := unix.Poll(p, -1); err == nil {
			break
		}
	}
	return a.becomeKeeper()
}
