package sinktest

import (
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"

	"github.com/muxd/muxd/internal/fd"
	"github.com/muxd/muxd/sink/sinkpb"
)

func endOrder(s *session) error {
	h, o, err := s.openNew()
	if err != nil {
		return err
	}
	if err := s.write(o, first(&lines{}, 100<<10), 0); err != nil {
		return err
	}
	ctx, cancel := s.soon()
	defer cancel()
	_, err = h.p.sinks.Forget(ctx, &sinkpb.ForgetRequest{Opening: o.id})
	if err := want("Forget of a stream that has not ended", err, codes.FailedPrecondition); err != nil {
		return err
	}
	if t := h.p.events.of(key{o.id, s.target.out}); t.eof {
		return errors.New("eof was told while the child could still write")
	}
	return s.finish(o, &lines{})
}

func endWriters(s *session) error {
	h, o, err := s.openWritten(&lines{}, 1000)
	if err != nil {
		return err
	}
	ctx, cancel := s.soon()
	defer cancel()
	o.ended = true
	if err := o.sayEnd(ctx); err != nil { // an orphan still has the near end
		return err
	}
	more := &lines{}
	discard(more, 1000)
	if err := s.write(o, first(more, 1000), 0); err != nil {
		return fmt.Errorf("after End, by another process that has the near end: %w", err)
	}
	if err := s.taken(ctx, o); err != nil {
		return fmt.Errorf("after End, by another process that has the near end: %w", err)
	}
	if t := h.p.events.of(key{o.id, s.target.out}); t.eof {
		return errors.New("eof was told after End while somebody could still write")
	}
	o.closeNear()
	return s.finished(o, &lines{})
}

// taken waits until the sink has taken what is in its pipe, or has told that the stream has ended. Of other wirings it waits for nothing.
func (s *session) taken(ctx context.Context, o *opening) error {
	if o.wiring != sinkpb.Wiring_PIPE {
		return nil
	}
	for {
		n, err := unix.IoctlGetInt(o.far[s.target.out].Int(), unix.TIOCINQ)
		switch {
		case err != nil:
			return fmt.Errorf("ask for what is in the pipe: FIONREAD: %w", err)
		case n == 0 || o.h.p.events.of(key{o.id, s.target.out}).eof:
			return nil
		}
		select {
		case <-time.After(5 * time.Millisecond):
		case <-ctx.Done():
			return fmt.Errorf("%d bytes are still in the pipe: %w", n, context.Cause(ctx))
		}
	}
}

func endCut(s *session) error {
	h, o, err := s.openNew()
	if err != nil {
		return err
	}
	if err := s.write(o, first(&lines{}, 40<<10), 0); err != nil {
		return err
	}
	ctx, cancel := s.soon()
	defer cancel()
	o.ended = true
	if err := o.sayEnd(ctx); err != nil {
		return err
	}
	if err := o.sayCut(ctx); err != nil {
		return err
	}
	most := min(cutMost, s.o.Timeout)
	cutCtx, cancel := context.WithTimeoutCause(s, most, fmt.Errorf("not within %v of Cut", most))
	defer cancel()
	ev := h.p.events
	if err := ev.wait(cutCtx, func() bool { t := ev.streams[key{o.id, s.target.out}]; return t != nil && t.over() }); err != nil {
		return fmt.Errorf("the stream, to which somebody could still write, was not flushed: %w", err)
	}
	return s.finished(o, &lines{})
}

// cutMost is how long a stream may last after Cut: the 2 seconds of PROTOCOL.md, and as much again for a machine that is busy.
const cutMost = 10 * time.Second

// stalled opens the target's stream, stops reading its destination, and writes until the sink takes no more. It returns how much was
// written.
func (s *session) stalled() (*host, *opening, *spool, error) {
	switch s.target.read {
	case readListen, readConnect, readFIFO, readViewer:
	default:
		return nil, nil, nil, notApplicable("with this spec the kit cannot hold its destination up: that takes {listen}, {connect} or {fifo}, or a console")
	}
	h, err := s.host()
	if err != nil {
		return nil, nil, nil, err
	}
	o, err := s.open(h)
	if err != nil {
		return nil, nil, nil, err
	}
	sp := o.reader.(*spool)
	sp.gate.set(true)
	return h, o, sp, nil
}

// stuffMost is how much a sink, the kernel and their queues may take of what nobody reads.
const stuffMost = 64 << 20

// stuff writes l to the opening's stream until nothing of it has been taken for a while, and says whether that came.
func (s *session) stuff(o *opening, l *lines) (blocked bool, err error) {
	ctx, cancel := context.WithCancel(s)
	defer cancel()
	done := make(chan error, 1)
	go func() { done <- o.write(ctx, s.target.out, first(l, stuffMost), 32<<10) }()
	last := int64(-1)
	pause := quiet
	if s.target.drops { // that it waits is the failure then, and a machine may be slow
		pause = s.o.Timeout
	}
	for {
		select {
		case err := <-done:
			return false, err
		case <-time.After(pause):
		}
		now := o.written[s.target.out].Load()
		if now == last {
			cancel()
			<-done // it ends with the deadline: what it has written is counted
			return true, nil
		}
		last = now
	}
}

// quiet is how long a writer makes no progress before it counts as blocked.
const quiet = 500 * time.Millisecond

func pressureCheck(s *session) error {
	h, o, sp, err := s.stalled()
	if err != nil {
		return err
	}
	blocked, err := s.stuff(o, &lines{})
	switch {
	case err != nil:
		return err
	case blocked && s.target.drops:
		return fmt.Errorf("it says that it drops, and after %d bytes the child had to wait", o.written[s.target.out].Load())
	case !blocked && !s.target.drops:
		return fmt.Errorf("it took %d bytes while its destination took nothing, and does not say that it drops: its memory would grow without a bound",
			int64(stuffMost))
	}
	sp.gate.set(false)
	if !s.target.drops {
		return s.finish(o, &lines{})
	}
	ctx, cancel := s.soon()
	defer cancel()
	if err := o.exit(ctx); err != nil {
		return err
	}
	if err := o.flushed(ctx, true); err != nil {
		return err
	}
	stat, err := o.stat(ctx)
	if err != nil {
		return err
	}
	if err := o.sayForget(ctx); err != nil {
		return err
	}
	came, written := sp.settled(), o.written[s.target.out].Load()
	if stat.Dropped == 0 || int64(stat.Dropped)+came != written {
		return fmt.Errorf("%d bytes were written and %d came out, and Stat tells %d as dropped", written, came, stat.Dropped)
	}
	return h.p.events.fault()
}

// stat is the counters of the opening's output stream.
func (o *opening) stat(ctx context.Context) (*sinkpb.StreamStat, error) {
	resp, err := o.h.p.sinks.Stat(ctx, &sinkpb.StatRequest{Opening: o.id})
	if err != nil {
		return nil, fmt.Errorf("the call Stat: %w", err)
	}
	for _, st := range resp.Streams {
		if st.Stream == o.outputs()[0] {
			return st, nil
		}
	}
	return nil, fmt.Errorf("the call Stat does not tell of %v: %v", o.outputs()[0], resp)
}

func endStuck(s *session) error {
	if s.target.drops {
		return notApplicable("it drops what nobody takes, and is never stuck")
	}
	h, o, _, err := s.stalled()
	if err != nil {
		return err
	}
	if _, err := s.stuff(o, &lines{}); err != nil {
		return err
	}
	ctx, cancel := s.soon()
	defer cancel()
	if err := o.exit(ctx); err != nil {
		return err
	}
	if err := o.sayCut(ctx); err != nil {
		return err
	}
	most := min(cutMost, s.o.Timeout)
	cutCtx, cancel := context.WithTimeoutCause(s, most, fmt.Errorf("not within %v of Cut", most))
	defer cancel()
	ev := h.p.events
	k := key{o.id, s.target.out}
	if err := ev.wait(cutCtx, func() bool { t := ev.streams[k]; return t != nil && t.over() }); err != nil {
		return fmt.Errorf("its destination takes nothing, and neither flushed nor failed was told: %w", err)
	}
	if t := ev.of(k); t.failed && t.failure == "" {
		return errors.New("failed was told without an error")
	}
	return o.forget(ctx)
}

func endOpen(s *session) error {
	_, o, err := s.openWritten(&lines{}, 1000)
	if err != nil {
		return err
	}
	ctx, cancel := s.soon()
	defer cancel()
	o.ended = true
	if err := o.sayEnd(ctx); err != nil {
		return err
	}
	if err := o.sayCut(ctx); err != nil {
		return err
	}
	if err := o.flushed(ctx, true); err != nil {
		return err
	}
	far := o.far[s.target.out]
	o.far[s.target.out] = fd.New(-1)
	far.Close() // the keeper's copy: the plugin's is the last
	if _, err := o.near[s.target.out].Write([]byte("x")); err != nil {
		return fmt.Errorf("a write after flushed, and before Forget: %w", err)
	}
	return o.forget(ctx)
}
