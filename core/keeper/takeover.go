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
// plugins, to the agent that the new keeper starts. A keeper that is upgraded is followed by itself (upgrade.go).

// TakeoverEnv is the environment variable that gives a keeper the number of Takeover's descriptor.
const TakeoverEnv = "MUXD_TAKEOVER"

// Self is the path by which a process executes its own program again, whatever has become of its file since.
const Self = "/proc/self/exe"

// Become executes the program at path as a keeper with argv, in place of this process, and gives it what t names: t's descriptors
// stay open for it. It returns only an error.
func Become(path string, argv []string, t *keeperpb.Takeover) error {
	b, err := proto.Marshal(t)
	if err != nil {
		return err
	}
	n, err := unix.MemfdCreate("muxd-takeover", unix.MFD_CLOEXEC)
	if err != nil {
		return fmt.Errorf("write down what the next keeper gets: %w", err)
	}
	if _, err := unix.Write(n, b); err != nil {
		return fmt.Errorf("write down what the next keeper gets: %w", err)
	}
	keep := []uint32{uint32(n), t.GetControl(), t.GetSessions()}
	for _, f := range t.GetFollowed() {
		if f.Pidfd != nil {
			keep = append(keep, *f.Pidfd)
		}
	}
	for _, h := range t.GetHeld() {
		keep = append(keep, h.GetFd())
	}
	if u := t.GetUpgraded(); u != nil {
		keep = append(keep, u.GetLock())
		if u.Before != nil {
			keep = append(keep, *u.Before)
		}
	}
	defer func() { // no child that is started after a failure shall have them
		unix.Close(n)
		for _, k := range keep[1:] {
			unix.CloseOnExec(int(k))
		}
	}()
	for _, k := range keep {
		if _, err := unix.FcntlInt(uintptr(k), unix.F_SETFD, 0); err != nil {
			return fmt.Errorf("keep descriptor %d for the next keeper: %w", k, err)
		}
	}
	return fmt.Errorf("become the keeper: %w", syscall.Exec(path, argv, append(os.Environ(), TakeoverEnv+"="+strconv.Itoa(n))))
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
	for _, w := range t.GetFollowed() {
		p := w.GetProcess()
		if p.GetExited() || w.GetChild() {
			k.inherit(w)
			continue
		}
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
		k.keep(h.GetName(), h.GetNote(), fd.New(int(h.GetFd())))
	}
}

// inherit takes over the record of a child that is this process's already, or of a process that has exited. k.mu is held.
func (k *keeper) inherit(f *keeperpb.Takeover_Followed) {
	p := &process{pb: f.GetProcess(), pidfd: fd.New(-1), watched: !f.GetChild(), group: f.GetGroup()}
	if f.Pidfd != nil {
		p.pidfd = fd.New(int(*f.Pidfd))
	}
	p.alone = f.GetAlone()
	k.procs[p.pb.GetKey()] = p
	k.countDetaching(p, 1)
	if !p.pb.GetExited() {
		k.pids[int(p.pb.GetPid())] = p
		k.await(p)
	}
}
