package file

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"
)

// How much is done for what was written to be on the disk when the machine goes down.
const (
	syncNone     = "none"     // what the kernel does anyway
	syncInterval = "interval" // fsync(2) once in a while
	syncAlways   = "always"   // fsync(2) before a chunk counts as put out
)

// syncer has the file of an output synced some time after it was written to.
type syncer struct {
	mu    sync.Mutex
	timer *time.Timer // runs while something is not synced
	err   error       // of the latest sync, until one succeeds
}

// soon has o synced when d has passed, unless that is due already.
func (o *output) soon(d time.Duration) {
	o.sync.mu.Lock()
	defer o.sync.mu.Unlock()
	if o.sync.timer == nil {
		o.sync.timer = time.AfterFunc(d, func() { o.syncNow() })
	}
}

// syncNow blocks until what was written to o is on the disk.
func (o *output) syncNow() error {
	o.sync.mu.Lock()
	defer o.sync.mu.Unlock()
	if o.sync.timer != nil {
		o.sync.timer.Stop()
		o.sync.timer = nil
	}
	if !o.regular {
		return nil
	}
	o.sync.err = o.files.fsync(o.file)
	return o.sync.err
}

// behind is the error of a sync that was due and failed.
func (o *output) behind() error {
	o.sync.mu.Lock()
	defer o.sync.mu.Unlock()
	return o.sync.err
}

// stop ends the syncing: what is due is synced now.
func (o *output) stop() error {
	o.sync.mu.Lock()
	due := o.sync.timer != nil
	o.sync.mu.Unlock()
	if due {
		return o.syncNow()
	}
	return nil
}

// synced does what the settings want before the chunk counts as put out, or before another file is written.
func (w *writing) synced(ctx context.Context) error {
	if w.out == nil || !w.settings.synced() {
		return nil
	}
	if w.settings.sync == syncInterval && !w.part.last && w.out.behind() == nil {
		if w.dirty {
			w.out.soon(w.settings.syncEvery)
		}
		return nil
	}
	if !w.dirty && !w.part.last {
		return nil
	}
	for {
		err := w.out.syncNow()
		if err == nil {
			w.dirty = false
			w.try.over()
			return nil
		}
		if err := w.try.wait(ctx, explain(err, w.at)); err != nil {
			return err
		}
		if err := w.rewrite(); err != nil {
			if err := w.try.wait(ctx, explain(err, w.at)); err != nil {
				return err
			}
		}
	}
}

// rewrite makes what was written dirty again: after a failed fsync(2) the kernel takes the pages for clean, and the
// next fsync would succeed though nothing of them is on the disk.
func (w *writing) rewrite() error {
	if !w.dirty {
		return nil
	}
	from, err := w.out.reopen()
	if err != nil {
		return err
	}
	defer from.Close()
	to, err := w.out.reopenFor(os.O_WRONLY) // pwrite(2) of what is open with O_APPEND appends
	if err != nil {
		return err
	}
	defer to.Close()
	end, err := w.out.end()
	if err != nil {
		return err
	}
	b := make([]byte, 64<<10)
	for at := int64(w.intent.end); at < end; {
		n, err := from.ReadAt(b[:min(int64(len(b)), end-at)], at)
		if n == 0 {
			return err
		}
		if _, err := to.WriteAt(b[:n], at); err != nil {
			return err
		}
		at += int64(n)
	}
	return nil
}

// syncDirs makes the names on the way to path, from below top on, outlive the machine.
func (fs *files) syncDirs(path, top string) error {
	for dir := filepath.Dir(path); ; dir = filepath.Dir(dir) {
		if err := fs.syncDir(dir); err != nil {
			return err
		}
		if dir == top || dir == filepath.Dir(dir) {
			return nil
		}
	}
}

func (fs *files) syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	if err := fs.fsync(d); err != nil {
		return fmt.Errorf("sync directory %s: %w", dir, err)
	}
	return nil
}
