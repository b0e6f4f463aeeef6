package keeper

import (
	"fmt"
	"io"
	"os"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"

	"github.com/muxd/muxd/core/keeper/keeperpb"
	"github.com/muxd/muxd/internal/fd"
)

// A keeper that is killed has a successor: its agent becomes it, in place (execve(2)), with all that the agent has. The children are
// not the new keeper's: it follows them by their pidfds. The stage of a plugin and the far ends come back from the
// plugins, to the agent that the new keeper starts.

// TakeoverEnv is the environment variable that gives a keeper the number of Takeover's descriptor.
const TakeoverEnv = "MUXD_TAKEOVER"

// Become executes argv, a keeper, in place of this process, and gives it what t names: t's descriptors stay open for it. It
// returns only an error.
func Become(argv []string, t *keeperpb.Takeover) error {
	b, err := proto.Marshal(t)
	if err != nil {
		return err
	}
	n, err := unix.MemfdCreate("muxd-takeover", 0)
	if err != nil {
		return fmt.Errorf("write down what the next keeper gets: %w", err)
	}
	if _, err := unix.Write(n, b); err != nil {
		return fmt.Errorf("write down what the next keeper gets: %w", err)
	}
	keep := []uint32{t.GetControl(), t.GetSessions()}
	for _, w := range t.GetWatched() {
		keep = append(keep, w.GetPidfd())
	}
	for _, h := range t.GetHeld() {
		keep = append(keep, h.GetFd())
	}
	for _, k := range keep {
		if _, err := unix.FcntlInt(uintptr(k), unix.F_SETFD, 0); err != nil {
			return fmt.Errorf("keep descriptor %d for the next keeper: %w", k, err)
		}
	}
	return fmt.Errorf("become the keeper: %w", syscall.Exec(argv[0], argv, append(os.Environ(), TakeoverEnv+"="+strconv.Itoa(n))))
}

// takeover takes ownership of f and reads what Become wrote. nil where f is.
func takeover(f *fd.FD) (*keeperpb.Takeover, error) {
	if f == nil {
		return nil, nil
	}
	file := f.File("takeover")
	defer file.Close()
	if _, err := file.Seek(0, io.SeekStart); err != nil {
		return nil, fmt.Errorf("read what the agent left: %w", err)
	}
	b, err := io.ReadAll(file)
	if err != nil {
		return nil, fmt.Errorf("read what the agent left: %w", err)
	}
	t := &keeperpb.Takeover{}
	if err := proto.Unmarshal(b, t); err != nil {
		return nil, fmt.Errorf("read what the agent left: %w", err)
	}
	return t, nil
}

// adopt takes the processes and descriptors of t over. What cannot be is said, and the rest is taken.
func (k *keeper) adopt(t *keeperpb.Takeover) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, w := range t.GetWatched() {
		p := w.GetProcess()
		fds := []*fd.FD{fd.New(int(w.GetPidfd()))}
		got, err := k.watch(&keeperpb.Watch{Key: p.GetKey(), Pid: p.GetPid(), Note: p.GetNote()}, fds)
		fd.CloseAll(fds)
		if err != nil {
			k.logf("take over %s: %v", p.GetKey(), err)
			continue
		}
		got.Started = p.GetStarted()
	}
	for _, h := range t.GetHeld() {
		k.keep(h.GetName(), nil, fd.New(int(h.GetFd())))
	}
}
