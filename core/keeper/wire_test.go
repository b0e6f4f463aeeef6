package keeper

import (
	"errors"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/muxd/muxd/core/keeper/keeperpb"
	"github.com/muxd/muxd/internal/fd"
	"github.com/muxd/muxd/internal/fdchan"
)

func TestReceiveRefuses(t *testing.T) {
	before, err := fd.Count()
	if err != nil {
		t.Fatal(err)
	}
	a, b, err := fd.Socketpair(unix.SOCK_SEQPACKET)
	if err != nil {
		t.Fatal(err)
	}
	from, err := fdchan.New(a)
	if err != nil {
		t.Fatal(err)
	}
	to, _, err := newChannel(b)
	if err != nil {
		t.Fatal(err)
	}
	open := func(n int, err error) *fd.FD {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return fd.New(n)
	}
	unsealed := open(unix.MemfdCreate("x", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING))
	large := open(unix.MemfdCreate("x", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING))
	if err := unix.Ftruncate(large.Int(), maxMessage+1); err != nil {
		t.Fatal(err)
	}
	if _, err := unix.FcntlInt(uintptr(large.Int()), unix.F_ADD_SEALS, seals); err != nil {
		t.Fatal(err)
	}
	null := open(unix.Open("/dev/null", unix.O_RDWR|unix.O_CLOEXEC, 0))
	rubbish, err := sealed("x", []byte("\xff\xff\xff"))
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name   string
		packet fdchan.Packet
		fds    []int
	}{
		{"type", fdchan.Packet{Type: fdchan.Give, Payload: []byte("x")}, []int{null.Int()}},
		{"rubbish", fdchan.Packet{Type: fdchan.Message, Payload: []byte("\xff\xff\xff")}, []int{null.Int()}},
		{"no memfd", fdchan.Packet{Type: fdchan.Message}, []int{null.Int(), null.Int()}},
		{"unsealed", fdchan.Packet{Type: fdchan.Message}, []int{unsealed.Int()}},
		{"too large", fdchan.Packet{Type: fdchan.Message}, []int{large.Int(), null.Int()}},
		{"rubbish in a memfd", fdchan.Packet{Type: fdchan.Message}, []int{rubbish.Int(), null.Int()}},
	} {
		if err := from.Send(c.packet, c.fds...); err != nil {
			t.Fatal(err)
		}
		if m, _, err := receive(to); !errors.Is(err, fdchan.ErrMalformed) {
			t.Errorf("%s: %v, %v", c.name, m, err)
		}
	}
	fd.CloseAll([]*fd.FD{unsealed, large, null, rubbish})
	from.Close()
	to.Close()
	if after, err := fd.Count(); err != nil || after != before {
		t.Errorf("%d descriptors, %v, before %d", after, err, before)
	}
}

func TestErrorOfAReply(t *testing.T) {
	if err := replyError(&keeperpb.Reply{}); err != nil {
		t.Error(err)
	}
	if err := replyError((&Error{Text: "no"}).reply(1)); err == nil || err.Error() != "no" || errors.Unwrap(err) != nil {
		t.Error(err)
	}
	if err := replyError(fail(unix.ENOENT, "open").reply(1)); !errors.Is(err, unix.ENOENT) || err.Error() != "open: no such file or directory" {
		t.Error(err)
	}
}
