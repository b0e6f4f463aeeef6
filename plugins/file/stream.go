package file

import (
	"bytes"
	"context"
	"time"

	"github.com/muxd/muxd/sink"
)

// pieceSize is how much is rendered before it is written: a chunk of empty lines grows by a factor of forty, and
// must not take forty times its memory.
const pieceSize = 256 << 10

// part is what a chunk is.
type part struct {
	offset   uint64 // in the stream
	data     []byte
	rendered bool // data is as it stands in the file
	state    []byte
	missed   uint64 // bytes of the stream that are missing before it
	time     time.Time
	last     bool
	again    bool
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
//	intend (file, its end, how much of the chunk stands elsewhere) → write → sync → remember the unfinished line
//
// The length of the file at that moment, the chunk and the rule that rendering depends on the chunk alone are
// enough for a successor to tell how far the writing came (see recover).
type stream struct {
	files    *files
	settings *settings // its sink's, which nobody changes
	target
	carried  []sink.Stream // whose output it writes
	troubles *troubles
	claim    claim
	fresh    bool // it has written nothing yet, nor has an earlier process for it

	at     string    // path, with the date of the chunk
	out    *output   // of at; nil while it cannot be opened
	looked time.Time // when at was last seen to lead to out
	day    [3]int    // of which at is: year, month, day
	stamp  []byte    // memory for records.stamp
	mark   [intentSize]byte
}

// newStream opens the stream's file.
func newStream(open *files, s *settings, t target, shared *troubles) (*stream, error) {
	now := time.Now()
	at := pathAt(t.path, now)
	out, err := open.acquire(at, *s)
	if err != nil {
		return nil, err
	}
	open.tidy(seriesOf(t.path), *s)
	w := bareStream(open, s, t, shared)
	w.at, w.out, w.looked = at, out, now
	return w, nil
}

// bareStream is a stream whose file is opened with its first output.
func bareStream(open *files, s *settings, t target, shared *troubles) *stream {
	return &stream{files: open, settings: s, target: t, carried: []sink.Stream{t.stream}, troubles: shared, fresh: true}
}

func (s *stream) close() error {
	if s.out == nil {
		return nil
	}
	out := s.out
	s.out = nil
	return out.release()
}

// render begins to render p. The stream's own memory and b's are in what it returns, so there is one at a time.
func (s *stream) render(p part, b *buffers) rendering {
	if s.settings.format == nil {
		return rendering{whole: p.data}
	}
	if p.rendered {
		return rendering{whole: p.data, lines: true}
	}
	s.stamp = s.settings.format.stamp(s.stamp[:0], p.time, s.stream)
	return rendering{records: records{
		format: s.settings.format, stamp: s.stamp, most: s.settings.maxLine, carry: p.state, data: p.data, last: p.last,
		missed: p.missed, at: p.time, stream: s.stream, join: b.join,
	}}
}

// rendering is a chunk as it stands in the file, piece by piece.
type rendering struct {
	whole   []byte // raw output, or records that are rendered already
	lines   bool   // the latter
	records records
}

// next returns the next piece, of whole records, which may be in b's memory; nothing at the end.
func (r *rendering) next(b []byte) []byte {
	if r.records.format != nil {
		return r.records.next(b[:0], pieceSize)
	}
	piece := r.whole
	r.whole = nil
	return piece
}

// record is next for one record.
func (r *rendering) record(b []byte) []byte {
	if !r.lines {
		return r.records.next(b[:0], 1)
	}
	n := bytes.IndexByte(r.whole, '\n') + 1
	record := r.whole[:n]
	r.whole = r.whole[n:]
	return record
}

// put puts out one chunk. It blocks while the file cannot be written, until ctx is done.
func (s *stream) put(ctx context.Context, p part, m memory) error {
	_, err := s.putOut(ctx, p, m)
	return err
}

// putOut is put, and says how much of the chunk's rendering stands in the file. Of a record that is not whole nothing does.
func (s *stream) putOut(ctx context.Context, p part, m memory) (reached uint64, err error) {
	buf := s.files.buffers.Get().(*buffers)
	defer func() {
		buf.work = writing{}
		s.files.buffers.Put(buf)
	}()

	w := &buf.work
	*w = writing{
		stream: s, part: p, memory: m, try: retry{shared: s.troubles, next: s.files.retryFirst, most: s.files.retryMost},
	}
	defer func() {
		if ctx.Err() == nil {
			w.try.over() // otherwise it is why the stream was given up
		}
	}()

	s.date(p.time)
	defer w.finish()
	var done uint64
	if p.again {
		defer s.files.pending.settle(s.claim)
		if done, err = w.recover(ctx, buf); err != nil {
			return 0, err
		}
	}
	r := s.render(p, buf)
	var at uint64 // where piece begins in the chunk's rendering
	for piece := r.next(buf.out); len(piece) > 0; piece = r.next(buf.out) {
		if end := at + uint64(len(piece)); done < end {
			n, err := w.write(ctx, piece, at, max(done, at)-at)
			if err != nil {
				return at + n, err
			}
		}
		at += uint64(len(piece))
	}
	if err := w.synced(ctx); err != nil {
		return at, err
	}
	if s.settings.format != nil && !p.rendered {
		m.SetState(r.records.rest())
	}
	return at, nil
}

// date goes on in another file where the path has a date in it, and that has changed; or where it is a symbolic link and leads
// elsewhere, which it looks at as seldom as at the file.
func (s *stream) date(now time.Time) {
	y, m, d := now.Local().Date()
	day := [3]int{y, int(m), d}
	if day == s.day && s.out != nil && time.Since(s.looked) < s.files.lookAgain {
		return
	}
	s.day = day
	at := pathAt(s.path, now)
	if at == s.at {
		return
	}
	if s.at = at; s.out != nil {
		s.out.release() // as in drop
		s.out = nil
		s.files.tidy(seriesOf(s.path), *s.settings)
	}
}
