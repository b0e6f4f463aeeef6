package file

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// pollEvery is how often files are looked at where inotify cannot tell (its limits are per user, and it does not see
// into every file system).
const pollEvery = 250 * time.Millisecond

// watch waits until something has happened to files (inotify(7)). It does not tell what: whoever waits looks. A nil
// watch watches nothing.
type watch struct {
	file  *os.File // nil where there is no inotify
	fd    int      // of file
	blind bool     // something cannot be watched, so it is polled
}

func newWatch() *watch {
	n, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return &watch{blind: true}
	}
	return &watch{file: os.NewFile(uintptr(n), "inotify"), fd: n}
}

// names tells of a file that comes to path. It is asked before path is opened.
func (w *watch) names(path string) {
	w.add(filepath.Dir(path), unix.IN_CREATE|unix.IN_MOVED_TO)
}

// writes tells of what is written to f, whatever its name is by then. It is asked before f is read.
func (w *watch) writes(f *os.File) {
	raw, err := f.SyscallConn()
	if err != nil {
		return // it is closed
	}
	raw.Control(func(n uintptr) { w.add(fmt.Sprintf("/proc/self/fd/%d", n), unix.IN_MODIFY) })
}

func (w *watch) add(path string, events uint32) {
	if w == nil || w.file == nil {
		return
	}
	if _, err := unix.InotifyAddWatch(w.fd, path, events); err != nil {
		w.blind = true
	}
}

// wait blocks until something may have happened, ctx is done, or deadline (if it is not zero) has passed.
func (w *watch) wait(ctx context.Context, deadline time.Time) error {
	if soon := time.Now().Add(pollEvery); w.blind && (deadline.IsZero() || soon.Before(deadline)) {
		deadline = soon
	}
	if w.file == nil {
		timer := time.NewTimer(time.Until(deadline))
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-ctx.Done():
		}
		return nil
	}
	w.file.SetReadDeadline(deadline)
	over := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		w.file.SetReadDeadline(time.Unix(1, 0))
		close(over)
	})
	var events [4 << 10]byte
	_, err := w.file.Read(events[:])
	if !stop() {
		<-over
	}
	if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
		return err
	}
	return nil
}

func (w *watch) close() {
	if w.file != nil {
		w.file.Close()
	}
}
