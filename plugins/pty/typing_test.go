package pty

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"testing"

	"golang.org/x/sys/unix"
)

// dead is what a process that comes to its last step panics with.
type dead struct{}

// typist is a client that types, and its console, whose processes are killed.
type typist struct {
	t     *testing.T
	tty   *os.File
	in    *master
	mem   inputMemory
	stage *os.File // muxd's copy; nil: nothing is parked
	got   []byte   // what the child has read
	steps int      // that were taken, by all processes
}

func newTypist(t *testing.T) *typist {
	t.Helper()
	p, err := openPair(24, 80)
	if err != nil {
		t.Fatal(err)
	}
	m, tty := p.release()
	modes, err := unix.IoctlGetTermios(p.tty.fd, unix.TCGETS)
	_ = modes
	_ = err
	raw, err := tty.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	raw.Control(func(n uintptr) {
		modes, err := unix.IoctlGetTermios(int(n), unix.TCGETS)
		if err != nil {
			t.Fatal(err)
		}
		modes.Lflag &^= unix.ICANON | unix.ECHO | unix.ISIG
		modes.Iflag &^= unix.ICRNL | unix.IXON
		modes.Cc[unix.VMIN], modes.Cc[unix.VTIME] = 0, 0
		if err := unix.IoctlSetTermios(int(n), unix.TCSETS, modes); err != nil {
			t.Fatal(err)
		}
	})
	y := &typist{t: t, tty: tty, mem: inputMemory{make([]byte, inputSize)}}
	masterRaw, err := m.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	masterRaw.Control(func(n uintptr) {
		if y.in, err = (&master{int(n)}).dup(); err != nil {
			t.Fatal(err)
		}
	})
	unix.SetNonblock(y.in.fd, true)
	t.Cleanup(func() {
		m.Close()
		tty.Close()
		y.in.Close()
		y.stage.Close()
	})
	return y
}

// process is a keyboard that ends at its step number last; 0: never. It may end as it begins.
func (y *typist) process(last int, live func(k *keyboard)) (ended bool) {
	y.t.Helper()
	k := &keyboard{}
	k.init(y.in, y.mem, func() (*os.File, error) {
		f, err := newStage()
		y.stage = y.dup(f)
		return f, err
	})
	n := 0
	k.step = func(string) {
		y.steps++
		if n++; n == last {
			panic(dead{})
		}
	}
	defer func() {
		k.close()
		if r := recover(); r != nil {
			if _, ok := r.(dead); !ok {
				panic(r)
			}
			ended = true
		}
	}()
	<-k.free
	if pending, err := k.inherit(y.dup(y.stage)); err != nil {
		y.t.Fatal(err)
	} else if pending {
		if err := k.settle(context.Background(), nil); err != nil {
			y.t.Fatal(err)
		}
	}
	k.give()
	live(k)
	return false
}

func (y *typist) dup(f *os.File) *os.File {
	if f == nil {
		return nil
	}
	var d int
	raw, err := f.SyscallConn()
	if err != nil {
		y.t.Fatal(err)
	}
	raw.Control(func(n uintptr) { d, err = unix.FcntlInt(n, unix.F_DUPFD_CLOEXEC, 3) })
	if err != nil {
		y.t.Fatal(err)
	}
	return os.NewFile(uintptr(d), "stage")
}

// read takes what the child can read.
func (y *typist) read() {
	buf := make([]byte, 4096)
	for {
		n, _ := y.tty.Read(buf)
		if n == 0 {
			return
		}
		y.got = append(y.got, buf[:n]...)
	}
}

// A process that is killed at any step of typing, and its successor at any step after that: what the client types again, from what was
// acknowledged on, is typed once.
func TestTypedOnce(t *testing.T) {
	name := []byte("a client")
	text := bytes.Repeat([]byte("0123456789abcdef"), 500) // two pieces
	frames := [][]byte{text[:10], text[10:6000], text[6000:]}
	for first := 1; ; first++ {
		ended := false
		for second := 0; ; second++ {
			y := newTypist(t)
			acked := uint64(0)
			client := func(k *keyboard) {
				before, _, known, err := k.before(context.Background(), name)
				if err != nil {
					t.Fatal(err)
				}
				if known {
					acked = max(acked, before)
				}
				at := uint64(0)
				for _, f := range frames {
					from, to := max(at, acked), at+uint64(len(f))
					at = to
					if from >= to {
						continue
					}
					if err := k.typed(context.Background(), name, from, f[len(f)-int(to-from):], nil, func(*unix.Termios, bool) { acked = to }); err != nil {
						t.Fatal(err)
					}
					y.read() // the child reads all the time
				}
			}
			ended = y.process(first, client)
			again := ended && second > 0 && y.process(second, client)
			y.read()
			y.process(0, client)
			y.read()
			if !bytes.Equal(y.got, text) {
				t.Fatalf("killed at step %d and then at step %d: %d bytes were typed of %d, %s", first, second, len(y.got), len(text), differ(y.got, text))
			}
			if !ended || second > 0 && !again {
				break
			}
		}
		if !ended {
			t.Logf("%d steps", first)
			return
		}
	}
}

func differ(got, want []byte) string {
	for i := range min(len(got), len(want)) {
		if got[i] != want[i] {
			return fmt.Sprintf("another at %d: %.20q, want %.20q", i, got[i:], want[i:])
		}
	}
	return "the same so far"
}

// The end of an input is typed once too, and what is typed behind it ends again.
func TestEndOfInputOnce(t *testing.T) {
	for last := 1; ; last++ {
		y := newTypist(t)
		raw, _ := y.tty.SyscallConn()
		raw.Control(func(n uintptr) {
			modes, _ := unix.IoctlGetTermios(int(n), unix.TCGETS)
			modes.Lflag |= unix.ICANON
			unix.IoctlSetTermios(int(n), unix.TCSETS, modes)
			unix.SetNonblock(int(n), true)
		})
		name := []byte("a client")
		client := func(k *keyboard) {
			if err := k.endOfInput(context.Background(), name, 0, nil); err != nil {
				t.Fatal(err)
			}
		}
		ended := y.process(last, client)
		y.process(0, client)
		ends := 0
		raw.Control(func(n uintptr) {
			buf := make([]byte, 10)
			for {
				if k, err := unix.Read(int(n), buf); k != 0 || err != nil {
					return
				}
				ends++
			}
		})
		if ends != 1 {
			t.Errorf("killed at step %d: %d ends of the input", last, ends)
		}
		if !ended {
			return
		}
	}
}

// A viewer that leaves while the child does not read: the others go on, and what it types again on another connection goes on where the
// terminal was full.
func TestTypedAndLeft(t *testing.T) {
	y := newTypist(t)
	name := []byte("left")
	text := bytes.Repeat([]byte("x"), 200_000)
	var r [2]int
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	r = fds
	client := os.NewFile(uintptr(r[0]), "client")
	console := os.NewFile(uintptr(r[1]), "console")
	defer console.Close()
	raw, err := console.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	client.Close() // it has hung up already
	y.process(0, func(k *keyboard) {
		err := k.typed(context.Background(), name, 0, text, raw, func(*unix.Termios, bool) { t.Error("it is acknowledged") })
		if err != errLeft {
			t.Errorf("the terminal is full and the viewer has left: %v", err)
		}
		if k.mem.phase() != phaseNone {
			t.Errorf("phase %d is left", k.mem.phase())
		}
		offset, _, known, err := k.before(context.Background(), name)
		if err != nil || !known {
			t.Fatalf("known %v, %v", known, err)
		}
		y.read()
		if int(offset) != len(y.got) {
			t.Errorf("%d bytes were typed, and the child has %d", offset, len(y.got))
		}
	})
}

// Of many typists those are forgotten that have not typed for longest.
func TestTypists(t *testing.T) {
	m := inputMemory{make([]byte, inputSize)}
	id := func(i int) []byte { return fmt.Appendf(nil, "client %d", i) }
	for i := range 3 * typists {
		k := m.claim(id(i), 0)
		m.record([]byte("abc"), k, 0, false)
		m.commit(3, func(string) {})
		if again := m.claim(id(0), 7); i < typists && again != 1 || again == 0 {
			t.Fatalf("the first typist is number %d after %d others", again, i)
		}
		if k = m.find(id(i)); k == 0 {
			t.Fatalf("typist %d is not known", i)
		}
		if offset, _ := m.typed(k); offset != 3 {
			t.Fatalf("typist %d has typed %d bytes", i, offset)
		}
	}
	if m.find(id(1)) != 0 || m.find(id(3*typists-2)) == 0 {
		t.Error("another one than the oldest was forgotten")
	}
	if m.claim(nil, 0) != 0 || m.find(nil) != 0 {
		t.Error("who has no name is known")
	}
}
