package sinktest

import (
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/muxd/muxd/internal/fd"
	"github.com/muxd/muxd/sink/sinkpb"
)

func consoleKeys(s *session) error {
	_, o, err := s.openNew()
	if err != nil {
		return err
	}
	ctx, cancel := s.soon()
	defer cancel()
	v, err := o.attach(ctx, &sinkpb.AttachRequest{Replay: "none"})
	if err != nil {
		return err
	}
	defer v.conn.Close()
	v.conn.SetDeadline(time.Now().Add(s.o.Timeout))
	near := o.near[sinkpb.Stream_CONSOLE]
	near.SetReadDeadline(time.Now().Add(s.o.Timeout))
	if err := v.input(0, []byte("abc")); err != nil {
		return err
	}
	if err := v.acked(3); err != nil {
		return err
	}
	if err := v.input(1, []byte("bcdef")); err != nil { // typed again from 1, as after a connection that broke
		return err
	}
	if err := v.acked(6); err != nil {
		return err
	}
	got := make([]byte, 6)
	if _, err := io.ReadFull(near, got); err != nil || string(got) != "abcdef" {
		return fmt.Errorf("%q was typed, the second half twice at the same offset, and the child read %q (%v)", "abcdef", got, err)
	}
	return s.finish(o, &lines{})
}

// acked waits for an Ack of offset.
func (v *viewer) acked(offset uint64) error {
	for {
		f, err := v.next()
		switch {
		case err != nil:
			return fmt.Errorf("input up to %d was not acknowledged: %w", offset, err)
		case f.kind == frameAck && f.offset > offset:
			return fmt.Errorf("input up to %d was acknowledged, and only %d was typed", f.offset, offset)
		case f.kind == frameAck && f.offset == offset:
			return nil
		}
	}
}

func consoleSize(s *session) error {
	h, o, err := s.openNew()
	if err != nil {
		return err
	}
	ctx, cancel := s.soon()
	defer cancel()
	for range 2 {
		if _, err := h.p.sinks.Resize(ctx, &sinkpb.ResizeRequest{Opening: o.id, Size: &sinkpb.Size{Rows: 33, Cols: 101}}); err != nil {
			return fmt.Errorf("the call Resize: %w", err)
		}
	}
	ws, err := unix.IoctlGetWinsize(o.far[sinkpb.Stream_CONSOLE].Int(), unix.TIOCGWINSZ)
	if err != nil || ws.Row != 33 || ws.Col != 101 {
		return fmt.Errorf("after Resize to 33 rows and 101 columns the terminal has %d and %d", ws.Row, ws.Col)
	}
	return s.finish(o, &lines{})
}

func consoleFrames(s *session) error {
	_, o, err := s.openNew()
	if err != nil {
		return err
	}
	ctx, cancel := s.soon()
	defer cancel()
	for what, b := range map[string][]byte{
		"of type 0x7f": {0x7f, 1}, "Resize of 2 bytes": {0x02, 0, 24}, "Input without an offset": {frameInput, 0, 0},
	} {
		v, err := o.attach(ctx, &sinkpb.AttachRequest{Replay: "none"})
		if err != nil {
			return err
		}
		v.conn.SetDeadline(time.Now().Add(s.o.Timeout))
		if _, err := v.conn.Write(b); err != nil {
			return err
		}
		for {
			f, err := v.next()
			if errors.Is(err, os.ErrDeadlineExceeded) {
				return fmt.Errorf("a frame (%s) did not end the connection", what)
			}
			if err != nil {
				break
			}
			if f.kind == frameEnd {
				return fmt.Errorf("a frame (%s) ended the console", what)
			}
		}
		v.conn.Close()
	}
	return s.pass(o, &lines{}, &lines{}, 10_000, 0)
}

func consoleReopen(s *session) error {
	h, o, err := s.openWritten(&lines{}, 1000)
	if err != nil {
		return err
	}
	o.closeNear()
	if err := h.answers(s); err != nil {
		return err
	}
	<-time.After(50 * time.Millisecond) // for a plugin that takes this for the end
	n, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(o.far[sinkpb.Stream_CONSOLE].Int()), unix.TIOCGPTPEER,
		unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC|unix.O_NONBLOCK)
	if errno != 0 {
		return fmt.Errorf("open the terminal again: %w", errno)
	}
	o.near[sinkpb.Stream_CONSOLE] = fd.New(int(n)).File("console")
	if t := h.p.events.of(key{o.id, sinkpb.Stream_CONSOLE}); t.eof {
		return errors.New("the child closed its terminal, and eof was told before its exit")
	}
	more := &lines{}
	discard(more, 1000)
	if err := s.write(o, first(more, 1000), 0); err != nil {
		return err
	}
	return s.finish(o, &lines{})
}
