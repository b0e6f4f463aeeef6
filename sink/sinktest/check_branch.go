package sinktest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/muxd/muxd/internal/fd"
	"github.com/muxd/muxd/sink/sinkpb"
)

// rewire has the plugin read far in place of what it has.
func (o *opening) rewire(ctx context.Context, st sinkpb.Stream, far *fd.FD) error {
	return o.h.p.give(ctx, []int{far.Int()}, func(ctx context.Context, ticket []byte) error {
		_, err := o.h.p.sinks.Rewire(ctx, &sinkpb.RewireRequest{Opening: o.id, Stream: st, Ticket: ticket})
		return err
	})
}

// moveRewire does what muxd does when a stream that runs gets a second sink: what copies it comes between.
func moveRewire(s *session) error {
	if !s.desc.Rewires {
		return notApplicable("its description does not say that it rewires")
	}
	h, o, err := s.openNew()
	if err != nil {
		return err
	}
	st, l := s.target.out, &lines{}
	if err := s.write(o, first(l, 31_000), 0); err != nil {
		return err
	}
	ctx, cancel := s.soon()
	defer cancel()
	if err := s.taken(ctx, o); err != nil {
		return err
	}
	r, w, err := fd.Pipe()
	if err != nil {
		return err
	}
	defer r.Close()
	unix.SetNonblock(w.Int(), true)
	next := w.File(st.String())
	h.p.signal(unix.SIGSTOP) // so that something is left
	err = s.write(o, first(l, 3_000), 0)
	rewired := make(chan error, 1)
	go func() { rewired <- o.rewire(ctx, st, r) }()
	<-time.After(20 * time.Millisecond)
	h.p.signal(unix.SIGCONT)
	if err := errors.Join(err, <-rewired); err != nil {
		next.Close()
		return fmt.Errorf("the call Rewire: %w", err)
	}
	if err := o.rewire(ctx, st, r); err != nil {
		next.Close()
		return fmt.Errorf("the call Rewire, made again: %w", err)
	}
	old := o.far[st]
	o.near[st].Close()
	o.near[st] = next
	if o.far[st], err = r.Dup(); err != nil {
		return err
	}
	file := old.File("the far end before")
	rest, err := io.ReadAll(file)
	file.Close()
	if err != nil {
		return err
	}
	if _, err := next.Write(rest); err != nil {
		return fmt.Errorf("write to the pipe that it was given by Rewire: %w", err)
	}
	for i := range 2 {
		if err := s.write(o, first(l, 20_000), 0); err != nil {
			return err
		}
		if i == 0 { // it reads that itself, and not only its successor
			if err := s.taken(ctx, o); err != nil {
				return err
			}
		}
		if err := s.succeed(h); err != nil {
			return err
		}
	}
	return s.finish(o, &lines{})
}

// addBranch has what the console shows go into a pipe, and reads that.
func (o *opening) addBranch(ctx context.Context, id string, w *fd.FD) error {
	return o.h.p.give(ctx, []int{w.Int()}, func(ctx context.Context, ticket []byte) error {
		_, err := o.h.p.sinks.AddBranch(ctx, &sinkpb.AddBranchRequest{
			Opening: o.id, Branch: &sinkpb.Branch{Id: id, Policy: sinkpb.Policy_BLOCK, Spec: "sinktest"}, Ticket: ticket,
		})
		return err
	})
}

func consoleBranch(s *session) error {
	if !s.desc.TakesBranch {
		return notApplicable("its description does not say that it takes a branch")
	}
	_, o, err := s.openNew()
	if err != nil {
		return err
	}
	r, w, err := fd.Pipe()
	if err != nil {
		return err
	}
	unix.SetNonblock(r.Int(), true)
	out := r.File("branch")
	defer out.Close()
	ctx, cancel := s.soon()
	defer cancel()
	for range 2 { // the second changes nothing
		if err = o.addBranch(ctx, "sinktest-branch", w); err != nil {
			err = fmt.Errorf("the call AddBranch: %w", err)
			break
		}
	}
	w.Close() // the keeper has a copy, and drops it when the console is flushed; the kit needs none
	if err != nil {
		return err
	}
	const n = 300_000
	came := make(chan error, 1)
	go func() { came <- compare(out, first(&lines{}, n)) }()
	if err := s.write(o, first(&lines{}, n), 0); err != nil {
		return err
	}
	if err := s.finish(o, &lines{}); err != nil {
		return err
	}
	out.SetReadDeadline(time.Now().Add(time.Second)) // all is in the pipe, and its end too
	if err := <-came; errors.Is(err, os.ErrDeadlineExceeded) {
		return errors.New("flushed was told, and the branch is still open")
	} else if err != nil {
		return fmt.Errorf("the branch: %w", err)
	}
	return nil
}
