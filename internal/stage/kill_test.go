package stage

import (
	"bufio"
	"context"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/muxd/muxd/internal/fd"
	"github.com/muxd/muxd/internal/fdchan"
)

// The reader of TestKilledReader: this binary again, with these descriptors and then what was parked, which parkedEnv lists.
const (
	readerEnv = "STAGE_TEST_READER" // the sources' number
	parkedEnv = "STAGE_TEST_PARKED"
	readerFDs = 3
)

func TestMain(m *testing.M) {
	if os.Getenv(readerEnv) != "" {
		if err := reader(); err != nil {
			fmt.Fprintln(os.Stderr, "reader:", err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// appender is a handler that appends to a file which nobody else writes.
type appender struct {
	out  *os.File
	done chan error
}

func (a *appender) Chunk(c *Chunk) error {
	st, err := a.out.Stat()
	if err != nil {
		return err
	}
	var from int64
	if mark := c.Slot.Intent(); c.Again && mark != nil {
		from = st.Size() - int64(binary.LittleEndian.Uint64(mark))
	} else {
		c.Slot.SetIntent(binary.LittleEndian.AppendUint64(nil, uint64(st.Size())))
	}
	_, err = a.out.Write(c.Data[from:])
	return err
}

func (a *appender) Held(error) {}

func (a *appender) Eof(uint64)               {}
func (a *appender) Done(_ uint64, err error) { a.done <- err }

// reader reads its sources to their ends.
func reader() error {
	var n int
	fmt.Sscan(os.Getenv(readerEnv), &n)
	next := readerFDs
	take := func() *fd.FD { next++; return fd.New(next - 1) }
	conn, err := fdchan.New(take())
	if err != nil {
		return err
	}
	ep := fdchan.NewEndpoint(conn, nil)
	var sources, outs []*fd.FD
	for range n {
		sources = append(sources, take())
		outs = append(outs, take())
	}
	parked := map[string][]*fd.FD{}
	for _, item := range strings.Fields(os.Getenv(parkedEnv)) {
		name, count, _ := strings.Cut(item, ":")
		var k int
		fmt.Sscan(count, &k)
		for range k {
			parked[name] = append(parked[name], take())
		}
	}
	e, err := New(Options{
		Parked: parked,
		Park: func(name string, fds ...int) error {
			return ep.Park(context.Background(), name, fds...)
		},
	})
	if err != nil {
		return err
	}
	var all []*appender
	for i := range n {
		a := &appender{out: outs[i].File("out"), done: make(chan error, 1)}
		all = append(all, a)
		if _, err := e.Add(sources[i], fmt.Sprint("source ", i), a); err != nil {
			return err
		}
	}
	for _, a := range all {
		if err := <-a.done; err != nil {
			return err
		}
	}
	return nil
}

// keeperOf holds what a reader parks, as muxd's keeper does.
type keeperOf struct {
	mu     sync.Mutex
	parked map[string][]*fd.FD
}

func (k *keeperOf) park(name string, fds []*fd.FD) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	fd.CloseAll(k.parked[name])
	k.parked[name] = nil
	for _, f := range fds {
		d, err := f.Dup()
		if err != nil {
			return err
		}
		k.parked[name] = append(k.parked[name], d)
	}
	return nil
}

// A reader that is killed again and again loses and doubles nothing of pipes and of a terminal.
func TestKilledReader(t *testing.T) {
	const pipes, kills = 3, 60
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	k := &keeperOf{parked: map[string][]*fd.FD{}}
	defer func() {
		for _, fds := range k.parked {
			fd.CloseAll(fds)
		}
	}()
	stop := make(chan struct{})
	var files, outs []*os.File
	var writers sync.WaitGroup
	wrote := make([]int, pipes+1)
	for i := range pipes + 1 {
		r, w, err := source(i == pipes)
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		out, err := os.OpenFile(fmt.Sprintf("%s/out%d", t.TempDir(), i), os.O_CREATE|os.O_RDWR|os.O_APPEND, 0o600)
		if err != nil {
			t.Fatal(err)
		}
		defer out.Close()
		files, outs = append(files, r, out), append(outs, out)
		seed := random.Uint64()
		writers.Go(func() {
			defer w.Close()
			wrote[i] = writeLines(w, rand.New(rand.NewPCG(seed, 1)), stop)
		})
	}
	killed := 0
	for last := false; ; {
		cmd, ep := startReader(t, k, files)
		if !last {
			time.Sleep(time.Duration(random.IntN(25000)) * time.Microsecond) // when the kill comes, not a wait for anything
			cmd.Process.Kill()
			killed++
		}
		err := cmd.Wait()
		ep.Close()
		if last {
			if err != nil {
				t.Fatalf("the last reader: %v", err)
			}
			break
		}
		if cmd.ProcessState.Exited() && !cmd.ProcessState.Success() {
			t.Fatalf("a reader: %v", err)
		}
		if killed == kills {
			close(stop)
			last = true
		}
	}
	writers.Wait()
	for i, out := range outs {
		if got := checkLines(t, out); got != wrote[i] {
			t.Errorf("stream %d: %d lines, wrote %d", i, got, wrote[i])
		}
	}
	t.Logf("%d kills, lines %v", killed, wrote)
}

// source makes a pipe, or a raw terminal.
func source(pty bool) (r, w *os.File, err error) {
	if !pty {
		return os.Pipe()
	}
	r, err = os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		return nil, nil, err
	}
	f, err := fd.DupFile(r)
	if err != nil {
		return nil, nil, err
	}
	defer f.Close()
	if err := unix.IoctlSetPointerInt(f.Int(), unix.TIOCSPTLCK, 0); err != nil {
		return nil, nil, err
	}
	n, err := unix.IoctlGetInt(f.Int(), unix.TIOCGPTN)
	if err != nil {
		return nil, nil, err
	}
	w, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		return nil, nil, err
	}
	g, err := fd.DupFile(w)
	if err != nil {
		return nil, nil, err
	}
	defer g.Close()
	modes, err := unix.IoctlGetTermios(g.Int(), unix.TCGETS)
	if err != nil {
		return nil, nil, err
	}
	modes.Oflag &^= unix.OPOST
	return r, w, unix.IoctlSetTermios(g.Int(), unix.TCSETS, modes)
}

// writeLines writes numbered lines, one by one and in blocks, until stop, and returns how many.
func writeLines(w *os.File, random *rand.Rand, stop <-chan struct{}) int {
	out := bufio.NewWriterSize(w, 64<<10)
	for i := 0; ; i++ {
		select {
		case <-stop:
			out.Flush()
			return i
		default:
		}
		fmt.Fprintf(out, "%d %s\n", i, filler[:i%97])
		if i/5000%2 == 0 || random.IntN(1000) == 0 {
			out.Flush()
		}
		if i%200 == 0 && random.IntN(4) == 0 {
			time.Sleep(time.Duration(random.IntN(2000)) * time.Microsecond) // a burst ends
		}
	}
}

var filler = strings.Repeat("x", 100)

// checkLines counts the lines of a file, which must be those that writeLines wrote.
func checkLines(t *testing.T, out *os.File) int {
	out.Seek(0, 0)
	n := 0
	for s := bufio.NewScanner(out); s.Scan(); n++ {
		if want := fmt.Sprintf("%d %s", n, filler[:n%97]); s.Text() != want {
			t.Fatalf("%s: line %d is %.50q, want %.50q", out.Name(), n, s.Text(), want)
		}
	}
	return n
}

// startReader starts a reader with what its predecessor parked.
func startReader(t *testing.T, k *keeperOf, files []*os.File) (*exec.Cmd, *fdchan.Endpoint) {
	ours, theirs, err := fd.Socketpair(unix.SOCK_SEQPACKET)
	if err != nil {
		t.Fatal(err)
	}
	conn, err := fdchan.New(ours)
	if err != nil {
		t.Fatal(err)
	}
	child := theirs.File("channel")
	defer child.Close()
	cmd := exec.Command(os.Args[0])
	cmd.Stderr = os.Stderr
	cmd.ExtraFiles = append([]*os.File{child}, files...)
	list := ""
	k.mu.Lock()
	for name, fds := range k.parked {
		list += fmt.Sprintf("%s:%d ", name, len(fds))
		for _, f := range fds {
			d, err := f.Dup()
			if err != nil {
				t.Fatal(err)
			}
			file := d.File(name)
			defer file.Close()
			cmd.ExtraFiles = append(cmd.ExtraFiles, file)
		}
	}
	k.mu.Unlock()
	cmd.Env = append(os.Environ(), fmt.Sprintf("%s=%d", readerEnv, len(files)/2), parkedEnv+"="+list)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	return cmd, fdchan.NewEndpoint(conn, k.park)
}
