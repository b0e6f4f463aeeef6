package sink

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/muxd/muxd/internal/fd"
	"github.com/muxd/muxd/internal/fdchan"
	"github.com/muxd/muxd/internal/gaps"
	"github.com/muxd/muxd/internal/stage"
	"github.com/muxd/muxd/sink/sinkpb"
)

// source is what reads a stream: for a sink, or into branches.
type source interface {
	Cut()
	GiveUp()
	Leave()
	Stay() bool
	Committed() uint64
	Unread() int
	Dup() (*fd.FD, error)
	Forget()
}

// brancher is a source that branches can be added to: one that is copied, or that of a console.
type brancher interface {
	AddBranch(stage.Branch) error
	RemoveBranch(key string, discard bool) (gone <-chan struct{}, err error)
	DupBranches() map[string]*fd.FD
}

// droppedTell is how often muxd is told of what goes on being dropped.
const droppedTell = time.Second

// fan makes the Fan when it is first needed, from what a predecessor left if there was one.
func (s *server) fan() (*stage.Fan, error) {
	s.starting.Lock()
	defer s.starting.Unlock()
	if s.copier != nil {
		return s.copier, nil
	}
	o := s.stageOptions(func(name string) bool { return strings.HasPrefix(name, stage.ParkFan) })
	defer func() {
		for _, fds := range o.Parked {
			fd.CloseAll(fds)
		}
	}()
	var err error
	s.copier, err = stage.NewFan(o)
	return s.copier, err
}

// endsOf is how many descriptors come for branches: write ends, and what they have besides.
func endsOf(branches ...*sinkpb.Branch) int {
	n := 0
	for _, b := range branches {
		n++
		if b.Gaps {
			n++
		}
		if b.Spill > 0 {
			n++
		}
	}
	return n
}

// branchesOf makes branches of the stage package of the descriptors that came for them, endsOf of them, of which it takes ownership.
func branchesOf(to []*sinkpb.Branch, ends []*fd.FD) (out []stage.Branch, err error) {
	next := func() *fd.FD {
		f := ends[0]
		ends = ends[1:]
		return f
	}
	for _, b := range to {
		s := stage.Branch{Key: b.Id, Policy: stage.Policy(b.Policy), To: next()}
		if b.Gaps {
			m, mapErr := gaps.Map(next())
			s.Gaps, err = m, cmp.Or(err, mapErr)
		}
		if b.Spill > 0 {
			s.File, s.Size = next(), int64(b.Spill)
		}
		out = append(out, s)
	}
	if err != nil {
		closeBranches(out)
		return nil, err
	}
	return out, nil
}

func closeBranches(branches []stage.Branch) {
	for _, b := range branches {
		b.Close()
	}
}

// copies takes ownership of far and of the write ends behind it, and begins to copy.
func (o *opening) copies(far *fd.FD, ends []*fd.FD, to []*sinkpb.Branch) error {
	branches, err := branchesOf(to, ends)
	if err != nil {
		far.Close()
		return err
	}
	fan, err := o.srv.fan()
	if err != nil {
		far.Close()
		closeBranches(branches)
		return err
	}
	st := o.pub.Streams[0]
	f := &flow{op: o, stream: st}
	src, err := fan.Add(far, o.pub.ID+"/"+st.String(), branches, f)
	if err != nil {
		return err
	}
	o.srv.mu.Lock()
	f.src, f.into = src, src
	o.flows = append(o.flows, f)
	o.srv.mu.Unlock()
	return nil
}

// Dropped is told of what a branch has lost.
func (f *flow) Dropped(branch string, n uint64) {
	f.op.srv.mu.Lock()
	defer f.op.srv.mu.Unlock()
	if f.missed == nil {
		f.missed = map[string]uint64{}
	}
	_, before := f.missed[branch]
	f.missed[branch] = n
	if now := time.Now(); !before || now.Sub(f.missedTold) >= droppedTell {
		f.missedTold = now
		f.op.srv.changed(f)
	}
}

// copied finds the stream of an opening that can have branches.
func (s *server) copied(opening string) (*flow, error) {
	o, err := s.find(opening)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, f := range o.flows {
		if f.into != nil {
			return f, nil
		}
	}
	return nil, status.Errorf(codes.FailedPrecondition, "opening %q copies no stream", opening)
}

func (s *server) AddBranch(ctx context.Context, req *sinkpb.AddBranchRequest) (*sinkpb.AddBranchResponse, error) {
	f, err := s.copied(req.Opening)
	if err != nil {
		return nil, err
	}
	ticket, err := fdchan.TicketFrom(req.Ticket)
	if err != nil || req.Branch == nil {
		return nil, status.Error(codes.InvalidArgument, "add a branch: its ticket or its description is missing")
	}
	d, err := s.ep().Take(ctx, ticket, endsOf(req.Branch))
	if err != nil {
		return nil, openError(err)
	}
	ends := slices.Clone(d.FDs)
	clear(d.FDs)
	branches, err := branchesOf([]*sinkpb.Branch{req.Branch}, ends)
	if err == nil {
		err = f.into.AddBranch(branches[0])
	}
	if err != nil {
		d.Refuse(err)
		return nil, openError(fmt.Errorf("add a branch: %w", err))
	}
	d.Ack() // where that fails the agent has died, and another will ask again
	return &sinkpb.AddBranchResponse{}, nil
}

func (s *server) RemoveBranch(ctx context.Context, req *sinkpb.RemoveBranchRequest) (*sinkpb.RemoveBranchResponse, error) {
	f, err := s.copied(req.Opening)
	if err != nil {
		return nil, err
	}
	ctx, cancel := early(ctx)
	defer cancel()
	gone, err := f.into.RemoveBranch(req.Branch, req.Discard)
	if err != nil {
		return nil, openError(err)
	}
	select {
	case <-gone:
		return &sinkpb.RemoveBranchResponse{Removed: true}, nil
	case <-ctx.Done():
		return &sinkpb.RemoveBranchResponse{}, nil
	}
}

// branchStats are the counters of f's branches.
func (f *flow) branchStats() (out []*sinkpb.BranchStat) {
	fan, ok := f.src.(*stage.FanSource)
	if !ok {
		return nil
	}
	for _, b := range fan.Stat() {
		out = append(out, &sinkpb.BranchStat{Id: b.Key, Bytes: b.Bytes, Dropped: b.Dropped, Waiting: b.Waiting})
	}
	return out
}
