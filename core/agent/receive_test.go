package agent

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/muxd/muxd/internal/fd"
)

// things are what may be sent to a console socket.
type things struct{ master, tty, null, file, dir, pipe int }

func newThings(t testing.TB) *things {
	t.Helper()
	own := func(n int, err error) int {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { unix.Close(n) })
		return n
	}
	open := func(path string, flags int) int {
		t.Helper()
		return own(unix.Open(path, flags|unix.O_CLOEXEC, 0o600))
	}
	s := &things{
		master: open("/dev/ptmx", unix.O_RDWR|unix.O_NOCTTY), null: open(os.DevNull, unix.O_RDWR),
		file: open(filepath.Join(t.TempDir(), "file"), unix.O_RDWR|unix.O_CREAT), dir: open(t.TempDir(), unix.O_RDONLY),
	}
	if err := unix.IoctlSetPointerInt(s.master, unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	n, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(s.master), unix.TIOCGPTPEER, unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC)
	if errno != 0 {
		t.Fatal(errno)
	}
	s.tty = own(int(n), nil)
	var p [2]int
	if err := unix.Pipe2(p[:], unix.O_CLOEXEC); err != nil {
		t.Fatal(err)
	}
	s.pipe = own(p[0], nil)
	own(p[1], nil)
	return s
}

// deliver does what the agent does with a connection, and returns the master that it has then.
func deliver(conn int) (*fd.FD, error) {
	m, err := peekMaster(conn)
	if err != nil {
		return nil, err
	}
	if err := takeMessage(conn); err != nil {
		m.Close()
		return nil, err
	}
	return m, nil
}

func TestConsoleSocketMessage(t *testing.T) {
	s := newThings(t)
	many := make([]int, consoleFDsMost+1)
	for i := range many {
		many[i] = s.master
	}
	two := many[:2]
	one := many[:1]
	path, err := unix.Open("/dev/ptmx", unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(path)
	type message struct {
		name []byte
		fds  []int
	}
	for _, c := range []struct {
		what string
		sent []message
		want string // of the error; empty: the master is taken
	}{
		{"as runc does", []message{{[]byte("/dev/ptmx"), one}}, ""},
		{"a name that is no text", []message{{[]byte("\x00\xff\n"), one}}, ""},
		{"the longest name", []message{{bytes.Repeat([]byte("x"), 4096), one}}, ""},
		{"a longer name", []message{{bytes.Repeat([]byte("x"), 4097), one}}, "more than 4096 bytes"},
		{"nothing", nil, "nothing had been sent"},
		{"no descriptor", []message{{[]byte("x"), nil}}, "0 descriptors"},
		{"two", []message{{[]byte("x"), two}}, "2 descriptors"},
		{"more than are received", []message{{[]byte("x"), many}}, "more than 16 descriptors"},
		{"a second message", []message{{[]byte("x"), one}, {[]byte("y"), nil}}, "more than one message"},
		{"a second descriptor", []message{{[]byte("x"), one}, {[]byte("y"), one}}, "more than one message"},
		{"many more", []message{{[]byte("x"), one}, {[]byte("y"), many}}, "more than one message"},
		{"text before it, which a stream does not tell from it", []message{{[]byte("x"), nil}, {[]byte("y"), one}}, ""},
		{"the terminal side", []message{{[]byte("x"), []int{s.tty}}}, "it is a terminal"},
		{"a device", []message{{[]byte("x"), []int{s.null}}}, "not the master of a terminal"},
		{"a file", []message{{[]byte("x"), []int{s.file}}}, "a regular file"},
		{"a directory", []message{{[]byte("x"), []int{s.dir}}}, "a directory"},
		{"a pipe", []message{{[]byte("x"), []int{s.pipe}}}, "a pipe"},
		{"what cannot be read", []message{{[]byte("x"), []int{path}}}, "not open for reading and writing"},
	} {
		before, err := fd.Count()
		if err != nil {
			t.Fatal(err)
		}
		ours, theirs, err := fd.Socketpair(unix.SOCK_STREAM)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := peekMaster(ours.Int()); !errors.Is(err, errNothingYet) {
			t.Errorf("%s: before it is sent: %v", c.what, err)
		}
		for _, m := range c.sent {
			var oob []byte
			if len(m.fds) > 0 {
				oob = unix.UnixRights(m.fds...)
			}
			if err := unix.Sendmsg(theirs.Int(), m.name, oob, nil, 0); err != nil {
				t.Fatal(err)
			}
		}
		theirs.Close()
		m, err := deliver(ours.Int())
		if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%s: %v, want %q", c.what, err, c.want)
		}
		m.Close()
		ours.Close()
		if after, err := fd.Count(); err != nil || after > before { // fewer: the collector has closed a file of an earlier test
			t.Errorf("%s: %d descriptors are open, %d were (%v)", c.what, after, before, err)
		}
	}
}

// FuzzConsoleSocket sends what the input says: for each byte of kinds a descriptor, in messages whose names are cut from name where a
// byte is above 127. Whatever it is, no descriptor is left, and a master comes out only where it was the only one.
func FuzzConsoleSocket(f *testing.F) {
	s := newThings(f)
	all := []int{s.master, s.tty, s.null, s.file, s.dir, s.pipe}
	f.Add([]byte("/dev/ptmx"), []byte{0})
	f.Add([]byte{0, 255}, []byte{0, 0})
	f.Add([]byte(strings.Repeat("x", 5000)), []byte{0})
	f.Add([]byte("x"), []byte{1})
	f.Add([]byte("xy"), []byte{0, 0x80})
	f.Add([]byte(""), []byte{})
	f.Fuzz(func(t *testing.T, name, kinds []byte) {
		if len(kinds) > 40 || len(name) > 20000 {
			t.Skip()
		}
		before, err := fd.Count()
		if err != nil {
			t.Fatal(err)
		}
		ours, theirs, err := fd.Socketpair(unix.SOCK_STREAM)
		if err != nil {
			t.Fatal(err)
		}
		sent, masters := 0, 0
		send := func(name []byte, fds []int) {
			if len(name) == 0 && len(fds) == 0 {
				return
			}
			if len(name) == 0 { // a stream carries no descriptors without a byte
				name = []byte{0}
			}
			var oob []byte
			if len(fds) > 0 {
				oob = unix.UnixRights(fds...)
			}
			if err := unix.Sendmsg(theirs.Int(), name, oob, nil, unix.MSG_DONTWAIT); err != nil {
				t.Skip()
			}
			sent += len(fds)
		}
		var fds []int
		for _, k := range kinds {
			if k >= 0x80 {
				half := len(name) / 2
				send(name[:half], fds)
				name, fds = name[half:], nil
			}
			which := int(k&0x7f) % len(all)
			fds = append(fds, all[which])
			if which == 0 {
				masters++
			}
		}
		send(name, fds)
		theirs.Close()
		m, err := deliver(ours.Int())
		if err == nil && (sent != 1 || masters != 1) {
			t.Errorf("%d descriptors, of which %d are masters, were taken", sent, masters)
		}
		m.Close()
		ours.Close()
		if after, err := fd.Count(); err != nil || after > before { // fewer: the collector has closed a file of an earlier test
			t.Errorf("%d descriptors are open, %d were (%v)", after, before, err)
		}
	})
}
