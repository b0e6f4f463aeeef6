package pty

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"strings"
	"sync/atomic"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/muxd/muxd/plugins/pty/screen"
)

// What the test and the processes that it kills share: a console's memory, behind a page in which the SDK's part is
// played: how many chunks have been committed.
const killScrollback = 8 << 10

type victim struct {
	mem       memory
	committed *atomic.Uint64
}

func openVictim(t *testing.T, fd int) victim {
	t.Helper()
	size := os.Getpagesize() + memorySize(killScrollback)
	b, err := unix.Mmap(fd, 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Munmap(b) })
	return victim{newMemory(b[os.Getpagesize():], killScrollback), (*atomic.Uint64)(unsafe.Pointer(&b[0]))}
}

// killChunk is chunk number n, with the size that the terminal has then.
func killChunk(n uint64) (p []byte, rows, cols int) {
	r := rand.New(rand.NewPCG(n, 3))
	for range r.IntN(12) {
		switch r.IntN(8) {
		case 0:
			p = fmt.Appendf(p, "\x1b[%d;%dH", r.IntN(30), r.IntN(90))
		case 1:
			p = fmt.Appendf(p, "\x1b[3%d;48;5;%dm", r.IntN(8), r.IntN(256))
		case 2:
			p = append(p, []string{"\x1b[?1049h", "\x1b[?1049l", "\x1b[2J", "\x1b[5;20r", "\x1b[r", "\x1b7", "\x1b8", "\x1b[3J", "\x1b[", "\x1b]2;", "漢", "\xe6\xbc"}[r.IntN(12)]...)
		case 3:
			p = append(p, strings.Repeat("long ", r.IntN(400))...)
		default:
			p = fmt.Appendf(p, "line %d of chunk %d\r\n", r.IntN(100), n)
		}
	}
	n /= 50
	return p, 24 + int(n%3), 80 + int(n%4)
}

// follow has d go on with chunk n, whose first byte has that offset, and returns the offset behind it.
func follow(d *display, n, offset uint64) uint64 {
	p, rows, cols := killChunk(n)
	d.resize(rows, cols)
	d.write(offset, p)
	return offset + uint64(len(p))
}

// A process that is killed again and again as it shows output: what its successor makes of the memory is, after the chunk that
// comes again, what it would be if nobody had been killed.
func TestKilled(t *testing.T) {
	if os.Getenv("PTY_VICTIM") != "" {
		beKilled(t)
	}
	fd, err := unix.MemfdCreate("muxd-test", unix.MFD_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	shared := os.NewFile(uintptr(fd), "memory")
	defer shared.Close()
	if err := unix.Ftruncate(fd, int64(os.Getpagesize()+memorySize(killScrollback))); err != nil {
		t.Fatal(err)
	}
	nobody := func(uint64, screen.Query) {}
	v := openVictim(t, fd)
	ref := newDisplay(newMemory(sparse(t, memorySize(killScrollback)), killScrollback), 24, 80, nobody)
	var done, offset uint64
	for kill := 0; kill < 80 || done < 1000; kill++ { // over so many chunks at least, however slow the machine is
		cmd := exec.Command(os.Args[0], "-test.run=^TestKilled$")
		cmd.Env = append(os.Environ(), "PTY_VICTIM=1")
		cmd.ExtraFiles = []*os.File{shared}
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		if _, err := out.Read(make([]byte, 1)); err != nil { // it is at work
			t.Fatal(err)
		}
		time.Sleep(time.Duration(rand.IntN(5000)) * time.Microsecond)
		cmd.Process.Kill()
		cmd.Wait()

		again := newDisplay(v.mem, 24, 80, nobody)
		n := v.committed.Load()
		for ; done < n; done++ {
			offset = follow(ref, done, offset)
		}
		if end := v.mem.past.end(); end < offset {
			t.Fatalf("kill %d: %d bytes are kept, and %d were committed", kill, end, offset)
		}
		follow(again, n, offset)
		offset = follow(ref, done, offset)
		done++
		v.committed.Store(done)
		for what, of := range map[string]func(d *display) []byte{
			"screen":     func(d *display) []byte { return d.model.AppendCheckpoint(nil) },
			"scrollback": func(d *display) []byte { return fmt.Appendf(nil, "%d %s", d.mem.lines.start(), d.mem.lines.text()) },
			"output":     func(d *display) []byte { return fmt.Appendf(nil, "%d %s", d.mem.past.start(), d.mem.past.text()) },
		} {
			if got, want := of(again), of(ref); !bytes.Equal(got, want) {
				t.Fatalf("kill %d, chunk %d: the %s differs: %d bytes, want %d", kill, n, what, len(got), len(want))
			}
		}
	}
}

// beKilled goes on where the process before it was killed, until it is killed itself.
func beKilled(t *testing.T) {
	v := openVictim(t, 3)
	d := newDisplay(v.mem, 24, 80, func(uint64, screen.Query) {})
	offset := uint64(0)
	for n := range v.committed.Load() {
		p, _, _ := killChunk(n)
		offset += uint64(len(p))
	}
	os.Stdout.Write([]byte{'.'})
	for n := v.committed.Load(); ; n++ {
		offset = follow(d, n, offset)
		v.committed.Store(n + 1)
	}
}
