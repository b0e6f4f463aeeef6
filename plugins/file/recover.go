package file

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// intent is what a stream records before it writes: the file, its length, and how much of the chunk's rendering
// stands elsewhere already, since the file was replaced in the middle of the chunk. after is where in its series the file
// stands, behind the one that was closed then, by which it can be found when it was compressed; zero where it is the first,
// or cannot be.
type intent struct {
	id    identity
	birth uint64 // output.birth
	after time.Time
	end   uint64
	from  uint64
}

const intentSize = 6 * 8

func (i intent) encode(b *[intentSize]byte) []byte {
	binary.LittleEndian.PutUint64(b[0:], i.id.dev)
	binary.LittleEndian.PutUint64(b[8:], i.id.ino)
	binary.LittleEndian.PutUint64(b[16:], i.end)
	binary.LittleEndian.PutUint64(b[24:], i.from)
	binary.LittleEndian.PutUint64(b[40:], i.birth)
	binary.LittleEndian.PutUint64(b[32:], 0)
	if !i.after.IsZero() {
		binary.LittleEndian.PutUint64(b[32:], uint64(i.after.UnixNano()))
	}
	return b[:]
}

func decodeIntent(b []byte) (i intent, ok bool) {
	if len(b) != intentSize {
		return i, false
	}
	i.id.dev = binary.LittleEndian.Uint64(b[0:])
	i.id.ino = binary.LittleEndian.Uint64(b[8:])
	i.end = binary.LittleEndian.Uint64(b[16:])
	i.from = binary.LittleEndian.Uint64(b[24:])
	i.birth = binary.LittleEndian.Uint64(b[40:])
	if after := binary.LittleEndian.Uint64(b[32:]); after != 0 {
		i.after = time.Unix(0, int64(after))
	}
	return i, true
}

// recover finds out how much of the rendering of the chunk an earlier process wrote before it was killed.
func (w *writing) recover(ctx context.Context, b *buffers) (done uint64, err error) {
	was, ok := decodeIntent(w.memory.Intent())
	if !ok {
		return 0, nil // killed before anything was written
	}
	for {
		done, err = w.lookBack(ctx, was, b)
		if err == nil || ctx.Err() != nil {
			return done, err
		}
		w.finish()
		if err := w.try.wait(ctx, err); err != nil {
			return 0, err
		}
	}
}

// lookBack looks into the file that the earlier process wrote, also where that was renamed since. Where a record, or raw
// output, stands there in part, it keeps the turn, since nobody else may append before the rest is written. The intent
// of that process is recorded again: it stays true, as what is written now stands behind.
func (w *writing) lookBack(ctx context.Context, was intent, b *buffers) (uint64, error) {
	if err := w.find(ctx, was.id); err != nil {
		return 0, err
	}
	if w.out.id != was.id || w.out.birth != was.birth || !w.out.regular { // its file is gone, or cannot be asked
		w.finish()
		w.files.pending.settle(w.claim)
		return w.lookPacked(was, b)
	}
	f, err := w.out.reopen()
	if err != nil {
		return 0, err
	}
	defer f.Close()
	end, err := w.out.end()
	if err != nil {
		return 0, err
	}
	if uint64(end) < was.end || w.settings.format != nil && !beginsLine(f, was.end) {
		was.end = 0 // truncated from outside
	}
	tail := io.NewSectionReader(f, int64(was.end), end-int64(was.end))
	done, torn, err := w.written(tail, was.from, b)
	if err != nil {
		return 0, fmt.Errorf("read back %s: %w", w.at, err)
	}
	w.dirty = done > was.from // and it is not known whether that was synced
	w.intent = was
	w.memory.Intend(was.encode(&w.mark))
	if torn {
		w.out.begun = true
		return done, nil
	}
	if err := w.synced(ctx); err != nil {
		return 0, err
	}
	w.finish()
	w.files.pending.settle(w.claim)
	return done, nil
}

// written counts how much of the chunk stands in file, which begins where it may have been written.
func (w *writing) written(file io.Reader, from uint64, b *buffers) (done uint64, torn bool, err error) {
	r := w.render(w.part, b)
	if w.settings.format != nil {
		return writtenRecords(file, &r, from, b.out)
	}
	done, err = writtenBytes(file, r.whole, from)
	return done, done > from && done < uint64(len(r.whole)), err
}

// lookPacked looks for the file among those that were compressed: it is the first of its series that was closed after
// the one which the intent names. Whoever closed it had ended what was begun in it.
func (w *writing) lookPacked(was intent, b *buffers) (uint64, error) {
	if !w.settings.retention.on() {
		return was.from, nil
	}
	dated := seriesOf(w.path)
	all, err := dated.members()
	if err != nil {
		return 0, err
	}
	for _, m := range whole(all) {
		if m.date != "" && m.date != dateOf(w.part.time) || !m.closed.IsZero() && !m.closed.After(was.after) {
			continue
		}
		if m.packed == "" {
			return was.from, nil
		}
		path := filepath.Join(dated.dir, m.name)
		done, err := w.writtenPacked(path, m.packed, was, b)
		if err != nil { // it is damaged: what is written again is not lost
			fmt.Fprintf(os.Stderr, "sink file: read back %s: %v\n", path, err)
			return was.from, nil
		}
		return done, nil
	}
	return was.from, nil
}

func (w *writing) writtenPacked(path, how string, was intent, b *buffers) (uint64, error) {
	f, err := os.Open(path)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	r, err := unpacker(f, how)
	if err != nil {
		return 0, err
	}
	defer r.Close()
	if _, err := io.CopyN(io.Discard, r, int64(was.end)); err != nil {
		return 0, err
	}
	done, _, err := w.written(r, was.from, b)
	return done, err
}

// beginsLine says whether a line of f begins at offset at, as it did when the offset was recorded.
func beginsLine(f io.ReaderAt, at uint64) bool {
	var b [1]byte
	if at == 0 {
		return true
	}
	_, err := f.ReadAt(b[:], int64(at-1))
	return err == nil && b[0] == '\n'
}

// find gets the turn of the file id where that is the path's, or is in the path's directory; otherwise out is
// another file, or none.
func (w *writing) find(ctx context.Context, id identity) error {
	if w.out == nil || w.out.id != id {
		out, err := w.files.acquireRenamed(filepath.Dir(w.at), id, *w.settings)
		if err != nil && !missing(err) {
			return err
		}
		if out != nil {
			if w.out != nil {
				w.drop()
			}
			w.out, w.looked, w.former = out, time.Time{}, true // for this chunk only
		}
	}
	if w.out != nil && w.out.id == id {
		return w.lock(ctx)
	}
	if w.out == nil {
		return w.hold(ctx)
	}
	return nil
}

// writtenRecords counts how many bytes of the records of r stand in file, which begins where they may have been
// written: whole records in their order, with others between them, and as the last the beginning of one. Those
// before position from are elsewhere, and count as written. torn says that a record is there in part.
func writtenRecords(file io.Reader, r *rendering, from uint64, b []byte) (done uint64, torn bool, err error) {
	lines := bufio.NewReaderSize(file, recordMost)
	want := r.record(b)
	for len(want) > 0 && done < from {
		done += uint64(len(want))
		want = r.record(b)
	}
	whole := true // the next line is read from its beginning
	for len(want) > 0 {
		line, err := lines.ReadSlice('\n')
		switch {
		case err == nil:
			if whole && bytes.Equal(line, want) {
				done += uint64(len(want))
				want = r.record(b)
			}
			whole = true
		case errors.Is(err, bufio.ErrBufferFull): // longer than any record
			whole = false
		case err == io.EOF:
			torn = whole && len(line) > 0 && bytes.HasPrefix(want, line)
			if torn {
				done += uint64(len(line))
			}
			return done, torn, nil
		default:
			return 0, false, err
		}
	}
	return done, false, nil
}

// writtenBytes is writtenRecords for raw output: how much of data stands at the beginning of file.
func writtenBytes(file io.Reader, data []byte, from uint64) (done uint64, err error) {
	done = from
	b := make([]byte, 64<<10)
	for done < uint64(len(data)) {
		n, err := file.Read(b[:min(len(b), len(data)-int(done))])
		for i := range n {
			if b[i] != data[done] {
				return done, nil
			}
			done++
		}
		if err == io.EOF {
			return done, nil
		}
		if err != nil {
			return 0, err
		}
	}
	return done, nil
}

// missing says whether err means that there is nothing of that name.
func missing(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENOTDIR)
}
