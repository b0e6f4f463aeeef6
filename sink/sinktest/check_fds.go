package sinktest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/muxd/muxd/internal/fd"
	"github.com/muxd/muxd/internal/fdchan"
	"github.com/muxd/muxd/sink/sinkpb"
)

func newTicket() fdchan.Ticket { return fdchan.NewTicket() }

// pipePair returns the far and the near end of a pipe that a child would write to, owned by the caller.
func pipePair() (far, near *fd.FD, err error) { return fd.Pipe() }

// short is a context for something whose outcome does not matter.
func short(ctx context.Context) context.Context {
	ctx, cancel := context.WithTimeout(ctx, 50*time.Millisecond)
	context.AfterFunc(ctx, cancel)
	return ctx
}

// channelRead waits until the plugin has read all that was sent to it on its fd channel.
func (p *process) channelRead(ctx context.Context) error {
	for {
		unread, err := unix.IoctlGetInt(p.channel.Int(), unix.SIOCOUTQ)
		switch {
		case err != nil:
			return fmt.Errorf("ask for what the plugin has not read of its fd channel: SIOCOUTQ: %w", err)
		case unread == 0:
			return nil
		}
		select {
		case <-time.After(5 * time.Millisecond):
		case <-p.exited:
			return nil // which the caller sees
		case <-ctx.Done():
			return fmt.Errorf("it does not read its fd channel: %w", context.Cause(ctx))
		}
	}
}

// fdSlack is how many descriptors a runtime may open when it likes, or close late.
const fdSlack = 8

// settlesAt waits until the plugin has about as many descriptors open as it had before.
func (h *host) settlesAt(ctx context.Context, n int) error {
	now := 0
	for {
		var err error
		if now, err = h.p.openFDs(); err != nil {
			return err
		}
		if now <= n+fdSlack {
			return nil
		}
		select {
		case <-time.After(10 * time.Millisecond):
		case <-ctx.Done():
			return fmt.Errorf("it has %d descriptors open, and had %d before", now, n)
		}
	}
}

func fdsSurplus(s *session) error {
	h, o, err := s.openNew()
	if err != nil {
		return err
	}
	if err := s.pass(o, &lines{}, &lines{}, 1000, 0); err != nil {
		return err
	}
	before, err := h.p.openFDs()
	if err != nil {
		return err
	}
	for _, n := range []int{0, 2, 2, 3, 4, 5, 9} {
		far, near, err := pipePair()
		if err != nil {
			return err
		}
		var fds []int
		for range n {
			fds = append(fds, far.Int())
		}
		p, err := s.place(s.target)
		if err != nil {
			return err
		}
		rd := newReader(s.target, p)
		if rd != nil {
			if err := rd.begin(); err != nil {
				return err
			}
		}
		id := names.next()
		ctx, cancel := s.soon()
		t := newTicket()
		given := make(chan error, 1)
		go func() { given <- h.p.fds.Give(ctx, t, fds...) }()
		_, openErr := h.p.sinks.Open(ctx, &sinkpb.OpenRequest{
			Opening: id, Spec: s.target.wire(p), Child: child(id), Streams: s.target.streams(), Ticket: t[:],
		})
		giveErr := <-given
		cancel()
		far.Close()
		near.Close()
		if rd != nil {
			rd.close()
		}
		switch {
		case openErr == nil:
			return fmt.Errorf("the call Open of one stream with %d descriptors was answered with OK", n)
		case giveErr == nil:
			return fmt.Errorf("%d descriptors for one stream were acknowledged", n)
		}
	}
	ctx, cancel := s.soon()
	defer cancel()
	if err := h.settlesAt(ctx, before); err != nil {
		return err
	}
	if o, err = s.open(h); err != nil {
		return fmt.Errorf("a good Open after that: %w", err)
	}
	return s.pass(o, &lines{}, &lines{}, 1000, 0)
}

// badPackets are packets that nobody may take: each is what it has in front of a number of descriptors.
func badPackets() map[string][]byte {
	good := func() []byte {
		b, _ := fdchan.Packet{Type: fdchan.Give, Ticket: newTicket()}.Marshal(nil, 1)
		return b
	}
	with := func(at int, v byte) []byte {
		b := good()
		b[at] = v
		return b
	}
	return map[string][]byte{
		"of the unknown type 200":                     with(5, 200),
		"with another magic":                          with(0, 'X'),
		"of version 9":                                with(4, 9),
		"whose reserved byte is 1":                    with(7, 1),
		"that says 3 descriptors and has 1":           with(6, 3),
		"that says no descriptor and has 1":           with(6, 0),
		"that is shorter than a header":               good()[:10],
		"that answers what nobody gave (Ack)":         with(5, byte(fdchan.Ack)),
		"that says hello on a channel that is open":   with(5, byte(fdchan.Hello)),
		"that has a descriptor and refuses something": with(5, byte(fdchan.Refuse)),
	}
}

func fdsMalformed(s *session) error {
	h, err := s.host()
	if err != nil {
		return err
	}
	if err := h.answers(s); err != nil {
		return err
	}
	before, err := h.p.openFDs()
	if err != nil {
		return err
	}
	for what, b := range badPackets() {
		far, near, err := pipePair()
		if err != nil {
			return err
		}
		near.Close()
		for range 3 * fdSlack {
			if err = unix.Sendmsg(h.p.channel.Int(), b, unix.UnixRights(far.Int()), nil, 0); err != nil {
				break
			}
		}
		far.Close()
		if err != nil {
			return fmt.Errorf("send a packet %s: %w", what, err)
		}
		ctx, cancel := s.soon()
		if err = h.p.channelRead(ctx); err == nil {
			err = h.settlesAt(ctx, before)
		}
		cancel()
		if err != nil {
			return fmt.Errorf("after a packet %s: %w", what, err)
		}
		if h.p.gone() {
			return fmt.Errorf("it ended over a packet %s", what)
		}
	}
	if h.p.fds.Closed() {
		return errors.New("it closed its fd channel")
	}
	o, err := s.open(h)
	if err != nil {
		return fmt.Errorf("a good Open after that: %w", err)
	}
	return s.pass(o, &lines{}, &lines{}, 1000, 0)
}

func fdsUnclaimed(s *session) error {
	if !s.o.Full && !slices.Contains(s.o.Only, "fds.unclaimed") {
		return notApplicable("it takes 10 seconds: see --full, or --only fds.unclaimed")
	}
	h, err := s.host()
	if err != nil {
		return err
	}
	before, err := h.p.openFDs()
	if err != nil {
		return err
	}
	far, near, err := pipePair()
	if err != nil {
		return err
	}
	defer far.Close()
	defer near.Close()
	ctx, cancel := s.within(20 * time.Second)
	defer cancel()
	if err := h.p.fds.Give(ctx, newTicket(), far.Int()); err == nil || ctx.Err() != nil {
		return fmt.Errorf("a Give that no call named was answered with %v, want Refuse", err)
	}
	return h.settlesAt(ctx, before)
}

func fdsLeak(s *session) error {
	const warm = 20
	n := 100
	if s.o.Full {
		n = 10_000
	}
	h, err := s.host()
	if err != nil {
		return err
	}
	life := func() error {
		o, err := s.open(h)
		if err != nil {
			return err
		}
		if err := s.write(o, first(&lines{}, 200), 0); err != nil {
			return err
		}
		ctx, cancel := s.soon()
		defer cancel()
		if err := o.exit(ctx); err != nil {
			return err
		}
		if err := o.flushed(ctx, true); err != nil {
			return err
		}
		return o.forget(ctx)
	}
	for range warm {
		if err := life(); err != nil {
			return err
		}
	}
	before, err := h.p.openFDs()
	if err != nil {
		return err
	}
	for i := range n {
		if err := life(); err != nil {
			return fmt.Errorf("opening %d: %w", i+1, err)
		}
	}
	ctx, cancel := s.soon()
	defer cancel()
	if err := h.settlesAt(ctx, before); err != nil {
		return fmt.Errorf("after %d openings: %w", n, err)
	}
	list, err := h.p.sinks.Openings(s, &sinkpb.OpeningsRequest{})
	if err != nil {
		return fmt.Errorf("the call Openings: %w", err)
	}
	if len(list.Openings) > 0 {
		return fmt.Errorf("the call Openings still answers %v, and all are forgotten", list.Openings)
	}
	return nil
}

func streamsCheck(s *session) error {
	n := 100
	if s.o.Full {
		n = 1000
	}
	h, err := s.host()
	if err != nil {
		return err
	}
	var all []*opening
	for i := range n {
		o, err := s.open(h)
		if err != nil {
			return fmt.Errorf("opening %d: %w", i+1, err)
		}
		all = append(all, o)
	}
	failed := make(chan error, n)
	var work sync.WaitGroup
	for i, o := range all {
		work.Go(func() {
			if err := s.write(o, first(&lines{}, int64(2000+i)), 0); err != nil {
				failed <- fmt.Errorf("stream %d of %d: %w", i+1, n, err)
			}
		})
	}
	work.Wait()
	select {
	case err := <-failed:
		return err
	default:
	}
	for i, o := range all {
		if err := s.finish(o, &lines{}); err != nil {
			return fmt.Errorf("stream %d of %d: %w", i+1, n, err)
		}
	}
	return nil
}
