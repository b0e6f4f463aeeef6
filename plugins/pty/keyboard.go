package pty

import (
	"context"
	"errors"
	"fmt"
	"syscall"

	"golang.org/x/sys/unix"
)

// keyboard is the input side of a console: it writes what viewers type into the master, one frame after the other.
type keyboard struct {
	in   *master
	free chan struct{} // holds one element while nobody types

	// Whoever took the element may touch what follows.
	last byte // the last byte typed
	any  bool // there is a last byte
	line line
}

func (k *keyboard) init(in *master) {
	k.in, k.free = in, make(chan struct{}, 1)
	k.free <- struct{}{}
}

// typed writes p, and calls done when the kernel has all of it, before others type, with the modes that the terminal had, and lost where
// a line is longer than it keeps. It blocks while others type, and while the child
// does not read; see writeAll. Where no process has the terminal open p is dropped, as a terminal drops it.
func (k *keyboard) typed(ctx context.Context, p []byte, from syscall.RawConn, done func(modes *unix.Termios, lost bool)) error {
	select {
	case <-k.free:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	defer func() { k.free <- struct{}{} }()
	modes, err := unix.IoctlGetTermios(k.in.fd, unix.TCGETS) // on the master: the terminal's (pty(7))
	if err != nil {
		return fmt.Errorf("modes of the console's terminal: %w", err)
	}
	lost := k.line.typed(modes, p)
	if err = k.write(ctx, p, from); err == nil {
		done(modes, lost)
	}
	return err
}

// answer writes p, an answer of the terminal itself, as far as that can be done now.
func (k *keyboard) answer(p []byte) {
	select {
	case <-k.free:
		k.in.Write(p)
		k.free <- struct{}{}
	default:
	}
}

// settled waits until nobody types: what was typed before has been acknowledged then.
func (k *keyboard) settled(ctx context.Context) {
	select {
	case <-k.free:
		k.free <- struct{}{}
	case <-ctx.Done():
	}
}

func (k *keyboard) write(ctx context.Context, p []byte, from syscall.RawConn) error {
	if len(p) == 0 {
		return nil
	}
	switch err := k.in.writeAll(ctx, p, from); {
	case errors.Is(err, unix.EIO): // n_tty_write: nobody has the terminal side open
	case err != nil:
		return err
	}
	k.last, k.any = p[len(p)-1], true
	return nil
}

// endOfInput types what tells the child that its input has ended, if the terminal is in canonical mode: the VEOF
// character. That ends the input only at the beginning of a line; behind an unfinished line it only passes the
// line on, so there it is typed twice (termios(3)). In other modes there is no end of input, and nothing is done.
func (k *keyboard) endOfInput(ctx context.Context, from syscall.RawConn) error {
	select {
	case <-k.free:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	defer func() { k.free <- struct{}{} }()
	modes, err := unix.IoctlGetTermios(k.in.fd, unix.TCGETS) // on the master: the terminal's (pty(7))
	if err != nil {
		return fmt.Errorf("end the console's input: %w", err)
	}
	eof := modes.Cc[unix.VEOF]
	if modes.Lflag&unix.ICANON == 0 || eof == 0 { // 0 is _POSIX_VDISABLE
		return nil
	}
	p := []byte{eof}
	if k.any && !endsLine(modes, k.last) {
		p = append(p, eof)
	}
	return k.write(ctx, p, from)
}

// endsLine says whether the character b makes the terminal give its line to the reader.
func endsLine(modes *unix.Termios, b byte) bool {
	switch {
	case b == '\n':
		return modes.Iflag&unix.INLCR == 0
	case b == '\r':
		return modes.Iflag&unix.ICRNL != 0 && modes.Iflag&unix.IGNCR == 0
	}
	return b != 0 && (b == modes.Cc[unix.VEOF] || b == modes.Cc[unix.VEOL] || b == modes.Cc[unix.VEOL2])
}
