package sinktest

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/muxd/muxd/sink/sinkpb"
)

func wiringCheck(s *session) error {
	h, o, err := s.openNew()
	if err != nil {
		return err
	}
	near := o.near[s.target.out]
	if _, err := unix.FcntlInt(uintptr(fdOf(near)), unix.F_GETFL, 0); err != nil {
		return fmt.Errorf("the near end is no open descriptor: %w", err)
	}
	if o.wiring == sinkpb.Wiring_PTY {
		if _, err := unix.IoctlGetTermios(fdOf(near), unix.TCGETS); err != nil {
			return fmt.Errorf("the near end is no terminal: %w", err)
		}
		ws, err := unix.IoctlGetWinsize(fdOf(near), unix.TIOCGWINSZ)
		if err != nil || ws.Row != 24 || ws.Col != 80 {
			return fmt.Errorf("the terminal has %d rows and %d columns, and Open said 24 and 80", ws.Row, ws.Col)
		}
	}
	if err := s.pass(o, &lines{}, &lines{}, 1000, 0); err != nil {
		return err
	}
	return h.p.events.fault()
}

func bytesNone(s *session) error {
	_, o, err := s.openNew()
	if err != nil {
		return err
	}
	return s.finish(o, &lines{})
}

func bytesSmall(s *session) error {
	_, o, err := s.openNew()
	if err != nil {
		return err
	}
	return s.pass(o, &lines{}, &lines{}, 500<<10, 0)
}

func bytesBinary(s *session) error {
	if s.o.Read == "" && s.target.read == readNothing {
		return notApplicable("there is no way to read what came out: give one with --read")
	}
	for _, n := range []int64{1, 255, 100_001} {
		_, o, err := s.openNew()
		if err != nil {
			return err
		}
		if err := s.pass(o, &noise{}, &noise{}, n, 777); err != nil {
			return fmt.Errorf("%d bytes: %w", n, err)
		}
	}
	return nil
}

func bytesLarge(s *session) error {
	_, o, err := s.openNew()
	if err != nil {
		return err
	}
	o.long = true
	return s.pass(o, &lines{}, &lines{}, s.o.Size, 64<<10)
}

// bytesBoth does not compare: how a sink puts two streams out, PROTOCOL.md does not say.
func bytesBoth(s *session) error {
	for _, st := range []sinkpb.Stream{sinkpb.Stream_STDOUT, sinkpb.Stream_STDERR} {
		if !slices.Contains(s.desc.Carries, st) {
			return notApplicable("it does not carry both")
		}
	}
	h, err := s.host()
	if err != nil {
		return err
	}
	o, err := s.open(h, sinkpb.Stream_STDOUT, sinkpb.Stream_STDERR)
	if err != nil {
		return err
	}
	ctx, cancel := s.soon()
	defer cancel()
	failed := make(chan error, 2)
	for i, st := range o.streams {
		go func() { failed <- o.write(ctx, st, first(&lines{}, int64(20_000*(i+1))), 0) }()
	}
	if err := errors.Join(<-failed, <-failed); err != nil {
		return err
	}
	if err := o.exit(ctx); err != nil {
		return err
	}
	if err := o.flushed(ctx, true); err != nil {
		return err
	}
	return o.forget(ctx)
}

// logCheck opens, writes and ends as usual, and kills once: a log is for what is unusual.
func logCheck(s *session) error {
	h, err := s.host()
	if err != nil {
		return err
	}
	const linesMost, bytesMost = 200, 32 << 10
	if s.target.out != 0 {
		for i := range 20 {
			o, err := s.open(h)
			if err != nil {
				return err
			}
			if err := s.write(o, first(&lines{}, 50<<10), 0); err != nil {
				return err
			}
			if i == 0 && s.target.wiring != sinkpb.Wiring_DIRECT {
				ctx, cancel := s.soon()
				err := h.restart(ctx)
				if err == nil && o.reader != nil {
					err = o.reader.opened(ctx, o)
				}
				cancel()
				if err != nil {
					return err
				}
			}
			if err := s.finish(o, &lines{}); err != nil {
				return err
			}
		}
	}
	end := h.p.log.String()
	h.kill()
	if h.logLines > linesMost || h.logBytes > bytesMost {
		return fmt.Errorf("for 20 openings and one kill it wrote %d lines with %d bytes to its log, which muxd shares with all; at most %d and %d are fine: %.200q",
			h.logLines, h.logBytes, linesMost, bytesMost, end[strings.IndexByte(end, '\n')+1:])
	}
	return nil
}

// fdOf is f's descriptor. f keeps its blocking mode.
func fdOf(f *os.File) int {
	n := -1
	if raw, err := f.SyscallConn(); err == nil {
		raw.Control(func(fd uintptr) { n = int(fd) })
	}
	return n
}
