package pty

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"github.com/muxd/muxd/sink"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// harness is a console with what the SDK does for one: it reads the master and calls Write.
type harness struct {
	t   *testing.T
	c   *consoleSink
	tty *os.File // the terminal side, kept open

	ctx      context.Context
	cancel   context.CancelFunc
	attached sync.WaitGroup

	mu     sync.Mutex
	status uint32
	known  bool
}

func newHarness(t *testing.T, scrollback int) *harness {
	t.Helper()
	return newHarnessOn(t, newMemory(sparse(t, memorySize(scrollback)), scrollback))
}

// newHarnessOn is newHarness with that memory, which may be a predecessor's.
func newHarnessOn(t *testing.T, mem memory) *harness {
	t.Helper()
	before := openFiles(t)
	p, err := openPair(24, 80)
	if err != nil {
		t.Fatal(err)
	}
	in, err := p.master.dup()
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.SetNonblock(in.fd, true); err != nil { // as the SDK does
		t.Fatal(err)
	}
	h := &harness{t: t}
	h.ctx, h.cancel = context.WithCancel(context.Background())
	if h.c, err = newConsole(in, mem, h.exit); err != nil {
		t.Fatal(err)
	}
	m, tty := p.release()
	h.tty = tty
	t.Cleanup(func() {
		h.cancel()
		h.attached.Wait()
		h.tty.Close()
		m.Close()
		if err := h.c.Close(); err != nil {
			t.Error(err)
		}
		if after := openFiles(t); after != before && !t.Failed() {
			t.Errorf("%d descriptors are open, %d were", after, before)
		}
	})
	return h
}

// sparse is memory that costs nothing before it is touched.
func sparse(t testing.TB, size int) []byte {
	t.Helper()
	b, err := unix.Mmap(-1, 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE|unix.MAP_NORESERVE)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Munmap(b) })
	return b
}

func (h *harness) exit() (uint32, bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.status, h.known
}

// run starts a program on the terminal. finished is closed when all it wrote has been through Write, the last
// chunk too.
func (h *harness) run(args ...string) (cmd *exec.Cmd, finished <-chan struct{}) {
	h.t.Helper()
	cmd = exec.Command(args[0], args[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = h.tty, h.tty, h.tty
	cmd.Env = append(os.Environ(), "PS1=$ ", "HISTFILE=", "TERM=dumb")
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	if err := cmd.Start(); err != nil {
		h.t.Fatal(err)
	}
	h.tty.Close()
	done := make(chan struct{})
	go func() {
		defer close(done)
		h.pumpOutput(cmd)
	}()
	h.t.Cleanup(func() {
		cmd.Process.Kill()
		<-done
	})
	return cmd, done
}

// pumpOutput is the SDK's loop: poll, read, Write, until the terminal side has no holder (EIO).
func (h *harness) pumpOutput(cmd *exec.Cmd) {
	buf := make([]byte, 32<<10)
	var off uint64
	for {
		n, err := h.c.in.Read(buf)
		if errors.Is(err, unix.EAGAIN) {
			unix.Poll([]unix.PollFd{{Fd: int32(h.c.in.fd), Events: unix.POLLIN}}, -1)
			continue
		}
		if err != nil {
			break
		}
		h.c.Write(h.ctx, &sink.Chunk{Stream: sink.Console, Offset: off, Data: buf[:n]})
		off += uint64(n)
	}
	cmd.Wait()
	h.mu.Lock()
	h.status, h.known = uint32(cmd.ProcessState.Sys().(syscall.WaitStatus)), true
	h.mu.Unlock()
	if err := h.c.Write(h.ctx, &sink.Chunk{Stream: sink.Console, Offset: off, Last: true}); err != nil {
		h.t.Errorf("last chunk: %v", err)
	}
}

// client is a viewer's other end, which speaks the bytes of PROTOCOL.md by itself.
type client struct {
	t      *testing.T
	s      int
	left   bool
	typed  uint64
	drawn  strings.Builder // replay and output
	output strings.Builder // output only
	next   uint64          // the offset behind the output so far
	told   bool
	first  uint64 // the first output offset
	notes  []string
	acked  uint64
	ready  []uint64 // the offsets of Ready frames
	ended  bool
	known  bool
	status uint32

	taken      int  // Take frames
	master     bool // the last of which had a master
	restore    string
	returned   bool
	unfinished bool
}

func (h *harness) attach(replay string, rows, cols int, readOnly bool) *client {
	h.t.Helper()
	return h.attachAs(func(v *sink.Viewer) { v.Replay, v.Rows, v.Cols, v.ReadOnly = replay, rows, cols, readOnly })
}

// attachAs attaches a viewer that set has set up.
func (h *harness) attachAs(set func(v *sink.Viewer)) *client {
	h.t.Helper()
	p, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		h.t.Fatal(err)
	}
	v, err := sink.NewViewer(os.NewFile(uintptr(p[0]), "viewer"))
	if err != nil {
		h.t.Fatal(err)
	}
	set(v)
	k := &client{t: h.t, s: p[1]}
	before := h.viewers()
	over := make(chan struct{})
	h.attached.Go(func() {
		defer v.Close()
		defer close(over)
		if err := h.c.Attach(h.ctx, v); err != nil {
			h.t.Errorf("attach: %v", err)
		}
	})
	if before == 0 {
		k.frame() // the first frame comes when it is attached
	}
	h.there(v, over)
	h.t.Cleanup(k.leave)
	return k
}

// there returns when the console has v among its viewers, or v's Attach is over: what is written from then on, v sees as output.
func (h *harness) there(v *sink.Viewer, over <-chan struct{}) {
	for {
		h.c.mu.Lock()
		for a := range h.c.viewers {
			if a.v == v {
				h.c.mu.Unlock()
				return
			}
		}
		h.c.mu.Unlock()
		select {
		case <-over:
			return
		case <-time.After(100 * time.Microsecond): // nothing else tells
		}
	}
}

func (k *client) leave() {
	if !k.left {
		k.left = true
		unix.Close(k.s)
	}
}

func (k *client) send(b []byte) {
	if err := unix.Send(k.s, b, unix.MSG_NOSIGNAL); err != nil {
		k.t.Errorf("client: %v", err)
	}
}

func (k *client) typeKeys(s string) {
	k.send(append(binary.BigEndian.AppendUint64([]byte{1}, k.typed), s...))
	k.typed += uint64(len(s))
}

func (k *client) resize(rows, cols uint16) {
	k.send(binary.BigEndian.AppendUint16(binary.BigEndian.AppendUint16([]byte{2}, rows), cols))
}

func (k *client) endInput() { k.send([]byte{3}) }

// frame takes one frame; false at the end of the connection or after 20 s.
func (k *client) frame() bool {
	n, err := unix.Poll([]unix.PollFd{{Fd: int32(k.s), Events: unix.POLLIN}}, 20000)
	if n == 0 || err != nil && !errors.Is(err, unix.EINTR) {
		k.t.Errorf("client: nothing comes (%v); so far: %.200q", err, k.drawn.String())
		return false
	}
	b, oob, oobn := make([]byte, 70000), make([]byte, 64), 0
	if n, oobn, _, _, err = unix.Recvmsg(k.s, b, oob, unix.MSG_CMSG_CLOEXEC); errors.Is(err, unix.ECONNRESET) {
		n, oobn, _, _, err = unix.Recvmsg(k.s, b, oob, unix.MSG_CMSG_CLOEXEC)
	}
	descriptors := received(oob[:max(oobn, 0)])
	if err != nil || n == 0 {
		return false
	}
	switch p := b[1:n]; b[0] {
	case 0x81:
		off := binary.BigEndian.Uint64(p)
		if k.told && off != k.next {
			k.notes = append(k.notes, fmt.Sprintf("jump from %d to %d", k.next, off))
		}
		if !k.told {
			k.first = off
		}
		k.told, k.next = true, off+uint64(len(p)-8)
		k.drawn.Write(p[8:])
		k.output.Write(p[8:])
	case 0x82:
		k.acked = binary.BigEndian.Uint64(p)
	case 0x83:
		k.drawn.Write(p)
	case 0x84:
		k.notes = append(k.notes, string(p))
	case 0x85:
		k.ended, k.known, k.status = true, p[0] == 1, binary.BigEndian.Uint32(p[1:])
	case 0x86:
		k.ready = append(k.ready, binary.BigEndian.Uint64(p))
	case 0x87:
		k.taken++
		k.master = len(descriptors) == 1
	case 0x88:
		k.returned, k.unfinished, k.restore = p[0]&1 != 0, p[0]&2 != 0, string(p[1:])
	default:
		k.t.Errorf("client: frame of type %#x", b[0])
	}
	return true
}

// received closes the descriptors that came with a packet.
func received(oob []byte) (fds []int) {
	messages, _ := unix.ParseSocketControlMessage(oob)
	for i := range messages {
		if more, err := unix.ParseUnixRights(&messages[i]); err == nil {
			fds = append(fds, more...)
		}
	}
	for _, fd := range fds {
		unix.Close(fd)
	}
	return fds
}

// until takes frames until what is drawn contains text.
func (k *client) until(text string) {
	k.t.Helper()
	for !strings.Contains(k.drawn.String(), text) {
		if !k.frame() {
			k.t.Fatalf("the connection ended before %q came: %q", text, k.drawn.String())
		}
	}
}

// all takes frames to the end of the connection.
func (k *client) all() {
	for k.frame() {
	}
}

func openFiles(t *testing.T) int {
	t.Helper()
	d, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(d)
}

// within fails the test where f does not return in time.
func within(t *testing.T, d time.Duration, what string, f func()) {
	t.Helper()
	done := make(chan struct{})
	go func() { defer close(done); f() }()
	select {
	case <-done:
	case <-time.After(d):
		t.Fatalf("%s takes longer than %v", what, d)
	}
}

// viewers is how many viewers are attached.
func (h *harness) viewers() int {
	h.c.mu.Lock()
	defer h.c.mu.Unlock()
	return len(h.c.viewers)
}
