package main

import (
	"bytes"
	"encoding/binary"
	"errors"
	"os"
	"os/exec"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// take has the client hand its terminal over, with a master on which it may type, if any.
func (c *fakeConsole) take(master *os.File) {
	c.t.Helper()
	var oob []byte
	if master != nil {
		fd, err := descriptor(master)
		if err != nil {
			c.t.Fatal(err)
		}
		oob = unix.UnixRights(fd)
	}
	if err := unix.Sendmsg(c.s, []byte{0x87}, oob, nil, unix.MSG_NOSIGNAL); err != nil {
		c.t.Fatal(err)
	}
}

// handed is the terminal that the client hands over, and the modes that it wants back. Sizes that are told before are passed over.
func (c *fakeConsole) handed() (*os.File, []byte) {
	c.t.Helper()
	b, oob := make([]byte, 100), make([]byte, 64)
	for {
		n, oobn, _, _, err := unix.Recvmsg(c.s, b, oob, unix.MSG_CMSG_CLOEXEC)
		if errors.Is(err, unix.EINTR) || err == nil && b[0] == 2 {
			continue
		}
		if err != nil || n != 37 || b[0] != 4 {
			c.t.Fatalf("%x came in place of a terminal: %v", b[:max(n, 0)], err)
		}
		messages, err := unix.ParseSocketControlMessage(oob[:oobn])
		if err != nil || len(messages) != 1 {
			c.t.Fatalf("%d control messages: %v", len(messages), err)
		}
		fds, err := unix.ParseUnixRights(&messages[0])
		if err != nil || len(fds) != 1 {
			c.t.Fatalf("%d descriptors: %v", len(fds), err)
		}
		f := os.NewFile(uintptr(fds[0]), "handed over")
		c.t.Cleanup(func() { f.Close() })
		return f, b[1:n]
	}
}

// returns tells that the terminal is the client's again.
func (c *fakeConsole) returns(flags byte, restore string) {
	c.send(append([]byte{0x88, 1 | flags}, restore...))
}

func TestHandOver(t *testing.T) {
	c, u, r := setup(t, attachOptions{DetachKeys: ctrlPQ})
	c.take(nil)
	tty, modes := c.handed()
	if got := binary.BigEndian.Uint32(modes[12:]); got != u.modes.Lflag {
		t.Errorf("local modes %#x are to be put back, they were %#x", got, u.modes.Lflag)
	}
	fd, err := descriptor(tty)
	if err != nil {
		t.Fatal(err)
	}
	if flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFL, 0); err != nil || flags&unix.O_NONBLOCK == 0 {
		t.Errorf("what is handed over blocks (%v)", err)
	}
	tty.WriteString("shown without the client")
	u.see("shown without the client")
	c.send([]byte("\x88\x00\x1b[?25h"))
	u.press("typed\x10\x11")
	c.expect("typed")
	if got := c.next(); got != "frame 0x5" {
		t.Fatalf("the client sends %q and does not reclaim its terminal", got)
	}
	if !u.raw() {
		t.Error("it has put the modes back before the console has let the terminal go")
	}
	tty.WriteString(", to the last byte")
	c.returns(2, "\x1b[?1049l")
	if res, err := r.wait(); err != nil || !res.Detached {
		t.Errorf("%+v, %v", res, err)
	}
	u.see("shown without the client, to the last byte\x1b[?1049l\x1b[23;0t\r\r\n[detached from web]")
	u.checkRestored()
}

// Keys are typed on the console's master, in their order, and the console is told how many they were. What waits for the child
// goes through the console.
func TestTypeDirectly(t *testing.T) {
	c, u, r := setup(t, attachOptions{DetachKeys: ctrlPQ})
	inner := newUserTerminal(t) // its master reads what is echoed
	c.take(inner.master)
	c.handed()
	u.press("a")
	inner.see("a")
	b := make([]byte, 100)
	if n, err := unix.Read(c.s, b); err != nil || !bytes.Equal(b[:n], []byte{6, 0, 0, 0, 0, 0, 0, 0, 1}) {
		t.Errorf("the console is told %x of one key (%v)", b[:max(n, 0)], err)
	}
	u.press("bc")
	inner.see("abc")

	// A terminal that takes no more: the rest goes through the console, and so does what follows, until it is acknowledged.
	fd, err := descriptor(inner.tty)
	if err != nil {
		t.Fatal(err)
	}
	raw := rawModes(inner.modes, false)
	if err := setModes(fd, &raw); err != nil {
		t.Fatal(err)
	}
	fill, masterErr := descriptor(inner.master)
	if masterErr != nil {
		t.Fatal(masterErr)
	}
	for { // in raw mode a terminal refuses what it has no room for: neither in what waits to be read (N_TTY_BUF_SIZE) nor before that
		_, err := unix.Write(fill, []byte("xxxxxxxx"))
		if waiting, inqErr := unix.IoctlGetInt(fd, unix.TIOCINQ); inqErr != nil || errors.Is(err, unix.EAGAIN) && waiting >= 4095 {
			break
		}
	}
	for errors.Is(err, nil) {
		_, err = unix.Write(fill, []byte("x"))
	}
	u.press("d")
	c.expectInput(3, "d")
	u.press("e")
	c.expectInput(4, "e")
	c.close()
	r.wait()
}

// A client that stops takes the terminal back first, and hands it over again when it goes on.
func TestHandOverSuspends(t *testing.T) {
	c, f := newFakeConsole(t)
	u := newUserTerminal(t)
	cmd := exec.Command(os.Args[0], "-test.run=^TestAttachHelper$")
	cmd.Env = append(os.Environ(), attachHelperEnv+"=1")
	cmd.Stdin, cmd.Stdout, cmd.Stderr, cmd.ExtraFiles = u.tty, u.tty, u.tty, []*os.File{f}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	f.Close()
	reaped := false
	defer func() {
		if !reaped {
			cmd.Process.Kill()
			cmd.Wait()
		}
	}()
	c.expect("size 24x80")
	c.take(nil)
	c.handed()

	cmd.Process.Signal(unix.SIGTSTP)
	if got := c.next(); got != "frame 0x5" {
		t.Fatalf("the client sends %q and does not reclaim its terminal", got)
	}
	c.returns(0, "\x1b[?2004l")
	var status unix.WaitStatus
	if _, err := unix.Wait4(cmd.Process.Pid, &status, unix.WUNTRACED, nil); err != nil || !status.Stopped() {
		t.Fatalf("it does not stop: %v %#x", err, status)
	}
	u.checkRestored()
	u.see("\x1b[?2004l")

	cmd.Process.Signal(unix.SIGCONT)
	c.handed()
	if !u.raw() {
		t.Error("the terminal is not in raw mode again")
	}

	cmd.Process.Signal(unix.SIGSTOP) // which nobody sees coming
	if _, err := unix.Wait4(cmd.Process.Pid, &status, unix.WUNTRACED, nil); err != nil || !status.Stopped() {
		t.Fatalf("it does not stop: %v %#x", err, status)
	}
	cmd.Process.Signal(unix.SIGCONT)
	c.expect("size 24x80frame 0x5") // the console may have seen that the terminal was a shell's meanwhile
	c.returns(0, "")
	c.handed()
	c.end(0)
	if err := cmd.Wait(); err != nil {
		t.Error(err)
	}
	reaped = true
	u.checkRestored()
}

// A console that does not give the terminal back does not keep the client from leaving.
func TestReclaimHangs(t *testing.T) {
	c, u, r := setup(t, attachOptions{DetachKeys: ctrlPQ})
	c.take(nil)
	c.handed()
	c.send([]byte("\x88\x00\x1b[?25h"))
	u.press("\x10\x11")
	if res, err := r.wait(); err != nil || !res.Detached {
		t.Errorf("%+v, %v", res, err)
	}
	u.see("\x1b[?25h\x1b[23;0t\r\r\n[detached from web]")
	u.checkRestored()
}

// expectInput takes frames until input at that offset, and does not acknowledge it. That keys were typed without the console is told before.
func (c *fakeConsole) expectInput(offset uint64, want string) {
	c.t.Helper()
	b := make([]byte, 100)
	for {
		n, err := unix.Read(c.s, b)
		switch {
		case err != nil || n < 9:
			c.t.Fatalf("%x came in place of input: %v", b[:max(n, 0)], err)
		case b[0] == 6 && binary.BigEndian.Uint64(b[1:]) <= offset:
			continue
		}
		if got := binary.BigEndian.Uint64(b[1:]); b[0] != 1 || got != offset || string(b[9:n]) != want {
			c.t.Errorf("frame %#x with %q at %d, want input %q at %d", b[0], b[9:n], got, want, offset)
		}
		return
	}
}
