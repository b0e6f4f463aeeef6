package file

import (
	"context"
	"errors"
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

// add watches the file at path, as far as it exists, for what is written, and its directory for another file of
// that name. A file that was renamed stays watched.
func (w *watch) add(path string) {
	if w == nil || w.file == nil {
		return
	}
	_, err := unix.InotifyAddWatch(w.fd, path, unix.IN_MODIFY)
	if err != nil && err != unix.ENOENT {
		w.blind = true
	}
	const names = unix.IN_CREATE | unix.IN_MOVED_TO | unix.IN_MASK_ADD
	if _, err := unix.InotifyAddWatch(w.fd, filepath.Dir(path), names); err != nil {
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
