package sinktest

import (
	"context"
	"fmt"
	"math/rand"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/muxd/muxd/sink/sinkpb"
)

// succeed kills the process, has another take over, and its reader go on.
func (s *session) succeed(h *host) error {
	ctx, cancel := s.soon()
	defer cancel()
	if err := h.restart(ctx); err != nil {
		return err
	}
	return s.readOn(ctx, h)
}

// readOn has the readers of all openings go on with another process.
func (s *session) readOn(ctx context.Context, h *host) error {
	for _, o := range h.openings {
		if o.reader != nil && !o.forgot {
			if err := o.reader.opened(ctx, o); err != nil {
				return err
			}
		}
	}
	return nil
}

func killRandom(s *session) error {
	kills := 12
	if s.o.Full {
		kills = 100
	}
	h, o, err := s.openNew()
	if err != nil {
		return err
	}
	r := rand.New(rand.NewSource(s.o.Seed))
	ctx, cancel := context.WithCancel(s)
	defer cancel()
	enough := make(chan struct{})
	written := make(chan error, 1)
	go func() { written <- o.trickle(ctx, s.target.out, &lines{}, enough) }()
	for i := range kills {
		<-time.After(time.Duration(r.Intn(15_000)) * time.Microsecond)
		if err := s.succeed(h); err != nil {
			cancel()
			<-written
			return fmt.Errorf("kill %d of %d (seed %d): %w", i+1, kills, s.o.Seed, err)
		}
	}
	close(enough)
	select {
	case err := <-written:
		if err != nil {
			return err
		}
	case <-time.After(s.o.Timeout):
		cancel()
		<-written
		return fmt.Errorf("after %d kills nothing reads the stream any more", kills)
	}
	if err := s.finish(o, &lines{}); err != nil {
		return fmt.Errorf("after %d kills (seed %d): %w", kills, s.o.Seed, err)
	}
	return nil
}

// behindMost is how far a viewer may be behind what trickle writes: while it attaches to a successor of the console it is not waited for, and
// what a console keeps for it has a bound.
const behindMost = 32 << 10

// trickle writes l, a line each, with pauses, until enough is closed.
func (o *opening) trickle(ctx context.Context, st sinkpb.Stream, l *lines, enough <-chan struct{}) error {
	pause := time.NewTicker(200 * time.Microsecond)
	defer pause.Stop()
	seen, viewed := o.reader.(*spool)
	viewed = viewed && o.wiring == sinkpb.Wiring_PTY
	for {
		if !viewed || o.written[st].Load()-seen.gate.count() < behindMost {
			if err := o.write(ctx, st, first(l, 3<<10), 0); err != nil {
				return err
			}
		}
		select {
		case <-pause.C:
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-enough:
			return nil
		}
	}
}

func killOpen(s *session) error {
	for _, at := range []string{"before it is given a descriptor", "before the call"} {
		h, err := s.host()
		if err != nil {
			return err
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
			defer rd.close()
		}
		ctx, cancel := s.soon()
		defer cancel()
		if at == "before it is given a descriptor" {
			failed := make(chan error, 1)
			id, w := names.next(), s.target.wire(p)
			go func() {
				_, err := h.p.sinks.Open(ctx, &sinkpb.OpenRequest{
					Opening: id, Spec: w, Child: child(id), Streams: s.target.streams(), Ticket: make([]byte, 16),
				})
				failed <- err
			}()
			<-time.After(20 * time.Millisecond)
			h.kill()
			<-failed
		} else {
			far, near, err := pipePair()
			if err != nil {
				return err
			}
			h.p.fds.Give(short(ctx), newTicket(), far.Int())
			far.Close()
			near.Close()
			h.kill()
		}
		if err := s.afresh(ctx, h, p, rd); err != nil {
			return fmt.Errorf("killed %s: %w", at, err)
		}
	}
	return nil
}

func killPark(s *session) error {
	total, err := s.parks()
	if err != nil {
		return err
	}
	if total == 0 {
		return notApplicable("it parks nothing")
	}
	for _, before := range []bool{true, false} {
		for n := range min(total, 8) {
			when := fmt.Sprintf("killed at Park %d of %d, before it was acknowledged", n+1, total)
			if before {
				when = fmt.Sprintf("killed at Park %d of %d, before it was held", n+1, total)
			}
			if err := s.killAtPark(n, before); err != nil {
				return fmt.Errorf("%s: %w", when, err)
			}
		}
	}
	return nil
}

// parks counts how often the plugin parks in the life of an opening.
func (s *session) parks() (int, error) {
	h, o, err := s.openNew()
	if err != nil {
		return 0, err
	}
	if err := s.pass(o, &lines{}, &lines{}, 20<<10, 0); err != nil {
		return 0, err
	}
	h.kill()
	h.keeper.mu.Lock()
	defer h.keeper.mu.Unlock()
	return h.keeper.count, nil
}

// killAtPark kills the process at Park number n, and has a successor do the rest.
func (s *session) killAtPark(n int, before bool) error {
	h, err := s.host()
	if err != nil {
		return err
	}
	seen, killed := 0, make(chan struct{})
	at := func(string) {
		if seen == n {
			unix.Kill(h.p.pid(), unix.SIGKILL)
			<-h.p.exited
			close(killed)
		}
		seen++
	}
	if before {
		h.keeper.hooks(at, nil)
	} else {
		h.keeper.hooks(nil, at)
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
	ctx, cancel := s.soon()
	defer cancel()
	id := names.next()
	o, err := h.open(ctx, id, s.target.wire(p), s.target.wiring, s.target.streams())
	if err == nil && rd != nil {
		o.reader = rd
		err = rd.opened(ctx, o)
	}
	if err != nil {
		select {
		case <-killed:
		case <-time.After(ackMost): // it has another reason
			return err
		}
		h.keeper.hooks(nil, nil)
		if o == nil { // what was never open is opened as new
			return s.afresh(ctx, h, p, rd)
		}
	}
	written := make(chan error, 1)
	go func() { written <- o.write(ctx, s.target.out, first(&lines{}, 20<<10), 0) }()
	ended := false
	select {
	case <-killed:
	case err := <-written:
		if err != nil {
			return err
		}
		written <- nil
		o.closeNear()
		o.ended = true
		o.sayEnd(ctx) // it may be killed over that
		ended = true
		select {
		case <-killed:
		case <-h.p.exited:
		case <-s.told(ctx, o):
		}
	}
	h.keeper.hooks(nil, nil)
	if err := s.succeed(h); err != nil {
		return err
	}
	if err := <-written; err != nil {
		return err
	}
	if ended {
		return s.finished(o, &lines{})
	}
	return s.finish(o, &lines{})
}

// afresh has another process open what the one before was killed over, and goes through its life.
func (s *session) afresh(ctx context.Context, h *host, p *place, rd reader) error {
	h.kill()
	if err := h.start(ctx, startAs{}); err != nil {
		return err
	}
	o, err := h.open(ctx, names.next(), s.target.wire(p), s.target.wiring, s.target.streams())
	if err != nil {
		return err
	}
	if rd != nil {
		o.reader = rd
		if err := rd.opened(ctx, o); err != nil {
			return err
		}
	}
	return s.pass(o, &lines{}, &lines{}, 20<<10, 0)
}

// told is closed when the end of o's stream has been told, or ctx is done.
func (s *session) told(ctx context.Context, o *opening) <-chan struct{} {
	done := make(chan struct{})
	ev := o.h.p.events
	go func() {
		defer close(done)
		ev.wait(ctx, func() bool { t := ev.streams[key{o.id, s.target.out}]; return t != nil && t.over() })
	}()
	return done
}

func killUnread(s *session) error {
	h, o, err := s.openNew()
	if err != nil {
		return err
	}
	l := &lines{}
	for range 3 {
		if err := s.write(o, first(l, 3000), 0); err != nil {
			return err
		}
		h.p.signal(unix.SIGSTOP)
		if err := s.write(o, first(l, 3000), 0); err != nil {
			return err
		}
		if err := s.succeed(h); err != nil {
			return err
		}
	}
	return s.finish(o, &lines{})
}

func killAgain(s *session) error {
	h, o, err := s.openNew()
	if err != nil {
		return err
	}
	l := &lines{}
	ctx, cancel := s.soon()
	defer cancel()
	for _, until := range []string{"Describe", "Recover", "Watch", "Open"} {
		if err := s.write(o, first(l, 30_000), 0); err != nil {
			return err
		}
		h.kill()
		if err := h.launch(startAs{}); err != nil {
			return err
		}
		if err := h.takeUpTo(ctx, until); err != nil {
			return err
		}
		h.kill()
		if err := h.start(ctx, startAs{}); err != nil {
			return fmt.Errorf("killed again after %s: %w", until, err)
		}
		if err := s.readOn(ctx, h); err != nil {
			return err
		}
	}
	return s.finish(o, &lines{})
}

// takeUpTo makes the first calls to a process, up to one of them.
func (h *host) takeUpTo(ctx context.Context, last string) error {
	for _, step := range []struct {
		name string
		do   func() error
	}{
		{"Describe", func() error { _, err := h.describe(ctx); return err }},
		{"Recover", func() error { return h.recover(ctx) }},
		{"Watch", func() error { return h.p.watch(ctx) }},
		{"Open", func() error { return h.openings[0].again(ctx) }},
	} {
		if err := step.do(); err != nil || step.name == last {
			return err
		}
	}
	return nil
}

func killEnd(s *session) error {
	for _, after := range []time.Duration{0, time.Millisecond} {
		h, o, err := s.openNew()
		if err != nil {
			return err
		}
		if err := s.write(o, first(&lines{}, 60_000), 0); err != nil {
			return err
		}
		ctx, cancel := s.soon()
		defer cancel()
		if err := o.exit(ctx); err != nil {
			return err
		}
		<-time.After(after)
		if err := s.succeed(h); err != nil {
			return err
		}
		if err := s.finished(o, &lines{}); err != nil {
			return err
		}
	}
	return nil
}

func killTold(s *session) error {
	h, o, err := s.openWritten(&lines{}, 20_000)
	if err != nil {
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
	h.kill() // muxd had not read that yet, so it opens the stream again
	if err := h.start(ctx, startAs{}); err != nil {
		return err
	}
	if err := s.readOn(ctx, h); err != nil && !slices.Contains([]string{readViewer}, s.target.read) {
		return err
	}
	if err := s.finished(o, &lines{}); err != nil {
		return fmt.Errorf("flushed was told, and then it was killed: %w", err)
	}
	if left := h.keeper.list(); s.target.exact && len(left) > 0 {
		for name := range left {
			if strings.Contains(name, o.id) {
				return fmt.Errorf("after Forget it still has %q parked, which names the opening", name)
			}
		}
	}
	return nil
}
