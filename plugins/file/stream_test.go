package file

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/muxd/muxd/sink"
)

func TestAppendsAndNeverTruncates(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a", "b", "log")
	w := openStream(t, quick(), criSettings(), sink.Stdout, path)
	w.put(noon, "one\ntw", false)
	w.w.close()
	w2 := openStream(t, quick(), criSettings(), sink.Stdout, path)
	w2.slot = w.slot
	w2.put(noon, "o\nthree", false)
	w2.put(noon, "", true)
	const head = "2026-05-04T12:00:00.000000123Z stdout F "
	same(t, "file", read(t, path), head+"one\n"+head+"two\n"+head+"three\n")
}

func TestPermissions(t *testing.T) {
	old := unix.Umask(0o077)
	defer unix.Umask(old)
	path := filepath.Join(t.TempDir(), "dir", "log")
	s := criSettings()
	s.perm = 0o664
	openStream(t, quick(), s, sink.Stdout, path)
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o664 {
		t.Errorf("a new file has %v, %v", info.Mode(), err)
	}
	s.perm = 0o600
	openStream(t, quick(), s, sink.Stdout, path)
	if info, _ = os.Stat(path); info.Mode().Perm() != 0o664 {
		t.Errorf("a file that was there has %v now", info.Mode())
	}
}

// TestOneWriter lets two children's streams write the same file by different names at the same time.
func TestOneWriter(t *testing.T) {
	dir := t.TempDir()
	path, link := filepath.Join(dir, "log"), filepath.Join(dir, "link")
	if err := os.Symlink(path, link); err != nil {
		t.Fatal(err)
	}
	if err := appendTo(path, ""); err != nil {
		t.Fatal(err)
	}
	fs := quick()
	s := settings{format: cri{}, perm: 0o640, maxLine: 50}
	writers := []*testStream{
		openStream(t, fs, s, sink.Stdout, path), openStream(t, fs, s, sink.Stderr, path),
		openStream(t, fs, s, sink.Stdout, link), openStream(t, fs, s, sink.Stderr, link),
	}
	if len(fs.open) != 1 {
		t.Fatalf("%d outputs for one file", len(fs.open))
	}
	const lines = 300
	var all sync.WaitGroup
	for i, w := range writers {
		all.Go(func() {
			for n := range lines {
				w.put(noon, fmt.Sprintf("%d %d %s\n", i, n, strings.Repeat("x", 100)), false)
			}
		})
	}
	all.Wait()
	records := strings.Count(read(t, path), "\n")
	if records != 4*lines*3 {
		t.Errorf("%d records, want %d", records, 4*lines*3)
	}
	// The pieces of one chunk stand together, so the published reader finds every line whole.
	got := readPublished(t, []byte(read(t, path)), 50)
	next := map[int]int{}
	for _, line := range append(got["stdout"], got["stderr"]...) {
		var i, n int
		if _, err := fmt.Sscanf(line, "%d %d", &i, &n); err != nil || !strings.HasSuffix(line, strings.Repeat("x", 100)) {
			t.Fatalf("torn line %q", line)
		}
		if n != next[i] {
			t.Fatalf("line %d of writer %d stands where %d should", n, i, next[i])
		}
		next[i]++
	}
	for _, w := range writers {
		if err := w.w.close(); err != nil {
			t.Error(err)
		}
	}
	if len(fs.open) != 0 {
		t.Error("an output is left open")
	}
}

// TestReplaced lets the file be renamed, deleted, and its directory be removed while it is written.
func TestReplaced(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "dir")
	path := filepath.Join(dir, "log")
	w := openStream(t, quick(), settings{perm: 0o640}, sink.Stdout, path)
	w.put(noon, "one\n", false)
	if err := os.Rename(path, path+".1"); err != nil {
		t.Fatal(err)
	}
	w.put(noon, "two\n", false)
	same(t, "renamed", read(t, path+".1"), "one\n")
	same(t, "after a rename", read(t, path), "two\n")
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	w.put(noon, "three\n", false)
	same(t, "after a removal", read(t, path), "three\n")
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	w.put(noon, "four\n", false)
	same(t, "after the directory's removal", read(t, path), "four\n")
}

// tinyDisk mounts a tmpfs of so many bytes, or skips.
func tinyDisk(t *testing.T, size int) string {
	t.Helper()
	dir := t.TempDir()
	if err := unix.Mount("none", dir, "tmpfs", 0, fmt.Sprintf("size=%d", size)); err != nil {
		t.Skipf("mount a tmpfs for a full disk: %v (it takes root and CAP_SYS_ADMIN)", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, 0); err != nil {
			t.Errorf("unmount: %v", err) // a descriptor is left open
		}
	})
	return dir
}

// told collects what Opening.Trouble is told.
type told chan error

func (c told) shared() *troubles { return &troubles{report: func(err error) { c <- err }} }

func (c told) next(t *testing.T) error {
	t.Helper()
	select {
	case err := <-c:
		return err
	case <-time.After(10 * time.Second):
		t.Fatal("nothing was told")
		return nil
	}
}

// TestFullDisk fills a disk in the middle of a record, and makes room again: by deleting something else, by renaming
// the log, and by deleting the log.
func TestFullDisk(t *testing.T) {
	for _, how := range []string{"room", "renamed", "deleted"} {
		t.Run(how, func(t *testing.T) {
			dir := tinyDisk(t, 64<<10)
			path, ballast := filepath.Join(dir, "log"), filepath.Join(dir, "ballast")
			if err := os.WriteFile(ballast, make([]byte, 40<<10), 0o600); err != nil {
				t.Fatal(err)
			}
			troubles := make(told, 10)
			w, err := newStream(quick(), &settings{format: cri{}, perm: 0o640, maxLine: 8 << 10},
				target{sink.Stdout, path}, troubles.shared())
			if err != nil {
				t.Fatal(err)
			}
			defer w.close()
			var text strings.Builder
			for i := range 40 {
				fmt.Fprintf(&text, "%d %s\n", i, strings.Repeat("x", 900))
			}
			slot := slot{}
			done := make(chan error)
			go func() {
				done <- w.put(context.Background(), part{data: []byte(text.String()), time: noon}, &slot)
			}()
			if err := troubles.next(t); !errors.Is(err, unix.ENOSPC) || !strings.Contains(err.Error(), path) {
				t.Fatalf("told %v", err)
			}
			select {
			case err := <-done:
				t.Fatalf("put returned %v on a full disk", err)
			default:
			}
			log := func() string { return read(t, path) }
			switch how {
			case "room":
				err = os.Remove(ballast)
			case "renamed":
				before := path + ".1"
				err = errors.Join(os.Rename(path, before), os.Remove(ballast))
				log = func() string { return read(t, before) + read(t, path) }
			case "deleted":
				// What stood in it is gone with it; what follows begins with a whole record.
				err = errors.Join(os.Remove(path), os.Remove(ballast))
			}
			if err != nil {
				t.Fatal(err)
			}
			if err := <-done; err != nil {
				t.Fatal(err)
			}
			if err := troubles.next(t); err != nil {
				t.Errorf("told %v after it was over", err)
			}
			if len(troubles) != 0 {
				t.Errorf("told once too often: %v", <-troubles)
			}
			got := readPublished(t, []byte(log()), 8<<10)["stdout"]
			want := linesOf([]byte(text.String()))
			if how == "deleted" {
				if len(got) == 0 || len(got) == len(want) {
					t.Fatalf("%d lines in the new file", len(got))
				}
				want = want[len(want)-len(got):]
			}
			same(t, "log", strings.Join(got, "\n"), strings.Join(want, "\n"))
		})
	}
}

// TestGivenUp ends a write that waits, and leaves no torn record to the others.
func TestGivenUp(t *testing.T) {
	dir := tinyDisk(t, 32<<10)
	path, ballast := filepath.Join(dir, "log"), filepath.Join(dir, "ballast")
	if err := os.WriteFile(ballast, make([]byte, 16<<10), 0o600); err != nil {
		t.Fatal(err)
	}
	fs := quick()
	troubles := make(told, 10)
	s := settings{format: cri{}, perm: 0o640, maxLine: 24 << 10}
	w, err := newStream(fs, &s, target{sink.Stdout, path}, troubles.shared())
	if err != nil {
		t.Fatal(err)
	}
	defer w.close()
	other := openStream(t, fs, s, sink.Stderr, path)
	other.put(noon, "first\n", false)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() {
		done <- w.put(ctx, part{data: []byte(strings.Repeat("x", 20<<10) + "\n"), time: noon}, &slot{})
	}()
	troubles.next(t)

	// Another stream of the file waits for its turn, and can be given up too.
	short, stop := context.WithTimeout(context.Background(), time.Millisecond)
	defer stop()
	if err := other.w.put(short, part{data: []byte("y\n"), time: noon}, &slot{}); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("put returned %v while another held the file", err)
	}
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("put returned %v", err)
	}
	if len(troubles) != 0 {
		t.Errorf("told %v, and the trouble is why it was given up", <-troubles)
	}
	if err := os.Remove(ballast); err != nil {
		t.Fatal(err)
	}
	other.put(noon, "second\n", false)
	const head = "2026-05-04T12:00:00.000000123Z stderr F "
	same(t, "file", read(t, path), head+"first\n"+head+"second\n")
}

// TestComesAgainWithoutAFile opens a sink again, in a new process of the plugin, where its file cannot be made.
func TestComesAgainWithoutAFile(t *testing.T) {
	parent := temp(t)
	if err := appendTo(parent, "not a directory"); err != nil {
		t.Fatal(err)
	}
	s, err := parseSettings(request(t, filepath.Join(parent, "log"), map[string]string{"format": "raw"}, sink.Stdout))
	if err != nil {
		t.Fatal(err)
	}
	troubles := make(told, 10)
	o := &opening{report: func(err error) { troubles <- err }}
	if _, err := newFileSink(quick(), s, "o", o, false); err == nil {
		t.Fatal("it can be opened")
	}
	k, err := newFileSink(quick(), s, "o", o, true)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error)
	go func() {
		done <- k.writer(sink.Stdout).put(context.Background(), part{data: []byte("x"), time: noon}, &slot{})
	}()
	if err := troubles.next(t); !errors.Is(err, unix.ENOTDIR) {
		t.Errorf("told %v", err)
	}
	if err := os.Remove(parent); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	same(t, "file", read(t, filepath.Join(parent, "log")), "x")
	if err := k.Close(); err != nil {
		t.Error(err)
	}
}

func TestDevFull(t *testing.T) {
	troubles := make(told, 10)
	w, err := newStream(quick(), &settings{}, target{sink.Stdout, "/dev/full"}, troubles.shared())
	if err != nil {
		t.Skipf("open /dev/full: %v", err)
	}
	defer w.close()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- w.put(ctx, part{data: []byte("x"), time: noon}, &slot{}) }()
	if err := troubles.next(t); !errors.Is(err, unix.ENOSPC) {
		t.Errorf("told %v", err)
	}
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("put returned %v", err)
	}
}

func TestFIFO(t *testing.T) {
	path := temp(t)
	if err := unix.Mkfifo(path, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := quick().acquire(path, settings{perm: 0o600}); err == nil || !strings.Contains(err.Error(), "FIFO that nobody reads") {
		t.Errorf("without a reader: %v", err)
	}
	reader, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer reader.Close()
	w := openStream(t, quick(), criSettings(), sink.Stdout, path)
	w.put(noon, "through\n", false)
	line, err := bufio.NewReader(reader).ReadString('\n')
	if err != nil || !strings.HasSuffix(line, " F through\n") {
		t.Errorf("read %q, %v", line, err)
	}

	// A reader that does not read holds up the stream, and it can be given up.
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() {
		done <- w.w.put(ctx, part{data: []byte(strings.Repeat("x\n", 1<<20)), time: noon}, &slot{})
	}()
	if _, err := io.ReadFull(reader, make([]byte, 64<<10)); err != nil {
		t.Fatal(err)
	}
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("put returned %v", err)
	}
}

func TestRefused(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "plain"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("nowhere", filepath.Join(dir, "dangling")); err != nil {
		t.Fatal(err)
	}
	s, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(s)
	if err := unix.Bind(s, &unix.SockaddrUnix{Name: filepath.Join(dir, "socket")}); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{
		dir:                              "name a file in it",
		filepath.Join(dir, "socket"):     "use the sink socket:unix:",
		filepath.Join(dir, "plain", "x"): "one of its parents is a file",
		filepath.Join(dir, "dangling"):   "symbolic link to nothing",
		"/proc/nothing":                  "no such file",
	} {
		out, err := quick().acquire(path, settings{perm: 0o600})
		if err == nil {
			out.release()
		}
		if err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), path) {
			t.Errorf("%s: %v, want %q", path, err, want)
		}
	}
}

// TestNothingWithoutALine writes no byte, and takes no turn, for an unfinished line.
func TestNothingWithoutALine(t *testing.T) {
	path := temp(t)
	w := openStream(t, quick(), criSettings(), sink.Stdout, path)
	w.put(noon, "begin", false)
	same(t, "state", string(w.slot.state), "begin")
	same(t, "file", read(t, path), "")
}
