package keeper

import (
	"context"
	"io"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/muxd/muxd/core/keeper/keeperpb"
	"github.com/muxd/muxd/internal/fd"
	"github.com/muxd/muxd/internal/profile"
)

// queueProfile takes a profile for the agent, which is answered when it is done. It takes fds[0]. k.mu is held.
func (k *keeper) queueProfile(s *session, id uint64, req *keeperpb.Profile, fds []*fd.FD) *Error {
	d := time.Duration(req.GetDuration())
	if err := profile.Check(req.GetKind(), d); err != nil {
		return fail(syscall.EINVAL, "%v", err)
	}
	if len(fds) != 1 {
		return fail(syscall.EINVAL, "profile: %d descriptors came, want 1", len(fds))
	}
	if seals, err := unix.FcntlInt(uintptr(fds[0].Int()), unix.F_GET_SEALS, 0); err != nil || seals < 0 {
		return fail(syscall.EINVAL, "profile: want a memfd to write to") // anything else might block
	}
	file := fds[0].File("profile")
	fds[0] = nil
	go func() { // ends by itself after the duration at most, and with the process
		defer file.Close()
		reply := &keeperpb.Reply{Id: id}
		if err := profile.Take(context.Background(), file, req.GetKind(), d); err != nil {
			reply = fail(errnoOf(err), "profile: %v", err).reply(id)
		}
		s.answer(reply)
	}()
	return nil
}

// Profile has the keeper take a profile of itself, as profile.Take does, and returns it.
func (c *Client) Profile(ctx context.Context, kind string, d time.Duration) ([]byte, error) {
	n, err := unix.MemfdCreate("muxd profile", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	if err != nil {
		return nil, err
	}
	f := fd.New(n)
	_, err = c.call(ctx, &keeperpb.Request{What: &keeperpb.Request_Profile{Profile: &keeperpb.Profile{Kind: kind, Duration: int64(d)}}}, n)
	file := f.File("profile")
	defer file.Close()
	if err != nil {
		return nil, err
	}
	return io.ReadAll(io.NewSectionReader(file, 0, 1<<40))
}
