package control

import (
	"context"
	"crypto/rand"
	"errors"
	"os"

	"github.com/muxd/muxd/control/controlpb"
)

// ForkedChild is a child that the caller forks itself, since it shares the caller's terminal.
type ForkedChild struct {
	ID, Name string
	// NearEnds are what the child shall have for the streams that are not inherited; owned by the caller, who closes
	// them after the fork.
	NearEnds map[string]*os.File

	client *Client
}

// SpawnForked prepares a child that the caller then forks itself. Forked or Failed must be called afterwards.
func (c *Client) SpawnForked(ctx context.Context, child *controlpb.ChildSpec) (*ForkedChild, error) {
	f := &ForkedChild{client: c, NearEnds: map[string]*os.File{}}
	req := &controlpb.SpawnRequest{RequestId: rand.Text(), Child: child, ClientForks: true}
	var resp *controlpb.SpawnResponse
	var files []*os.File
	err := c.withSession(ctx, func(ctx context.Context, s *session) (err error) {
		files, err = s.takeAll(ctx, func(ticket []byte) (err error) {
			req.FdSession, req.NearTicket = s.id[:], ticket
			resp, err = c.API.Spawn(ctx, req)
			if err == nil && len(resp.NearEnds) == 0 {
				err = errNothingComes
			}
			return err
		})
		return err
	})
	if err != nil && !errors.Is(err, errNothingComes) {
		return nil, err
	}
	f.ID, f.Name = resp.Id, resp.Name
	for i, name := range resp.NearEnds {
		if i < len(files) {
			f.NearEnds[name] = files[i]
		}
	}
	return f, nil
}

// Forked tells muxd of the process that was forked. It does not take ownership of pidfd.
func (f *ForkedChild) Forked(ctx context.Context, pid int, pidfd *os.File) error {
	return f.client.withSession(ctx, func(ctx context.Context, s *session) error {
		return s.give(ctx, []*os.File{pidfd}, func(ticket []byte) error {
			_, err := f.client.API.Forked(ctx, &controlpb.ForkedRequest{
				Id: f.ID, FdSession: s.id[:], Ticket: ticket, Pid: int32(pid),
			})
			return err
		})
	})
}

// Failed tells muxd that nothing was forked, and why.
func (f *ForkedChild) Failed(ctx context.Context, why error) error {
	_, err := f.client.API.Forked(ctx, &controlpb.ForkedRequest{Id: f.ID, Error: why.Error()})
	return err
}
