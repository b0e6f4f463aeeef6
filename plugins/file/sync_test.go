package file

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"

	"github.com/muxd/muxd/sink"
)

// disk is an fsync that notes what was on the disk when it returned.
type disk struct {
	mu    sync.Mutex
	syncs int
	safe  string // the file, as of the last sync
	fail  []error
}

func (d *disk) fsync(f *os.File) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if info, err := f.Stat(); err != nil || info.IsDir() {
		return err
	}
	if len(d.fail) > 0 {
		err := d.fail[0]
		d.fail = d.fail[1:]
		return err
	}
	b, err := os.ReadFile(f.Name())
	d.syncs++
	d.safe = string(b)
	return err
}

func (d *disk) count() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.syncs
}

func (d *disk) onDisk() string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.safe
}

func (d *disk) failNext(err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.fail = append(d.fail, err)
}

func syncing(how string) settings {
	return settings{format: cri{}, perm: 0o640, maxLine: 100, sync: how, syncEvery: time.Minute}
}

// TestSyncAlways has what was acknowledged on the disk, with one fsync for a chunk of many lines, and none for one that
// writes nothing.
func TestSyncAlways(t *testing.T) {
	path := temp(t)
	fs, d := quick(), disk{}
	fs.fsync = d.fsync
	w := openStream(t, fs, syncing(syncAlways), sink.Stdout, path)
	w.put(noon, "one\ntwo\nthree\n", false)
	same(t, "on the disk", d.safe, read(t, path))
	w.put(noon, "begin", false)
	if d.syncs != 1 {
		t.Errorf("%d syncs", d.syncs)
	}
	w.put(noon, "", true)
	same(t, "on the disk", d.safe, read(t, path))
}

// TestSyncAfterAKill syncs what an earlier process wrote and may not have synced.
func TestSyncAfterAKill(t *testing.T) {
	path := temp(t)
	s := syncing(syncAlways)
	dead := killAt(t, s, path, "first\n", "one\n", len("2026-05-04T12:00:01.000000123Z stdout F one\n"))
	fs, d := quick(), disk{}
	fs.fsync = d.fsync
	w := openStream(t, fs, s, sink.Stdout, path)
	dead.run(t, w)
	if d.syncs == 0 || d.safe != read(t, path) {
		t.Errorf("%d syncs, on the disk is %q", d.syncs, d.safe)
	}
}

// TestSyncFails does not acknowledge, and writes again what the kernel takes for written.
func TestSyncFails(t *testing.T) {
	path := temp(t)
	troubles := make(told, 10)
	fs, d := quick(), disk{fail: []error{unix.EIO, unix.ENOSPC}}
	fs.fsync = d.fsync
	w, err := newStream(fs, new(syncing(syncAlways)), target{sink.Stdout, path}, troubles.shared())
	if err != nil {
		t.Fatal(err)
	}
	defer w.close()
	if err := w.put(context.Background(), part{data: []byte("one\n"), time: noon}, &slot{}); err != nil {
		t.Fatal(err)
	}
	if err := troubles.next(t); !errors.Is(err, unix.EIO) {
		t.Errorf("told %v", err)
	}
	if err := troubles.next(t); err != nil {
		t.Errorf("told %v", err)
	}
	same(t, "file", read(t, path), "2026-05-04T12:00:00.000000123Z stdout F one\n")
	same(t, "on the disk", d.safe, read(t, path))

	d.fail = []error{unix.EIO}
	fs.retryFirst = time.Hour
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- w.put(ctx, part{data: []byte("two\n"), time: noon}, &slot{}) }()
	troubles.next(t)
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("put returned %v without a sync", err)
	}
}

// TestSyncInterval syncs some time after output, once for all of it, and at the end.
func TestSyncInterval(t *testing.T) {
	path := temp(t)
	synctest.Test(t, func(t *testing.T) {
		fs, d := quick(), disk{}
		fs.fsync = d.fsync
		w := openStream(t, fs, syncing(syncInterval), sink.Stdout, path)
		w.put(noon, "one\n", false)
		time.Sleep(59 * time.Second)
		synctest.Wait()
		w.put(noon, "two\n", false)
		if d.count() != 0 {
			t.Errorf("%d syncs after 59 s", d.syncs)
		}
		time.Sleep(time.Second)
		synctest.Wait()
		same(t, "after a minute", d.onDisk(), read(t, path))
		time.Sleep(time.Hour)
		synctest.Wait()
		if d.count() != 1 {
			t.Errorf("%d syncs in an hour without output", d.syncs)
		}
		d.failNext(unix.EIO)
		w.put(noon, "three\n", false)
		time.Sleep(time.Minute)
		synctest.Wait()
		w.put(noon, "four\n", false) // at once, since the last one failed
		same(t, "after a failure", d.onDisk(), read(t, path))
		w.put(noon, "five\n", false)
		w.put(noon, "", true)
		same(t, "at the end", d.onDisk(), read(t, path))
	})
}

// TestSyncMadeDirectories is for where the file, or its directory, was made: their names have to last too.
func TestSyncMadeDirectories(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "a", "b", "log")
	top := existing(filepath.Dir(path))
	same(t, "the nearest directory", top, dir)
	openStream(t, quick(), syncing(syncAlways), sink.Stdout, path)
	fs := newFiles()
	if err := fs.syncDirs(path, top); err != nil {
		t.Error(err)
	}
	if err := fs.syncDirs(filepath.Join(dir, "none", "log"), dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a directory that is not there: %v", err)
	}
}
