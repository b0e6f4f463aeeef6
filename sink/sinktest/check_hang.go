package sinktest

import (
	"context"
	"fmt"
	"time"

	"golang.org/x/sys/unix"

	"github.com/muxd/muxd/sink/sinkpb"
)

// answerMost is how long an answer to Openings may take: then muxd kills.
const answerMost = 10 * time.Second

func (h *host) answers(ctx context.Context) error {
	most := min(answerMost, h.o.Timeout)
	ctx, cancel := context.WithTimeout(ctx, most)
	defer cancel()
	if _, err := h.p.sinks.Openings(ctx, &sinkpb.OpeningsRequest{}); err != nil {
		return fmt.Errorf("the call Openings, within %v: %w", most, err)
	}
	return nil
}

func hangStop(s *session) error {
	h, o, err := s.openNew()
	if err != nil {
		return err
	}
	l := &lines{}
	for range 3 {
		if err := s.write(o, first(l, 10<<10), 0); err != nil {
			return err
		}
		h.p.signal(unix.SIGSTOP)
		time.AfterFunc(100*time.Millisecond, func() { h.p.signal(unix.SIGCONT) })
		if err := s.write(o, first(l, 10<<10), 0); err != nil {
			return err
		}
		if err := h.answers(s); err != nil {
			return fmt.Errorf("after SIGCONT: %w", err)
		}
	}
	return s.finish(o, &lines{})
}

func hangBusy(s *session) error {
	h, o, sp, err := s.stalled()
	if err != nil {
		return err
	}
	if _, err := s.stuff(o, &lines{}); err != nil {
		return err
	}
	if err := h.answers(s); err != nil {
		return fmt.Errorf("while its destination takes nothing: %w", err)
	}
	second, err := s.open(h)
	if err != nil {
		return fmt.Errorf("another opening, while the destination of the first takes nothing: %w", err)
	}
	if err := s.pass(second, &lines{}, &lines{}, 100<<10, 0); err != nil {
		return fmt.Errorf("another opening, while the destination of the first takes nothing: %w", err)
	}
	sp.gate.set(false)
	return s.finish(o, &lines{})
}
