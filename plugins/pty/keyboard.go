package pty

import (
	"context"
	"errors"
	"fmt"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// keyboard is the input side of a console: it types what viewers type, one frame after the other.
type keyboard struct {
	in   *master
	free chan struct{} // holds one element while nobody types

	// Whoever took the element may touch what follows.
	typing
	line line
}

// init has the keyboard type into in. mem is a predecessor's too; made makes a stage, and parks it.
func (k *keyboard) init(in *master, mem inputMemory, made func() (*os.File, error)) {
	k.in, k.free = in, make(chan struct{}, 1)
	k.typing = typing{in: in, mem: mem, made: made, step: func(string) {}}
	k.free <- struct{}{}
}

// take waits until nobody types.
func (k *keyboard) take(ctx context.Context) error {
	select {
	case <-k.free:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (k *keyboard) give() { k.free <- struct{}{} }

// inherit takes ownership of the stage of a predecessor, nil where it had none, and says whether there is something left to settle. The caller
// has the element.
func (k *keyboard) inherit(f *os.File) (pending bool, err error) {
	if f == nil {
		k.mem.clear() // where there was something it is lost, and typed again
		return false, nil
	}
	if err := k.use(f); err != nil {
		return false, err
	}
	return k.mem.phase() != phaseNone, nil
}

// before tells how far the typist of that name has typed already, by an earlier connection, and whether it has ended its input. It
// blocks while some of that is still being typed.
func (k *keyboard) before(ctx context.Context, name []byte) (offset uint64, ended, known bool, err error) {
	if k.mem.find(name) == 0 {
		return 0, false, false, nil
	}
	if err := k.take(ctx); err != nil {
		return 0, false, false, err
	}
	defer k.give()
	if err := k.settle(ctx, nil); err != nil {
		return 0, false, false, err
	}
	if n := k.mem.find(name); n > 0 {
		offset, ended = k.mem.typed(n)
		return offset, ended, true, nil
	}
	return 0, false, false, nil
}

// typed types p, which stands at offset of the input of who, and calls done when the kernel has all of it, before others type, with the modes that the
// terminal had, and lost where a line is longer than it keeps. It blocks while others type, and while the child
// does not read; see typing.typed. Where no process has the terminal open p is dropped, as a terminal drops it.
func (k *keyboard) typed(ctx context.Context, who []byte, offset uint64, p []byte, from syscall.RawConn, done func(modes *unix.Termios, lost bool)) error {
	if err := k.take(ctx); err != nil {
		return err
	}
	defer k.give()
	modes, err := unix.IoctlGetTermios(k.in.fd, unix.TCGETS) // on the master: the terminal's (pty(7))
	if err != nil {
		return fmt.Errorf("modes of the console's terminal: %w", err)
	}
	lost := k.line.typed(modes, p)
	if err = k.typing.typed(ctx, who, offset, p, false, from); err == nil {
		done(modes, lost)
	}
	return err
}

// answer writes p, an answer of the terminal itself, as far as that can be done now.
func (k *keyboard) answer(p []byte) {
	select {
	case <-k.free:
		k.in.Write(p)
		k.give()
	default:
	}
}

// settled waits until nobody types: what was typed before has been acknowledged then.
func (k *keyboard) settled(ctx context.Context) {
	if k.take(ctx) == nil {
		k.give()
	}
}

// endOfInput types what tells the child that the input of who, of which offset bytes were typed, has ended, if the terminal is in canonical mode: the VEOF
// character. That ends the input only at the beginning of a line; behind an unfinished line it only passes the
// line on, so there it is typed twice (termios(3)). In other modes there is no end of input, and nothing is done. Nor is it where the input
// of who has ended already, and nothing was typed since.
func (k *keyboard) endOfInput(ctx context.Context, who []byte, offset uint64, from syscall.RawConn) error {
	if err := k.take(ctx); err != nil {
		return err
	}
	defer k.give()
	modes, err := unix.IoctlGetTermios(k.in.fd, unix.TCGETS) // on the master: the terminal's (pty(7))
	if err != nil {
		return fmt.Errorf("end the console's input: %w", err)
	}
	if err := k.settle(ctx, from); err != nil && !errors.Is(err, errLeft) {
		return err
	}
	if n := k.mem.find(who); n > 0 {
		if _, ended := k.mem.typed(n); ended {
			return nil
		}
	}
	eof := modes.Cc[unix.VEOF]
	if modes.Lflag&unix.ICANON == 0 || eof == 0 { // 0 is _POSIX_VDISABLE
		return nil
	}
	p := []byte{eof}
	if last, any := k.mem.last(); any && !endsLine(modes, last) {
		p = append(p, eof)
	}
	return k.typing.typed(ctx, who, offset, p, true, from)
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
