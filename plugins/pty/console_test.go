package pty

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/muxd/muxd/sink"
)

func TestPair(t *testing.T) {
	p, err := openPair(33, 111)
	if err != nil {
		t.Fatal(err)
	}
	defer p.close()
	size, err := unix.IoctlGetWinsize(p.tty.fd, unix.TIOCGWINSZ)
	if err != nil || size.Row != 33 || size.Col != 111 {
		t.Errorf("size %+v, %v", size, err)
	}
	modes, err := unix.IoctlGetTermios(p.tty.fd, unix.TCGETS)
	if err != nil {
		t.Fatal(err)
	}
	if modes.Iflag&unix.IUTF8 == 0 || modes.Lflag&unix.ICANON == 0 || modes.Oflag&unix.ONLCR == 0 {
		t.Errorf("modes %+v", modes)
	}
	for _, fd := range []int{p.master.fd, p.tty.fd} {
		if f, _ := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); f&unix.FD_CLOEXEC == 0 {
			t.Error("an end is not close-on-exec")
		}
		if f, _ := unix.FcntlInt(uintptr(fd), unix.F_GETFL, 0); f&unix.O_NONBLOCK != 0 {
			t.Error("an end is not blocking")
		}
	}
	if link, _ := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", p.tty.fd)); link != p.name {
		t.Errorf("the terminal is %q, and named %q", link, p.name)
	}
}

func TestExplain(t *testing.T) {
	for err, want := range map[error]string{
		unix.ENOSPC: "kernel.pty.max=N",
		unix.EMFILE: "LimitNOFILE",
		unix.ENOENT: "devpts mounted",
		unix.EACCES: "permission denied",
	} {
		if got := explain(err); !strings.Contains(got.Error(), want) || !errors.Is(got, err) {
			t.Errorf("%v: %q, want %q in it", err, got, want)
		}
	}
}

func TestCheck(t *testing.T) {
	if w, err := check(&sink.Request{Options: sink.Values{"scrollback": int64(65536)}}); err != nil || w != sink.PTY {
		t.Errorf("%v, %v", w, err)
	}
	if _, err := check(&sink.Request{Options: sink.Values{"scrollback": int64(1 << 40)}}); err == nil {
		t.Error("a terabyte of scrollback was taken")
	}
}

// A shell, as a person uses it: typing, its answer, a size, its end.
func TestShell(t *testing.T) {
	h := newHarness(t, 64<<10)
	_, finished := h.run("sh", "-i")
	k := h.attach("all", 30, 100, false)
	k.until("$ ")
	k.typeKeys("stty size; tty -s && echo is''atty\r")
	k.until("30 100\r\nisatty\r\n")
	k.resize(31, 101)
	k.typeKeys("stty size\r")
	k.until("31 101\r\n")
	k.typeKeys("exit 3\r")
	k.all()
	if !k.ended || !k.known || k.status != 3<<8 {
		t.Errorf("end %v, status known %v, %#x", k.ended, k.known, k.status)
	}
	if k.acked != k.typed {
		t.Errorf("%d bytes acknowledged, %d typed", k.acked, k.typed)
	}
	<-finished
	late := h.attach("all", 0, 0, false)
	late.all()
	if !late.ended || !strings.HasSuffix(late.drawn.String(), k.output.String()) {
		t.Errorf("a viewer after the end sees %q (end %v), the one before it %q", late.drawn.String(), late.ended, k.output.String())
	}
}

// The line discipline works: ^C interrupts the foreground job.
func TestInterrupt(t *testing.T) {
	h := newHarness(t, 64<<10)
	h.run("sh", "-c", `trap 'echo interrupted; exit 7' INT; echo ready; while :; do read x; done`)
	k := h.attach("all", 0, 0, false)
	k.until("ready")
	k.typeKeys("\x03")
	k.all()
	if !strings.Contains(k.drawn.String(), "interrupted") || k.status != 7<<8 {
		t.Errorf("%q, status %#x", k.drawn.String(), k.status)
	}
}

func TestEndOfInput(t *testing.T) {
	for _, input := range []string{"", "line\n", "line\r", "unfinished", "twice\x04"} {
		t.Run(fmt.Sprintf("%q", input), func(t *testing.T) {
			h := newHarness(t, 64<<10)
			h.run("sh", "-c", "stty -echo; echo ready; cat; echo over")
			k := h.attach("all", 0, 0, false)
			k.until("ready\r\n")
			if input != "" {
				k.typeKeys(input)
			}
			k.endInput()
			k.all()
			want := "ready\r\n" + strings.NewReplacer("\r", "\r\n", "\n", "\r\n", "\x04", "").Replace(input) + "over\r\n"
			if k.drawn.String() != want {
				t.Errorf("%q, want %q", k.drawn.String(), want)
			}
		})
	}
}

// Where the child reads keys there is no end of input, and no stray ^D.
func TestEndOfInputRaw(t *testing.T) {
	h := newHarness(t, 64<<10)
	h.run("sh", "-c", "stty raw -echo; echo ready; head -c 3 | od -An -c")
	k := h.attach("all", 0, 0, false)
	k.until("ready")
	k.typeKeys("a")
	k.endInput()
	k.typeKeys("bc")
	k.all()
	if !strings.Contains(k.drawn.String(), "a   b   c") {
		t.Errorf("%q", k.drawn.String())
	}
}

// A large paste waits for a child that reads slowly, and nothing of it is lost. Another viewer, the size and the
// output go on meanwhile.
func TestPaste(t *testing.T) {
	h := newHarness(t, 64<<10)
	h.run("sh", "-c", "stty raw -echo; echo ready; head -c 1 >/dev/null; head -c 1000000 | cksum")
	k := h.attach("all", 0, 0, false)
	k.until("ready")
	text := make([]byte, 1000001)
	rnd := rand.New(rand.NewPCG(1, 2))
	for i := range text {
		text[i] = byte(rnd.Uint32())
	}
	go func() {
		for p := text; len(p) > 0; {
			n := min(len(p), 60000)
			k.typeKeys(string(p[:n]))
			p = p[n:]
		}
	}()
	k.until(" 1000000\n") // raw: no carriage return
	k.all()
	if got := strings.Fields(strings.TrimPrefix(k.drawn.String(), "ready\n")); got[0] != fmt.Sprint(cksum(text[1:])) {
		t.Errorf("checksum %s, want %d", got[0], cksum(text[1:]))
	}
	if k.acked != uint64(len(text)) {
		t.Errorf("%d acknowledged", k.acked)
	}
}

// cksum is cksum(1).
func cksum(p []byte) uint32 {
	var crc uint32
	step := func(b byte) {
		crc ^= uint32(b) << 24
		for range 8 {
			if crc&0x80000000 != 0 {
				crc = crc<<1 ^ 0x04c11db7
			} else {
				crc <<= 1
			}
		}
	}
	for _, b := range p {
		step(b)
	}
	for n := len(p); n > 0; n >>= 8 {
		step(byte(n))
	}
	return ^crc
}

// Where the terminal's own limit for a line bites, whoever typed the line is told, and nobody else; and what is said is true.
func TestLongLine(t *testing.T) {
	h := newHarness(t, 64<<10)
	h.run("sh", "-c", "stty -echo; echo ready; read x; echo ${#x}; read x; echo ${#x}; stty -icanon; echo raw; head -c 5000 | wc -c")
	other := h.attach("all", 0, 0, false)
	k := h.attach("all", 0, 0, false)
	k.until("ready")
	k.typeKeys(strings.Repeat("x", lineMost) + "\r")
	k.until("4095\r\n")
	if len(k.notes) != 0 {
		t.Errorf("a line of %d bytes: %q", lineMost, k.notes)
	}
	for range 6 {
		k.typeKeys(strings.Repeat("x", 1000))
	}
	k.typeKeys("\r")
	k.until("4095\r\nraw")
	k.typeKeys(strings.Repeat("x", 5000))
	k.all()
	if !strings.HasSuffix(k.drawn.String(), "5000\r\n") || len(k.notes) != 1 || k.notes[0] != lineNotice {
		t.Errorf("notices %q, output %q", k.notes, k.drawn.String())
	}
	if other.all(); len(other.notes) != 0 {
		t.Errorf("another viewer is told %q", other.notes)
	}
}

func TestLine(t *testing.T) {
	modes := unix.Termios{Lflag: unix.ICANON, Iflag: unix.ICRNL}
	modes.Cc[unix.VERASE], modes.Cc[unix.VKILL], modes.Cc[unix.VEOF] = 0x7f, 0x15, 4
	for _, c := range []struct {
		text string
		lost bool
	}{
		{strings.Repeat("x", lineMost), false},
		{strings.Repeat("x", lineMost) + "\r", false},
		{strings.Repeat("x", lineMost+1), true},
		{strings.Repeat("x", lineMost) + "\r" + strings.Repeat("x", lineMost), false},
		{strings.Repeat("x", lineMost) + "\x15" + strings.Repeat("x", lineMost), false},
		{strings.Repeat("x", lineMost) + "\x04" + strings.Repeat("x", lineMost), false},
		{strings.Repeat("x", lineMost) + "\x7f\x7fxx", false},
		{strings.Repeat("x", lineMost) + "\x7fxx", true},
	} {
		var whole, split line
		lost := false
		for i := range len(c.text) {
			lost = split.typed(&modes, []byte(c.text[i:i+1])) || lost
		}
		if got := whole.typed(&modes, []byte(c.text)); got != c.lost || lost != c.lost {
			t.Errorf("%.3q... of %d bytes: %v, byte by byte %v, want %v", c.text[lineMost-3:], len(c.text), got, lost, c.lost)
		}
	}
}

// A viewer that leaves while the child takes nothing is gone, though a paste of its was being written.
func TestLeaveInPaste(t *testing.T) {
	h := newHarness(t, 64<<10)
	h.run("sh", "-c", "stty raw -echo; echo ready; kill -STOP $$; head -c 3 | od -An -c")
	k := h.attach("all", 0, 0, false)
	k.until("ready")
	for range 3 {
		k.typeKeys(strings.Repeat("x", 60000))
	}
	k.leave()
	within(t, 20*time.Second, "leaving", h.attached.Wait)
	if n := h.viewers(); n != 0 {
		t.Errorf("%d viewers", n)
	}
}

// What was typed just before the viewer left is typed.
func TestTypeAndLeave(t *testing.T) {
	h := newHarness(t, 64<<10)
	_, finished := h.run("sh", "-c", "read x; exit $x")
	k := h.attach("all", 0, 0, false)
	k.typeKeys("1")
	k.typeKeys("2\r")
	k.leave()
	within(t, 20*time.Second, "the child", func() { <-finished })
	if s, _ := h.exit(); s != 12<<8 {
		t.Errorf("status %#x", s)
	}
}

func TestReadOnly(t *testing.T) {
	h := newHarness(t, 64<<10)
	h.run("sh", "-c", "echo ready; read x; echo got $x; stty size")
	r := h.attach("all", 5, 5, true)
	w := h.attach("all", 0, 0, false)
	r.until("ready")
	r.typeKeys("no\r")
	r.resize(6, 6)
	for len(r.notes) == 0 && r.frame() {
	}
	w.typeKeys("yes\r")
	r.all()
	if len(r.notes) != 1 || !strings.Contains(r.notes[0], "read-only") {
		t.Errorf("notices: %q", r.notes)
	}
	if !strings.Contains(r.drawn.String(), "got yes\r\n24 80\r\n") {
		t.Errorf("%q", r.drawn.String())
	}
}

// Each policy's size, as viewers come, type, resize and leave.
func TestSizing(t *testing.T) {
	for policy, want := range map[string][]string{
		//            a comes  b comes  a types  b resizes  c comes  a leaves c types  b leaves c leaves
		"":           {"30x90", "20x99", "30x90", "25x70", "25x70", "25x70", "25x70", "25x70", "25x70"},
		sizeLatest:   {"30x90", "20x99", "30x90", "25x70", "25x70", "25x70", "25x70", "25x70", "25x70"},
		sizeSmallest: {"30x90", "20x90", "20x90", "25x70", "25x70", "25x70", "25x70", "25x70", "25x70"},
		sizeLeader:   {"30x90", "30x90", "30x90", "30x90", "30x90", "25x70", "25x70", "25x70", "25x70"},
		sizeFixed:    {"24x80", "24x80", "24x80", "24x80", "24x80", "24x80", "24x80", "24x80", "24x80"},
	} {
		s := sizing{policy: policy}
		now := "24x80"
		see := func(rows, cols int) {
			if rows > 0 {
				now = fmt.Sprintf("%dx%d", rows, cols)
			}
		}
		var a, b, c attached // c is a program, without a terminal
		for i, step := range []func(){
			func() { see(s.sized(&a, 30, 90)) }, func() { see(s.sized(&b, 20, 99)) }, func() { see(s.typed(&a)) },
			func() { see(s.sized(&b, 25, 70)) }, func() { see(s.sized(&c, 0, 0)) }, func() { see(s.left(&a)) },
			func() { see(s.typed(&c)) }, func() { see(s.left(&b)) }, func() { see(s.left(&c)) },
		} {
			if step(); now != want[i] {
				t.Errorf("%s, step %d: %s, want %s", policy, i, now, want[i])
			}
		}
	}
	// What is set by hand stays until a viewer does something that counts.
	s := sizing{policy: sizeSmallest}
	var a, b attached
	s.sized(&a, 30, 90)
	s.sized(&b, 20, 70)
	if rows, cols := s.typed(&a); rows != 0 || cols != 0 {
		t.Errorf("typing resizes to %dx%d", rows, cols)
	}
}

// The size of the viewer that said something last is the console's.
func TestSizePolicy(t *testing.T) {
	h := newHarness(t, 64<<10)
	h.run("sh", "-c", "stty -echo; echo ready; while read x; do stty size; done")
	want := func(rows, cols int) {
		t.Helper()
		if r, c := h.c.Size(); r != rows || c != cols {
			t.Errorf("%dx%d, want %dx%d", r, c, rows, cols)
		}
	}
	a := h.attach("all", 10, 20, false)
	a.until("ready")
	want(10, 20)
	b := h.attach("none", 11, 21, false)
	b.frame()
	want(11, 21)
	a.typeKeys("\r")
	a.until("10 20\r\n")
	b.resize(0, 0) // no size
	b.typeKeys("\r")
	b.until("11 21\r\n")
	none := h.attach("none", 0, 0, false)
	none.typeKeys("\r")
	none.until("11 21\r\n")
	if err := h.c.Resize(40, 50); err != nil {
		t.Fatal(err)
	}
	want(40, 50)
	if err := h.c.Resize(0, 50); err == nil {
		t.Error("0x50 was taken")
	}
}

// Whoever asks for the output since an offset gets it as it was, or from the oldest that is kept on, and is told when that was all.
func TestSince(t *testing.T) {
	h := newHarness(t, 4096)
	h.run("sh", "-c", "stty -echo; seq 20000; echo ready; read x; echo more; read x")
	k := h.attach("since=0", 0, 0, false)
	k.until("ready")
	whole := k.next
	for _, c := range []struct{ since, first uint64 }{
		{whole - 100, whole - 100},
		{whole, whole},
		{0, whole - pastLeast},
		{whole + 1, whole},
	} {
		v := h.attach(fmt.Sprintf("since=%d", c.since), 0, 0, true)
		for len(v.ready) == 0 && v.frame() {
		}
		if v.first != c.first || v.next != whole || len(v.drawn.String()) != int(whole-c.first) || v.ready[0] != whole {
			t.Errorf("since %d of %d: %d to %d, %d bytes, ready at %v", c.since, whole, v.first, v.next, v.drawn.Len(), v.ready)
		}
		v.leave()
	}
	v := h.attach("screen", 0, 0, true)
	k.typeKeys("\r")
	v.until("more")
	for len(v.ready) == 0 && v.frame() {
	}
	if len(v.ready) != 1 || v.ready[0] < whole {
		t.Errorf("ready at %v, want once, at %d or later", v.ready, whole)
	}
}

// Viewers attach at any time to a console that never stops writing, and see every byte of it once, in order.
func TestNoGapNoRepeat(t *testing.T) {
	const viewers = 10
	h := newHarness(t, 1<<20)
	_, finished := h.run("sh", "-c", "read x; seq 1 40000; read x; seq 40001 60000")
	first := h.attach("none", 0, 0, false)
	first.typeKeys("\r")
	var group sync.WaitGroup
	clients := make([]*client, viewers)
	for i := range clients {
		// Each attaches when the first one has seen a number of frames of its own.
		for range rand.IntN(6) {
			first.frame()
		}
		for i%4 == 3 && first.next <= 7 {
			first.frame()
		}
		clients[i] = h.attach([]string{"all", "lines=100", "none", "from=7"}[i%4], 0, 0, false)
	}
	first.until("\r\n40000\r\n")
	first.typeKeys("\r")
	for _, k := range append(clients, first) {
		group.Go(k.all)
	}
	group.Wait()
	<-finished
	whole := first.drawn.String()
	if !strings.Contains(whole, "\r\n60000\r\n") || !strings.Contains(whole, "1\r\n2\r\n3\r\n") {
		t.Fatalf("the first viewer has %d bytes, without beginning or end", len(whole))
	}
	for i, k := range clients {
		got := k.drawn.String()
		if !strings.HasSuffix(whole, got) {
			t.Errorf("viewer %d (%d bytes) did not see the last of the first one's %d bytes: it began %.40q", i, len(got), len(whole), got)
		}
		if len(k.notes) != 0 {
			t.Errorf("viewer %d: %q", i, k.notes)
		}
		switch i % 4 {
		case 0:
			if got != whole {
				t.Errorf("viewer %d asked for all and got %d of %d", i, len(got), len(whole))
			}
		case 3:
			if k.first != 7 || got != whole[7:] {
				t.Errorf("viewer %d asked for what is behind 7 and got it from %d", i, k.first)
			}
		}
	}
}

// A viewer that does not read holds up nobody, is told what it missed, and sees the end.
func TestSlowViewer(t *testing.T) {
	h := newHarness(t, 32<<10)
	h.run("sh", "-c", "read x; seq 1 400000; read x; echo the end")
	slow := h.attach("none", 0, 0, false)
	quick := h.attach("none", 0, 0, false)
	quick.typeKeys("\r")
	quick.until("\r\n400000\r\n")
	for !strings.HasSuffix(slow.drawn.String(), "\r\n400000\r\n") {
		if !slow.frame() {
			t.Fatal("the slow viewer does not get to the present")
		}
	}
	skipped := false
	for _, n := range slow.notes {
		skipped = skipped || strings.Contains(n, "reads too slowly")
	}
	if !skipped {
		t.Errorf("it was not told: %q", slow.notes)
	}
	if !strings.Contains(slow.drawn.String(), cancelSequence) {
		t.Error("it was not brought out of the sequence in which it lost the output")
	}
	lines := strings.Split(slow.drawn.String(), "\r\n")
	if len(lines) > 395000 {
		t.Errorf("%d lines came: it was not slow", len(lines))
	}
	quick.typeKeys("\r")
	slow.all()
	quick.all()
	if !slow.ended || !strings.HasSuffix(slow.drawn.String(), "400000\r\n\r\nthe end\r\n") || slow.next != quick.next {
		t.Errorf("end %v, at %d (the other at %d): %q", slow.ended, slow.next, quick.next,
			slow.drawn.String()[max(0, slow.drawn.Len()-40):])
	}
}

// A viewer that never reads delays the end of the console by the grace time and no more, and ctx ends it sooner.
func TestEndWithStuckViewer(t *testing.T) {
	h := newHarness(t, 32<<10)
	stuck := h.attach("none", 0, 0, false)
	p := make([]byte, 32<<10)
	var off uint64
	for range 20 {
		h.c.Write(h.ctx, &sink.Chunk{Offset: off, Data: p})
		off += uint64(len(p))
	}
	ctx, cancel := context.WithCancelCause(context.Background())
	why := errors.New("given up")
	cancel(why)
	if err := h.c.Write(ctx, &sink.Chunk{Offset: off, Last: true}); !errors.Is(err, why) {
		t.Errorf("Write after ctx is done: %v", err)
	}
	begin := time.Now()
	if err := h.c.Write(context.Background(), &sink.Chunk{Offset: off, Last: true}); err != nil {
		t.Error(err)
	}
	if d := time.Since(begin); d < endGrace || d > endGrace+5*time.Second {
		t.Errorf("it took %v", d)
	}
	stuck.all()
	if !stuck.ended || stuck.known || stuck.next != off {
		t.Errorf("end %v (status known %v) at %d, want %d", stuck.ended, stuck.known, stuck.next, off)
	}
}

// Chunks longer than a frame and than the scrollback reach a viewer that keeps up.
func TestBigChunks(t *testing.T) {
	for _, scrollback := range []int{0, 1000, 64 << 10} {
		h := newHarness(t, scrollback)
		k := h.attach("none", 0, 0, false)
		p := []byte(strings.Repeat("0123456789", 15000))
		h.c.Write(h.ctx, &sink.Chunk{Data: p})
		for k.next < uint64(len(p)) && k.frame() {
		}
		if k.drawn.String() != string(p) {
			t.Errorf("scrollback %d: %d of %d bytes", scrollback, k.drawn.Len(), len(p))
		}
	}
}

func TestWriteAllocations(t *testing.T) {
	h := newHarness(t, 64<<10)
	k := h.attach("none", 0, 0, false)
	chunk := &sink.Chunk{Data: make([]byte, 8<<10)}
	write := func() {
		h.c.Write(h.ctx, chunk)
		chunk.Offset += uint64(len(chunk.Data))
		k.frame()
	}
	for range 20 {
		write()
	}
	// The client of this test allocates too: its buffer and what it has drawn. So only the console is counted.
	k.leave()
	h.attached.Wait()
	if n := testing.AllocsPerRun(100, func() {
		h.c.Write(h.ctx, chunk)
		chunk.Offset += uint64(len(chunk.Data))
	}); n != 0 {
		t.Errorf("%v allocations a chunk", n)
	}
}

// Attach returns when ctx is done, and with bad requests, and the viewer is told.
func TestAttachEnds(t *testing.T) {
	h := newHarness(t, 1000)
	k := h.attach("all", 0, 0, false)
	h.cancel()
	k.all()
	h.attached.Wait()
	if k.ended || h.viewers() != 0 {
		t.Errorf("end %v, %d viewers", k.ended, h.viewers())
	}

	p, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	v, err := sink.NewViewer(os.NewFile(uintptr(p[0]), "viewer"))
	if err != nil {
		t.Fatal(err)
	}
	v.Replay = "everything"
	if err := h.c.Attach(context.Background(), v); err == nil {
		t.Error("replay=everything was taken")
	}
	v.Close()
	bad := &client{t: t, s: p[1]}
	defer bad.leave()
	bad.all()
	if len(bad.notes) != 1 || !strings.Contains(bad.notes[0], "lines=N") {
		t.Errorf("notices %q", bad.notes)
	}
}

// A viewer that is to miss nothing holds the output up while it does not read, and then has all of it.
func TestHold(t *testing.T) {
	h := newHarness(t, 4<<10)
	k := h.attachAs(func(v *sink.Viewer) { v.Hold = true })
	_, finished := h.run("sh", "-c", "stty -opost; yes 0123456789 | head -c 2000000")
	k.all()
	<-finished
	if got := k.drawn.String(); len(got) != 2000000 || strings.Trim(got, "0123456789\n") != "" {
		t.Errorf("%d bytes, want 2000000", len(got))
	}
	if len(k.notes) > 0 {
		t.Errorf("notes %q", k.notes)
	}
}
