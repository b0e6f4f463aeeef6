package main

import (
	"context"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/muxd/muxd/internal/fd"
	"github.com/muxd/muxd/internal/fdchan"
	"github.com/muxd/muxd/sink/sinkpb"
)

// Rewire has a stream go on with another far end.
func (p *plain) Rewire(ctx context.Context, req *sinkpb.RewireRequest) (*sinkpb.RewireResponse, error) {
	o, err := p.find(req.Opening)
	if err != nil {
		return nil, err
	}
	for _, s := range o.streams {
		if s.st != req.Stream {
			continue
		}
		d, err := p.channelNow().Take(ctx, fdchan.Ticket(req.Ticket), 1)
		if err != nil {
			return nil, status.Error(codes.FailedPrecondition, err.Error())
		}
		unix.SetNonblock(d.FDs[0].Int(), true)
		s.turn.Lock()
		old := s.far
		s.far = d.FDs[0]
		s.loses = p.is("move.rewire")
		s.turn.Unlock()
		s.rewired.Store(true)
		unix.Write(s.wake.Int(), []byte{0})
		old.Close()
		return &sinkpb.RewireResponse{}, d.Ack()
	}
	return nil, status.Errorf(codes.NotFound, "%v is not read", req.Stream)
}

// AddBranch has what a console shows go on into a pipe, too.
func (p *plain) AddBranch(ctx context.Context, req *sinkpb.AddBranchRequest) (*sinkpb.AddBranchResponse, error) {
	o, err := p.find(req.Opening)
	if err != nil {
		return nil, err
	}
	if o.console == nil || o.console.branch != nil && o.console.branchID != req.Branch.GetId() {
		return nil, status.Error(codes.FailedPrecondition, "it is no console, or has a branch")
	}
	d, err := p.channelNow().Take(ctx, fdchan.Ticket(req.Ticket), 1)
	if err != nil {
		return nil, status.Error(codes.FailedPrecondition, err.Error())
	}
	p.mu.Lock()
	if o.console.branch == nil {
		o.console.branch, o.console.branchID = d.FDs[0], req.Branch.GetId()
	} else {
		d.FDs[0].Close()
	}
	p.mu.Unlock()
	return &sinkpb.AddBranchResponse{}, d.Ack()
}

// onward puts what was shown into the branch. It waits where that is full.
func (c *plainConsole) onward(b []byte) {
	c.p.mu.Lock()
	to := c.branch
	c.p.mu.Unlock()
	if c.p.is("console.branch") && len(b) > 100 {
		b = b[:len(b)-1]
	}
	for to != nil && len(b) > 0 {
		n, err := unix.Write(to.Int(), b)
		if err != nil && err != unix.EINTR {
			return
		}
		b = b[max(n, 0):]
	}
}

// endBranch closes the branch, before the end is told.
func (c *plainConsole) endBranch() {
	c.p.mu.Lock()
	defer c.p.mu.Unlock()
	c.branch.Close()
	c.branch = fd.New(-1)
}
