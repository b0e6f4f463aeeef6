package pty

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"regexp"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/muxd/muxd/plugins/pty/screen"
	"github.com/muxd/muxd/sink"
)

// outer is a viewer's own terminal, at whose master the test is the person.
type outer struct {
	t     *testing.T
	p     *pair
	tty   int // a description of the client's own, as it hands over
	saved unix.Termios
	seen  []byte
}

// newOuter makes a terminal in the raw mode of a client.
func newOuter(t *testing.T, flags int) *outer {
	t.Helper()
	p, err := openPair(24, 80)
	if err != nil {
		t.Fatal(err)
	}
	o := &outer{t: t, p: p}
	t.Cleanup(p.close)
	unix.SetNonblock(p.master.fd, true)
	saved, err := unix.IoctlGetTermios(p.tty.fd, unix.TCGETS)
	if err != nil {
		t.Fatal(err)
	}
	o.saved = *saved
	o.setRaw()
	if o.tty, err = unix.Open(fmt.Sprintf("/proc/self/fd/%d", p.tty.fd), flags|unix.O_NOCTTY|unix.O_CLOEXEC, 0); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(o.tty) })
	return o
}

func (o *outer) setRaw() {
	raw := o.saved
	raw.Lflag &^= unix.ECHO | unix.ICANON | unix.ISIG | unix.IEXTEN
	raw.Oflag &^= unix.OPOST
	unix.IoctlSetTermios(o.p.tty.fd, unix.TCSETS, &raw)
}

// read takes what the terminal has been written, without waiting.
func (o *outer) read() {
	b := make([]byte, 8<<10)
	for {
		n, err := o.p.master.Read(b)
		if err != nil || n == 0 {
			return
		}
		o.seen = append(o.seen, b[:n]...)
	}
}

// until returns when the terminal shows text.
func (o *outer) until(text string) {
	o.t.Helper()
	for o.read(); !bytes.Contains(o.seen, []byte(text)); o.read() {
		if n, err := unix.Poll([]unix.PollFd{{Fd: int32(o.p.master.fd), Events: unix.POLLIN}}, 20000); n != 1 && err != unix.EINTR {
			o.t.Fatalf("the terminal does not show %q: %q", text, o.seen)
		}
	}
}

// handOver answers Take.
func (o *outer) handOver(k *client) {
	o.t.Helper()
	m := &o.saved
	b := []byte{4}
	for _, n := range []uint32{m.Iflag, m.Oflag, m.Cflag, m.Lflag} {
		b = binary.BigEndian.AppendUint32(b, n)
	}
	b = append(append(b, m.Line), m.Cc[:]...)
	if err := unix.Sendmsg(k.s, b, unix.UnixRights(o.tty), nil, unix.MSG_NOSIGNAL); err != nil {
		o.t.Fatal(err)
	}
}

// hand attaches a viewer whose terminal is o, and hands that over.
func (h *harness) hand(o *outer, replay string, id string) *client {
	h.t.Helper()
	k := h.attachAs(func(v *sink.Viewer) {
		v.Replay, v.Rows, v.Cols, v.Terminal, v.InputID = replay, 24, 80, true, []byte(id)
	})
	k.take(func() bool { return k.taken > 0 }, "Take")
	o.handOver(k)
	return k
}

// take takes frames until done.
func (k *client) take(done func() bool, what string) {
	k.t.Helper()
	for !done() {
		if !k.frame() {
			k.t.Fatalf("the connection ended before %s came", what)
		}
	}
}

// say has the console put out p.
func (h *harness) say(p string) {
	h.t.Helper()
	h.c.mu.Lock()
	at := h.c.past.end()
	h.c.mu.Unlock()
	if err := h.c.Write(h.ctx, &sink.Chunk{Stream: sink.Console, Offset: at, Data: []byte(p)}); err != nil {
		h.t.Fatal(err)
	}
}

// text is what m shows, and where its cursor stands.
func text(m *screen.Model) string {
	s := describe(m, 0)
	var b strings.Builder
	for _, line := range s.Lines {
		for _, c := range line.Cells {
			b.WriteString(c.Text)
		}
		b.WriteByte('\n')
	}
	return fmt.Sprint(b.String(), s.Cursor.Row, " ", s.Cursor.Col)
}

func TestHandedOver(t *testing.T) {
	h := newHarness(t, 0)
	o := newOuter(t, unix.O_WRONLY|unix.O_NONBLOCK)
	k := h.hand(o, "screen", "me")
	h.say("hello\r\n\x1b[?1049h\x1b[?25lthere")
	o.until("there")
	if k.drawn.Len() > 0 {
		t.Errorf("what the terminal shows came to the client, too: %q", k.drawn.String())
	}
	k.take(func() bool { return strings.Contains(k.restore, "\x1b[?1049l") }, "what puts the screen back")
	if k.returned {
		t.Error("it says that it has returned the terminal")
	}

	k.send([]byte{5})
	k.take(func() bool { return k.returned }, "the terminal")
	if k.restore != "\x1b[?25h\x1b[?1049l" {
		t.Errorf("the screen is to be put back with %q", k.restore)
	}
	if k.unfinished {
		t.Error("the cursor of the main screen, at the beginning of its line, stands behind something")
	}
	o.read()
	before := len(o.seen)
	h.say(" nobody sees this")
	if o.read(); len(o.seen) != before {
		t.Errorf("it has written %q to a terminal that it has returned", o.seen[before:])
	}

	o.handOver(k) // once more: as after a stop
	o.until("there nobody sees this")
	h.say(" and more")
	o.until(" and more")
	k.leave()
	h.attached.Wait() // it has ended without a word
	if now, err := unix.IoctlGetTermios(o.p.tty.fd, unix.TCGETS); err != nil || *now != o.saved {
		t.Errorf("the modes are %+v, they were %+v", now, o.saved)
	}
	if o.read(); !bytes.HasSuffix(o.seen, []byte("\x1b[?25h\x1b[?1049l")) {
		t.Errorf("the screen is left as it is: %q", o.seen[before:])
	}
}

// The end comes after the last of the output, and after the terminal is the client's again.
func TestHandedOverEnd(t *testing.T) {
	h := newHarness(t, 0)
	o := newOuter(t, unix.O_WRONLY|unix.O_NONBLOCK)
	k := h.hand(o, "all", "me")
	_, finished := h.run("sh", "-c", "echo first; printf last")
	k.take(func() bool { return k.ended }, "the end")
	<-finished
	if o.read(); string(o.seen) != "first\r\nlast" {
		t.Errorf("the terminal shows %q", o.seen)
	}
	if !k.returned || !k.unfinished || k.restore != "" {
		t.Errorf("returned %v, unfinished %v, put back with %q", k.returned, k.unfinished, k.restore)
	}
}

// A terminal that stands still holds nobody up, and is drawn again when it goes on.
func TestHandedOverStandsStill(t *testing.T) {
	h := newHarness(t, 0)
	o := newOuter(t, unix.O_WRONLY|unix.O_NONBLOCK)
	h.hand(o, "screen", "me")
	within(t, 20*time.Second, "output that nobody reads", func() {
		for i := range 20000 {
			h.say(fmt.Sprintf("line %d\r\n", i))
		}
		h.say("the end")
	})
	o.until("the end")
	shows := screen.New(24, 80)
	shows.Write(regexp.MustCompile(`\r\n\[\d+ bytes of output were skipped.*\]\r\n`).ReplaceAll(o.seen, nil))
	h.c.mu.Lock()
	defer h.c.mu.Unlock()
	if got, want := text(shows), text(h.c.display.model); got != want {
		t.Errorf("the terminal shows\n%s, want\n%s", got, want)
	}
}

// Where the terminal has other modes than the client has given it, somebody else has it: it is not written to, and left as it is.
func TestHandedOverToSomebodyElse(t *testing.T) {
	h := newHarness(t, 0)
	o := newOuter(t, unix.O_WRONLY|unix.O_NONBLOCK)
	k := h.hand(o, "screen", "me")
	h.say("mine")
	o.until("mine")
	unix.IoctlSetTermios(o.p.tty.fd, unix.TCSETS, &o.saved) // as a shell does whose job was stopped
	h.say("not mine")
	if o.read(); bytes.Contains(o.seen, []byte("not")) {
		t.Errorf("it has written to a terminal that somebody else has: %q", o.seen)
	}
	o.setRaw()
	k.send([]byte{5})
	k.take(func() bool { return k.returned }, "the terminal")
	o.handOver(k)
	o.until("minenot mine")
}

// A terminal that cannot be written to without waiting is the client's to write to.
func TestHandedOverBlocks(t *testing.T) {
	h := newHarness(t, 0)
	o := newOuter(t, unix.O_WRONLY)
	k := h.hand(o, "screen", "me")
	h.say("through the client")
	k.until("through the client")
	if o.read(); len(o.seen) > 0 {
		t.Errorf("it has written %q", o.seen)
	}
}

// A viewer that may type gets the master on which it can do that; where what is typed is recorded it does not.
func TestTake(t *testing.T) {
	h := newHarness(t, 0)
	for _, c := range []struct {
		readOnly, recorded, master bool
	}{{false, false, true}, {true, false, false}, {false, true, false}} {
		if h.c.rec = nil; c.recorded {
			h.c.rec = &recorder{input: inputKeys, rows: 24, cols: 80}
		}
		k := h.attachAs(func(v *sink.Viewer) {
			v.Replay, v.Rows, v.Cols, v.Terminal, v.ReadOnly = "screen", 24, 80, true, c.readOnly
		})
		k.take(func() bool { return k.taken > 0 }, "Take")
		if k.master != c.master {
			t.Errorf("read-only %v, recorded %v: with a master %v", c.readOnly, c.recorded, k.master)
		}
		k.leave()
		h.attached.Wait()
	}
	h.c.rec = nil
}

// A successor goes on where the terminal is, to the byte, and draws the screen where that is not known.
func TestHandedOverAgain(t *testing.T) {
	mem := newMemory(sparse(t, memorySize(0)), 0)
	h := newHarnessOn(t, mem)
	o := newOuter(t, unix.O_WRONLY|unix.O_NONBLOCK)
	h.hand(o, "screen", "me")
	h.say("one ")
	o.until("one ")
	h.cancel() // it is as good as killed: it writes nothing more
	h.attached.Wait()

	next := newHarnessOn(t, mem)
	next.say("two ")
	next.hand(o, "again", "me")
	o.until("two ")
	if string(o.seen) != "one two " {
		t.Errorf("the terminal was written %q", o.seen)
	}
	next.c.mu.Lock()
	for a := range next.c.viewers {
		a.place.writing() // and nobody knows how much of it
	}
	next.c.mu.Unlock()
	next.cancel()
	next.attached.Wait()

	last := newHarnessOn(t, mem)
	last.hand(o, "again", "me")
	o.until("\x18")
	last.say("three")
	o.until("three")
	shows := screen.New(24, 80)
	shows.Write(o.seen)
	last.c.mu.Lock()
	defer last.c.mu.Unlock()
	if got, want := text(shows), text(last.c.display.model); got != want {
		t.Errorf("the terminal shows\n%s, want\n%s", got, want)
	}
}

// More terminals than there are places push out the one that came first.
func TestShownPlaces(t *testing.T) {
	m := shownMemory{make([]byte, shownSize)}
	for i := range shownPlaces + 1 {
		p := m.place(fmt.Append(nil, "viewer ", i))
		if _, known := m.shown(fmt.Append(nil, "viewer ", i)); known {
			t.Fatalf("viewer %d, who has come just now, is known", i)
		}
		p.writing()
		p.done(uint64(i))
	}
	for i := range shownPlaces + 1 {
		offset, known := m.shown(fmt.Append(nil, "viewer ", i))
		if known != (i > 0) || known && offset != uint64(i) {
			t.Errorf("viewer %d: %d, %v", i, offset, known)
		}
	}
	m.place(nil).writing()
	m.place(nil).done(7)
}
