package sinktest

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/muxd/muxd/internal/fd"
	"github.com/muxd/muxd/internal/fdchan"
	"github.com/muxd/muxd/sink/sinkpb"
)

// host is what a plugin has for muxd: its agent and its keeper.
type host struct {
	o        *Options
	dir      string // for the sockets of its processes
	keeper   *keeper
	p        *process // of now
	openings []*opening
	starts   int
	logBytes int // of the processes before this one
	logLines int
}

// newHost makes a host with no process. dir is its own.
func newHost(o *Options, dir string) *host {
	return &host{o: o, dir: dir, keeper: newKeeper()}
}

// start starts a process and has its events told. What an earlier one left is handed to it.
func (h *host) start(ctx context.Context, how startAs) error {
	if err := h.launch(how); err != nil {
		return err
	}
	if err := h.takeUp(ctx); err != nil {
		return err
	}
	return nil
}

// launch starts a process.
func (h *host) launch(how startAs) error {
	h.starts++
	dir := filepath.Join(h.dir, fmt.Sprint(h.starts))
	if err := os.Mkdir(dir, 0o700); err != nil {
		return err
	}
	var err error
	h.p, err = launch(h.o, dir, how, h.keeper.park)
	return err
}

// takeUp makes the first calls to a process, in muxd's order: Describe, Recover, Watch, and Open of what there was.
func (h *host) takeUp(ctx context.Context) error {
	if _, err := h.describe(ctx); err != nil {
		return err
	}
	if err := h.recover(ctx); err != nil {
		return err
	}
	if err := h.p.watch(ctx); err != nil {
		return err
	}
	for _, o := range h.openings {
		if err := o.again(ctx); err != nil {
			return err
		}
	}
	return nil
}

func (h *host) describe(ctx context.Context) (*sinkpb.Description, error) {
	d, err := h.p.sinks.Describe(ctx, &sinkpb.DescribeRequest{MuxdVersion: "sinktest"})
	if err != nil {
		return nil, fmt.Errorf("the call Describe: %w", err)
	}
	return d, nil
}

// recover gives the process what earlier ones parked.
func (h *host) recover(ctx context.Context) error {
	var live []string
	for _, o := range h.openings {
		live = append(live, o.id)
	}
	parked, fds := h.keeper.batches()
	for i := range parked {
		err := h.p.give(ctx, fds[i], func(ctx context.Context, ticket []byte) error {
			_, err := h.p.sinks.Recover(ctx, &sinkpb.RecoverRequest{Parked: parked[i], Ticket: ticket, Live: live})
			return err
		})
		if err != nil {
			return fmt.Errorf("the call Recover of what was parked (%s and so on): %w", parked[i][0].Name, err)
		}
	}
	return nil
}

// kill kills the process, and returns when it is reaped.
func (h *host) kill() {
	if h.p == nil {
		return
	}
	h.p.kill()
	bytes, lines := h.p.log.counts()
	h.logBytes, h.logLines = h.logBytes+bytes, h.logLines+lines
}

// restart kills the process and starts another.
func (h *host) restart(ctx context.Context) error {
	h.kill()
	if err := h.start(ctx, startAs{}); err != nil {
		return fmt.Errorf("start again after SIGKILL: %w", err)
	}
	return nil
}

// end ends everything.
func (h *host) end() {
	h.kill()
	for _, o := range h.openings {
		o.close()
	}
	h.keeper.drop()
}

// give hands copies of fds to the plugin under a new ticket while call tells it of the ticket. It does not take ownership.
func (p *process) give(ctx context.Context, fds []int, call func(ctx context.Context, ticket []byte) error) error {
	t := fdchan.NewTicket()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	given := make(chan error, 1)
	go func() { given <- p.fds.Give(ctx, t, fds...) }()
	if err := call(ctx, t[:]); err != nil {
		cancel()
		<-given
		return err
	}
	select {
	case err := <-given:
		return err
	case <-time.After(ackMost):
		cancel()
		<-given
		return errors.New("the call returned, and the descriptors that it was about were not acknowledged")
	}
}

// ackMost is how long an acknowledgement may come after the answer to the call.
const ackMost = 5 * time.Second

// take returns the fds that the plugin gives under a new ticket while call runs, owned by the caller, and acknowledges them.
func (p *process) take(ctx context.Context, call func(ctx context.Context, ticket []byte) error) ([]*fd.FD, error) {
	d, wait, err := p.fds.TakeFor(ctx, call)
	if err != nil {
		return nil, err
	}
	if err := cmp.Or(d.Ack(), wait()); err != nil {
		fd.CloseAll(d.FDs)
		return nil, err
	}
	return d.FDs, nil
}
