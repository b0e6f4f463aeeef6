package keeper

import (
	"fmt"
	"syscall"

	"github.com/muxd/muxd/core/keeper/keeperpb"
)

// Error is why the keeper did not do what it was asked to.
type Error struct {
	Errno syscall.Errno // 0 where no system call failed
	Text  string        // a sentence for the user; the errno's words are in it
}

func (e *Error) Error() string { return e.Text }

// Unwrap returns the errno, so that errors.Is(err, syscall.ENOENT) works.
func (e *Error) Unwrap() error {
	if e.Errno == 0 {
		return nil
	}
	return e.Errno
}

// fail makes an Error of what failed and the errno's words.
func fail(errno syscall.Errno, format string, args ...any) *Error {
	return &Error{Errno: errno, Text: fmt.Sprintf(format, args...) + ": " + errno.Error()}
}

// reply is the answer to request id that err stands for.
func (e *Error) reply(id uint64) *keeperpb.Reply {
	return &keeperpb.Reply{Id: id, Error: e.Text, Errno: uint32(e.Errno)}
}

// replyError returns what a reply says went wrong, or nil.
func replyError(r *keeperpb.Reply) error {
	if r.GetError() == "" && r.GetErrno() == 0 {
		return nil
	}
	return &Error{Errno: syscall.Errno(r.GetErrno()), Text: r.GetError()}
}
