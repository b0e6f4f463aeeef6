package file

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"time"

	"github.com/muxd/muxd/sink"
)

// pieceSize is how much is rendered before it is written: a chunk of empty lines grows by a factor of forty, and
// must not take forty times its memory.
const pieceSize = 256 << 10

// part is what a chunk is.
type part struct {
	data  []byte
	state []byte
	time  time.Time
	last  bool
	again bool
}

// memory is what a chunk offers to a successor of this process.
type memory interface {
	Intent() []byte
	Intend([]byte)
	SetState([]byte)
}

// stream is the writer of one stream. Its methods are called by one goroutine at a time.
//
// A chunk goes out under the turn of its output, from the first byte to the last, so that no other stream's record
// stands inside one of its own:
//
//	intend (file, its end, how much of the chunk stands elsewhere) → write → remember the unfinished line
//
// The length of the file at that moment, the chunk and the rule that rendering depends on the chunk alone are
// enough for a successor to tell how far the writing came (see recover).
type stream struct {
	files    *files
	settings settings
	target
	troubles *troubles

	out    *output   // nil while the path cannot be opened
	looked time.Time // when path was last seen to lead to out
	head   []byte    // memory for records.head
	mark   [intentSize]byte
}

// newStream opens the stream's file.
func newStream(open *files, s settings, t target, shared *troubles) (*stream, error) {
	out, err := open.acquire(t.path, s.perm)
	if err != nil {
		return nil, err
	}
	return &stream{files: open, settings: s, target: t, troubles: shared, out: out, looked: time.Now()}, nil
}

func (s *stream) close() error {
	if s.out == nil {
		return nil
	}
	out := s.out
	s.out = nil
	return out.release()
}

// render begins to render p. The stream's own memory is in what it returns, so there is one at a time.
func (s *stream) render(p part) rendering {
	r := rendering{cri: s.settings.cri}
	if !r.cri {
		r.raw = p.data
		return r
	}
	s.head = criHead(s.head[:0], p.time, s.stream)
	r.records = records{head: s.head, most: s.settings.maxLine, carry: p.state, data: p.data, last: p.last}
	return r
}

// rendering is a chunk as it stands in the file, piece by piece.
type rendering struct {
	cri     bool
	raw     []byte
	records records
}

// next returns the next piece, of whole records, which may be in b's memory; nothing at the end.
func (r *rendering) next(b []byte) []byte {
	if r.cri {
		return r.records.next(b[:0], pieceSize)
	}
	piece := r.raw
	r.raw = nil
	return piece
}

// put puts out one chunk. It blocks while the file cannot be written, until ctx is done.
func (s *stream) put(ctx context.Context, p part, m memory) error {
	buf := s.files.buffers.Get().(*[]byte)
	defer s.files.buffers.Put(buf)

	try := retry{shared: s.troubles, next: s.files.retryFirst, most: s.files.retryMost}
	defer try.over()

	w := writing{stream: s, memory: m, try: &try}
	defer w.finish()
	var done uint64
	if p.again {
		var err error
		if done, err = w.recover(ctx, p, *buf); err != nil {
			return err
		}
	}
	r := s.render(p)
	var at uint64 // where piece begins in the chunk's rendering
	for piece := r.next(*buf); len(piece) > 0; piece = r.next(*buf) {
		if end := at + uint64(len(piece)); done < end {
			if err := w.write(ctx, piece, at, max(done, at)-at); err != nil {
				return err
			}
		}
		at += uint64(len(piece))
	}
	if s.settings.cri {
		m.SetState(r.records.rest(*buf))
	}
	return nil
}

// writing is the putting out of one chunk.
type writing struct {
	*stream
	memory memory
	try    *retry
	held   bool // the turn of stream.out is ours
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
	w.out.release()
	w.out = nil
}

// hold gets the turn of the file that the path leads to now, and opens it where it is not open.
func (w *writing) hold(ctx context.Context) error {
	for {
		if w.out != nil && time.Since(w.looked) >= w.files.lookAgain && w.moved() {
			w.drop()
		}
		if w.out == nil {
			out, err := w.files.acquire(w.path, w.settings.perm)
			if err != nil {
				if err := w.try.wait(ctx, err); err != nil {
					return err
				}
				continue
			}
			w.out, w.looked = out, time.Now()
		}
		return w.lock(ctx)
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
	info, err := os.Stat(w.path)
	if err != nil {
		return missing(err)
	}
	return identityOf(info) != w.out.id
}

// write writes piece, which begins at position at of the rendering, from its byte k on.
func (w *writing) write(ctx context.Context, piece []byte, at, k uint64) error {
	for {
		err := w.begin(ctx, piece, at, k)
		for err == nil && k < uint64(len(piece)) {
			var n int
			n, err = w.out.write(ctx, piece[k:])
			k += uint64(n)
		}
		if err == nil {
			w.try.over()
			return nil
		}
		if ctx.Err() != nil {
			w.untear(piece, k)
			return ctx.Err()
		}
		if err := w.try.wait(ctx, explain(err, w.path)); err != nil {
			w.untear(piece, k)
			return err
		}
		if !w.out.regular || w.moved() {
			k = w.untear(piece, k)
			w.drop()
		}
	}
}

// begin gets the turn where it is not held, and then records in memory what is going to be written.
func (w *writing) begin(ctx context.Context, piece []byte, at, k uint64) error {
	if w.held {
		return nil
	}
	if err := w.hold(ctx); err != nil {
		return err
	}
	if w.settings.cri && w.out.regular && !w.out.begun && !inRecord(piece, k) {
		if err := w.out.mend(); err != nil {
			w.finish()
			return err
		}
	}
	w.out.begun = true
	end, err := w.out.end()
	if err != nil {
		w.finish()
		return err
	}
	w.memory.Intend(intent{w.out.id, uint64(end), at + k}.encode(&w.mark))
	return nil
}

// inRecord says whether byte k of piece is behind the beginning of a record.
func inRecord(piece []byte, k uint64) bool { return k > 0 && piece[k-1] != '\n' }

// untear is called when writing stops at byte k of piece and will not go on in this file. It takes the beginning of an
// unfinished record out of the file again, and returns where that begins in piece. Raw output has no records.
func (w *writing) untear(piece []byte, k uint64) uint64 {
	if !w.settings.cri || !w.held || !inRecord(piece, k) {
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

// dir is where a file that was renamed may still be.
func (s *stream) dir() string { return filepath.Dir(s.path) }

var _ memory = (*sink.Chunk)(nil)
