package file

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"time"

	"github.com/muxd/muxd/sink"
)

// log is one file that is read back.
type log struct {
	path   string
	format format      // nil: raw
	stream sink.Stream // of a raw file that holds this one only
	only   []sink.Stream
	since  time.Time

	file  *os.File // nil where it does not exist
	id    identity
	lines scanner
	long  sink.Record // of a line that is told in several pieces
	inner bool        // the next piece goes on with long
}

// open opens the file at its beginning, and has w watch it. A file that does not exist is no error: it is as one
// without records.
func (l *log) open(w *watch) error {
	f, err := os.Open(l.path)
	if missing(err) {
		return nil
	}
	if err != nil {
		return explainRead(err)
	}
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = fmt.Errorf("read log %s: it is not a regular file, so nothing was kept", l.path)
	}
	if err != nil {
		f.Close()
		return err
	}
	w.writes(f)
	l.file, l.id, l.lines = f, identityOf(info), scanner{file: f}
	return nil
}

// explainRead adds a way out.
func explainRead(err error) error {
	if errors.Is(err, os.ErrPermission) {
		return fmt.Errorf("read log: %w; let user id %d read it", err, os.Geteuid())
	}
	return fmt.Errorf("read log: %w", err)
}

func (l *log) close() {
	if l.file != nil {
		l.file.Close()
		l.file = nil
	}
}

// tail goes to where the last n lines begin.
func (l *log) tail(n int) error {
	if l.file == nil {
		return nil
	}
	size, err := l.file.Seek(0, io.SeekEnd)
	if err != nil {
		return explainRead(err)
	}
	if l.format != nil { // what stands behind the last newline is no record
		last := make([]byte, lineMost)
		from := max(0, size-lineMost)
		m, err := l.file.ReadAt(last[:size-from], from)
		if err != nil && err != io.EOF {
			return explainRead(err)
		}
		size = from + int64(bytes.LastIndexByte(last[:m], '\n')+1)
	}
	start, err := tailStart(l.file, size, n, l.endsLine)
	if err != nil {
		return explainRead(err)
	}
	l.lines.seek(start)
	return nil
}

// endsLine says whether a line that is wanted ends with the record that begins with head.
func (l *log) endsLine(head []byte) bool {
	if l.format == nil {
		return true
	}
	rec, ok := l.format.parse(head)
	return !ok || !rec.Partial && l.carries(rec)
}

// carries says whether rec is of the streams that are asked for. What does not say of which it is, such as text that
// was in the file before, is.
func (l *log) carries(rec sink.Record) bool {
	return rec.Stream == 0 || slices.Contains(l.only, rec.Stream)
}

// wants says whether rec is of the streams and the time that are asked for.
func (l *log) wants(rec sink.Record) bool {
	return l.carries(rec) && (rec.Time.IsZero() || !rec.Time.Before(l.since))
}

// next returns the next record that is wanted. Its text is valid until next is called again. io.EOF says that there is
// none now.
func (l *log) next() (sink.Record, error) {
	for l.file != nil {
		line, ended, err := l.lines.next()
		if err == io.EOF {
			return sink.Record{}, io.EOF
		}
		if err != nil {
			return sink.Record{}, explainRead(err)
		}
		if rec := l.record(line, ended); l.wants(rec) {
			return rec, nil
		}
	}
	return sink.Record{}, io.EOF
}

// record understands one line, or one piece of a long one.
func (l *log) record(line []byte, ended bool) sink.Record {
	rec := sink.Record{Stream: l.stream, Text: line}
	if l.format != nil {
		rec.Stream = 0
		if l.inner {
			rec.Time, rec.Stream, rec.Partial = l.long.Time, l.long.Stream, l.long.Partial
		} else if r, ok := l.format.parse(line); ok {
			rec = r
		}
	}
	l.inner = !ended
	if l.inner {
		l.long = rec
		rec.Partial = true
	}
	return rec
}

// rest is what stands behind the last newline of raw output: the beginning of a line, or the unterminated end of
// the whole. In CRI output it is a record that is torn, and not told.
func (l *log) rest() (sink.Record, bool) {
	if l.format != nil || l.file == nil {
		return sink.Record{}, false
	}
	text := l.lines.tail()
	return sink.Record{Stream: l.stream, Text: text, Partial: true}, len(text) > 0
}
