package file

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// Rotation renames the file that is written, under its turn, and has every stream open the path again:
//
//	sync the old file → rename it → make the new one → sync the directory → retire the old one → intend → write
//
// A process may be killed between any two of these. Its successor finds what it was writing by the file's number, or,
// when the file was compressed meanwhile, by the place in the series that the intent tells (see recover).

// rotation says when a file is rotated.
type rotation struct {
	size  int64         // before it would become larger; 0: never
	every time.Duration // when the time is in another period of that length than its last write; 0: never
	daily bool          // and when it is another day
}

// on says whether files are rotated at all without being asked.
func (r rotation) on() bool { return r.size > 0 || r.every > 0 || r.daily }

// period is when the period that holds t began.
func (r rotation) period(t time.Time) time.Time {
	if r.daily {
		y, m, d := t.Local().Date()
		return time.Date(y, m, d, 0, 0, 0, 0, time.Local)
	}
	return t.Truncate(r.every)
}

// expired says whether a file whose last write was at wrote is not for what is written now.
func (r rotation) expired(wrote, now time.Time) bool {
	return (r.daily || r.every > 0) && !wrote.IsZero() && r.period(now).After(r.period(wrote))
}

// Steps of a rotation and of compressing, at which tests end the process.
const (
	stepSynced  = "the old file is synced"
	stepRenamed = "it is renamed"
	stepMade    = "the new file is there"
	stepIntent  = "the intent is recorded"
	stepPacking = "the compressed file is begun"
	stepPacked  = "the compressed file is complete"
	stepNamed   = "it has its name"
	stepRemoved = "the uncompressed file is gone"
)

// portion says how much of text, of whole records or of raw output, goes into a file that has size bytes: 0 where it
// must be rotated before. Raw output is cut behind a newline where there is one.
func (s settings) portion(size int64, text []byte) int {
	most := s.rotation.size
	if most == 0 || size+int64(len(text)) <= most {
		return len(text)
	}
	room := max(0, most-size)
	if n := bytes.LastIndexByte(text[:room], '\n') + 1; n > 0 || size > 0 {
		return n
	}
	if s.format == nil {
		return int(room)
	}
	return bytes.IndexByte(text, '\n') + 1 // a record that is longer than a file may be has one of its own
}

// rotate makes the output a former file of the series, where path still leads to it, and retires it. Its turn is held.
func (o *output) rotate(path string, s settings, now time.Time) error {
	size, err := o.end()
	if err != nil || size == 0 || !o.regular {
		return err
	}
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	if identityOf(info) != o.id {
		o.retired.Store(true)
		return nil
	}
	if s.synced() {
		if err := o.syncNow(); err != nil {
			return err
		}
	}
	o.files.step(stepSynced)
	if err := o.rename(path, now); err != nil {
		return err
	}
	o.files.step(stepRenamed)
	o.retired.Store(true)
	return nil
}

// rename gives the file at path the name of a rotated one, later than all that there are.
func (o *output) rename(path string, now time.Time) error {
	all, err := series{filepath.Dir(path), filepath.Base(path)}.members()
	if err != nil {
		return err
	}
	if last := newest(all); !now.After(last) {
		now = last.Add(1)
	}
	for {
		to := filepath.Join(filepath.Dir(path), rotatedName(filepath.Base(path), now, o.torn))
		err := unix.Renameat2(unix.AT_FDCWD, path, unix.AT_FDCWD, to, unix.RENAME_NOREPLACE)
		if errors.Is(err, unix.EINVAL) { // a file system that cannot; nobody else gives such names
			err = os.Rename(path, to)
		}
		if !errors.Is(err, unix.EEXIST) {
			return err
		}
		now = now.Add(1)
	}
}

// renew rotates the file that is held, and gets the turn of the new one. Where it cannot be rotated it is written on, and
// that is tried again later.
func (w *writing) renew(ctx context.Context) error {
	if time.Since(w.out.stuck) < w.files.retryMost {
		return nil
	}
	if err := w.synced(ctx); err != nil {
		return err
	}
	if err := w.out.rotate(w.at, *w.settings, w.part.time); err != nil {
		w.out.stuck = time.Now()
		fmt.Fprintf(os.Stderr, "sink file: rotate %s: %v\n", w.at, err)
		return nil
	}
	if !w.out.retired.Load() {
		return nil // it is empty
	}
	w.drop()
	if err := w.hold(ctx); err != nil {
		return err
	}
	w.files.step(stepMade)
	if w.settings.synced() {
		if err := w.files.syncDir(filepath.Dir(w.at)); err != nil {
			return err
		}
	}
	w.renewed = true
	return nil
}

// rotate is what a person asks for: it rotates the stream's file now.
func (s *stream) rotate(ctx context.Context) error {
	path := pathAt(s.path, time.Now())
	for {
		settled, err := s.rotateOnce(ctx, path)
		if err != nil || settled == nil {
			return err
		}
		select {
		case <-settled:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// rotateOnce returns a channel to wait for where somebody has to write to the file first.
func (s *stream) rotateOnce(ctx context.Context, path string) (<-chan struct{}, error) {
	out, err := s.files.acquire(path, *s.settings)
	if err != nil {
		return nil, err
	}
	defer out.release()
	if err := out.lock(ctx); err != nil {
		return nil, err
	}
	defer out.unlock()
	if settled := s.files.unsettled(out.id, claim{}); settled != nil || out.retired.Load() {
		return settled, nil // of a retired one, somebody else has just done it
	}
	if err := out.rotate(path, *s.settings, time.Now()); err != nil {
		return nil, explain(err, path)
	}
	s.files.tidy(seriesOf(s.path), *s.settings)
	return nil, nil
}
