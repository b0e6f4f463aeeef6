package file

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"time"

	"github.com/muxd/muxd/sink"
)

// writing is the putting out of one chunk.
type writing struct {
	*stream
	part    part
	memory  memory
	try     retry  // its waits
	held    bool   // the turn of stream.out is ours
	intent  intent // what was recorded last
	dirty   bool   // something of the chunk may be in stream.out and not on the disk yet
	former  bool   // stream.out is a file of before a rotation, of which the end has to be written
	renewed bool   // the file was rotated
}

// finish lets the turn go.
func (w *writing) finish() {
	if w.held {
		w.out.unlock()
		w.held = false
	}
}

// drop relinquishes the output, which the path does not lead to any more. An error of close(2) is not told: what was
// written has been accepted, and the stream goes on elsewhere.
func (w *writing) drop() {
	w.finish()
	w.former = false
	w.out.release()
	w.out = nil
}

// hold gets the turn of the file that the path leads to now, and opens it where it is not open. What an earlier process of
// the plugin had begun to write to the file comes first.
func (w *writing) hold(ctx context.Context) error {
	for {
		if w.out != nil && (w.out.deleted() || time.Since(w.looked) >= w.files.lookAgain && w.moved()) {
			w.drop()
		}
		if w.out == nil {
			out, err := w.files.acquire(w.at, *w.settings)
			if err != nil {
				if err := w.try.wait(ctx, err); err != nil {
					return err
				}
				continue
			}
			w.out, w.looked = out, time.Now()
		}
		if err := w.lock(ctx); err != nil {
			return err
		}
		if w.out.retired.Load() {
			w.drop()
			continue
		}
		settled := w.files.unsettled(w.out.id, w.claim)
		if settled == nil {
			return nil
		}
		w.finish()
		select {
		case <-settled:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (w *writing) lock(ctx context.Context) error {
	if err := w.out.lock(ctx); err != nil {
		return err
	}
	w.held = true
	return nil
}

// moved says whether the path leads elsewhere, or nowhere, now. Where that cannot be told it does not.
func (w *writing) moved() bool {
	w.looked = time.Now()
	info, err := os.Stat(w.at)
	if err != nil {
		return missing(err)
	}
	return identityOf(info) != w.out.id
}

// write writes piece, which begins at position at of the rendering, from its byte k on, and returns up to where it stands in the
// file.
func (w *writing) write(ctx context.Context, piece []byte, at, k uint64) (uint64, error) {
	for k < uint64(len(piece)) {
		end, err := w.begin(ctx, piece, at, k)
		for err == nil && k < end {
			var n int
			n, err = w.out.write(ctx, piece[k:end])
			k += uint64(n)
			w.dirty = w.dirty || n > 0
		}
		if err == nil {
			w.try.over()
			continue
		}
		if ctx.Err() != nil {
			return w.untear(piece, k), ctx.Err()
		}
		if err := w.try.wait(ctx, explain(err, w.at)); err != nil {
			return w.untear(piece, k), err
		}
		if !w.held {
			continue // it could not begin
		}
		if !w.out.regular || w.moved() {
			k = w.untear(piece, k)
			if err := w.synced(ctx); err != nil {
				return k, err
			}
			w.drop()
		}
	}
	return k, nil
}

// begin gets the turn where it is not held, rotates where that is due, and records in memory what is going to be
// written. It returns up to where of piece it may be.
func (w *writing) begin(ctx context.Context, piece []byte, at, k uint64) (end uint64, err error) {
	switch format := w.settings.format; {
	case !w.held:
	case format != nil && inRecord(piece, k): // what is begun is ended, wherever it is
		return k + uint64(bytes.IndexByte(piece[k:], '\n')+1), nil
	case format != nil && w.former:
		if err := w.synced(ctx); err != nil {
			return 0, err
		}
		w.drop()
	case w.former, w.settings.rotation.size == 0:
		return uint64(len(piece)), nil // the intent is recorded
	}
	if !w.held {
		if err := w.hold(ctx); err != nil {
			return 0, err
		}
	}
	n, err := w.prepare(ctx, piece[k:], at+k)
	if err != nil {
		w.finish()
	}
	return k + uint64(n), err
}

// prepare does what has to be done to a file before text, which begins at position from of the rendering, is appended.
// It returns how much of text may be.
func (w *writing) prepare(ctx context.Context, text []byte, from uint64) (int, error) {
	end, err := w.out.end()
	if err != nil {
		return 0, err
	}
	n := w.settings.portion(end, text)
	if w.out.regular && (n == 0 || w.settings.rotation.expired(w.out.wrote, w.part.time)) {
		if err := w.renew(ctx); err != nil {
			return 0, err
		}
		if end, err = w.out.end(); err != nil {
			return 0, err
		}
		n = w.settings.portion(end, text)
	}
	if n == 0 || !w.out.regular {
		n = len(text) // it cannot be rotated
	}
	if err := w.mend(); err != nil {
		return 0, err
	}
	if err := w.place(); err != nil {
		return 0, err
	}
	if end, err = w.out.end(); err != nil {
		return 0, err
	}
	w.intent = intent{id: w.out.id, birth: w.out.birth, after: w.out.after, end: uint64(end), from: from}
	w.memory.Intend(w.intent.encode(&w.mark))
	w.files.step(stepIntent)
	w.out.wrote = w.part.time
	if w.renewed {
		w.renewed = false
		w.files.tidy(seriesOf(w.path), *w.settings)
	}
	return n, nil
}

// place finds out where in its series the file stands, where it may have to be found by that.
func (w *writing) place() error {
	if w.out.placed || !w.settings.retention.on() {
		return nil
	}
	all, err := series{filepath.Dir(w.at), filepath.Base(w.at)}.members()
	if err != nil {
		return err
	}
	w.out.placed, w.out.after = true, newest(all)
	return nil
}

// inRecord says whether byte k of piece is behind the beginning of a record.
func inRecord(piece []byte, k uint64) bool { return k > 0 && piece[k-1] != '\n' }

// untear is called when writing stops at byte k of piece and will not go on in this file. It takes the beginning of an
// unfinished record out of the file again, and returns where that begins in piece. Raw output has no records.
func (w *writing) untear(piece []byte, k uint64) uint64 {
	if w.settings.format == nil || !w.held || !inRecord(piece, k) {
		return k
	}
	start := uint64(bytes.LastIndexByte(piece[:k], '\n') + 1)
	if !w.out.regular {
		return start
	}
	if end, err := w.out.end(); err == nil && end >= int64(k-start) {
		w.cut(end-int64(k-start), piece[start:k])
	}
	return start
}

// cut shortens the file to size where what would go is torn: somebody else may have appended. Where it fails, the
// beginning of the record stays, and readers pass over it.
func (w *writing) cut(size int64, torn []byte) {
	f, err := w.out.reopen()
	if err != nil {
		return
	}
	defer f.Close()
	found := make([]byte, len(torn))
	if _, err := f.ReadAt(found, size); err == nil && bytes.Equal(found, torn) {
		w.out.file.Truncate(size)
	}
}

var _ memory = (*sink.Chunk)(nil)
