package chaos

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"os"
	"regexp"
	"strconv"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/muxd/muxd/control/controlpb"
)

// What drops by its policy says how much is missing, where it is. What is there and what is said to be missing are the stream.

// droppedHere is what stands where something is missing.
var droppedHere = regexp.MustCompile(`^\[muxd: (\d+) bytes of stdout were dropped here\]\n$`)

// checkGaps compares lines, some of which say what is missing, with what the child wrote; dropped is what muxd has counted.
func (r *result) checkGaps(t *testing.T, out []byte, dropped uint64) {
	t.Helper()
	want := r.written(t)
	at, missing, gaps := 0, uint64(0), 0
	for line := range bytes.Lines(out) {
		if m := droppedHere.FindSubmatch(line); m != nil {
			n, _ := strconv.ParseUint(string(m[1]), 10, 63)
			at, missing, gaps = at+int(n), missing+n, gaps+1
			continue
		}
		if at > len(want) || !bytes.HasPrefix(want[at:], line) {
			t.Errorf("%s (%s, %s): behind byte %d comes %.60q, want %.60q", r.name, r.kind, r.spec, at, line, want[min(at, len(want)):])
			return
		}
		at += len(line)
	}
	if at != len(want) || missing != dropped {
		t.Errorf("%s (%s, %s): %d bytes are there or said to be missing, of %d; %d are said to be missing, and %d counted", r.name, r.kind, r.spec,
			at, len(want), missing, dropped)
	}
	t.Logf("%s (%s, %s): %d bytes, of which %d are missing in %d places", r.name, r.kind, r.spec, at, missing, gaps)
}

// written is all that the child wrote.
func (r *result) written(t *testing.T) []byte {
	t.Helper()
	text, err := os.ReadFile(r.count)
	if err != nil {
		t.Fatalf("%s: %v", r.name, err)
	}
	records, err := strconv.Atoi(string(text))
	if err != nil {
		t.Fatalf("%s: the child says %q", r.name, text)
	}
	var all []byte
	for n := range records {
		all = append(all, record(r.kind, r.seed, n)...)
	}
	return all
}

// disk is a file system that can be full.
type disk struct {
	dir  string
	size int
	full bool
}

// newDisk mounts one of so many bytes. Only root can.
func newDisk(t *testing.T, dir string, size int) *disk {
	t.Helper()
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, fmt.Sprint("size=", size)); err != nil {
		t.Logf("without a disk that is full at times: mount tmpfs: %v", err)
		return nil
	}
	t.Cleanup(func() { unix.Unmount(dir, unix.MNT_DETACH) })
	return &disk{dir: dir, size: size}
}

// toggle makes it full, or no more so.
func (d *disk) toggle(t *testing.T) {
	size := d.size
	if !d.full {
		var st unix.Statfs_t
		if err := unix.Statfs(d.dir, &st); err != nil {
			t.Fatal(err)
		}
		size = int(st.Blocks-st.Bfree) * int(st.Bsize)
	}
	switch err := unix.Mount("tmpfs", d.dir, "tmpfs", unix.MS_REMOUNT, fmt.Sprint("size=", size)); err {
	case nil:
		d.full = !d.full
	case unix.EINVAL: // somebody has just written
	default:
		t.Fatal(err)
	}
}

// acceptSlowly is accept for a peer that takes less than the child writes, until hurry is closed.
func acceptSlowly(t *testing.T, path string, hurry <-chan struct{}) *peer {
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	p := &peer{done: make(chan struct{}), exact: true}
	go func() {
		defer close(p.done)
		c, err := l.Accept()
		if err != nil {
			p.err = err
			return
		}
		defer c.Close()
		var all []byte
		b := make([]byte, 16<<10)
		for {
			n, err := c.Read(b)
			if all = append(all, b[:n]...); err != nil {
				p.conns = [][]byte{all}
				return
			}
			select {
			case <-hurry:
			case <-time.After(30 * time.Millisecond): // it paces the peer
			}
		}
	}()
	return p
}

// droppedOf is what muxd has counted as dropped of a child's output.
func droppedOf(c *controlpb.Child) (n uint64) {
	for _, s := range c.Sinks {
		n += s.Dropped
	}
	return n
}

// copiersOf counts what copies output of a child to several sinks.
func (m *muxd) copiersOf(t *testing.T, child string) (n int) {
	t.Helper()
	c, err := m.client.API.Inspect(context.Background(), &controlpb.InspectRequest{Child: child})
	if err != nil {
		t.Fatalf("inspect %s: %v", child, err)
	}
	for _, s := range c.Sinks {
		if s.Plugin == "fanout" && s.State == "open" {
			n++
		}
	}
	return n
}
