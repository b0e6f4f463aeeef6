package file

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/muxd/muxd/sink"
)

// log reads back one series.
type log struct {
	series
	path   string // of the target; it may hold {date}
	format format // nil: raw
	stream sink.Stream
	only   []sink.Stream
	since  time.Time
	until  time.Time

	place  place
	file   *opened // nil where there is none at the place
	first  []byte  // its beginning, as far as it was there
	lines  scanner
	long   sink.Record // of a line that is told in several pieces
	inner  bool        // the next piece goes on with long
	watch  *watch
	done   func(*log)  // takes a file that was replaced from outside, to be read on
	alone  bool        // it is such a file
	found  bool        // there was a file
	closed time.Time   // when the open one was, as its name says; zero: it is written
	last   sink.Record // the latest one that was told, without its text
	told   bool        // that the open file is damaged
	bad    error       // of the first file that is
}

// explainRead adds a way out.
func explainRead(err error) error {
	if err == nil || errors.Is(err, os.ErrClosed) {
		return err
	}
	if errors.Is(err, os.ErrPermission) {
		return fmt.Errorf("%w; let user id %d read it", err, os.Geteuid())
	}
	return err
}

func (l *log) close() {
	if l.file != nil {
		l.file.close()
		l.file = nil
	}
}

// open goes to p in the file m.
func (l *log) open(m member, p place) error {
	f, err := openMember(l.dir, m)
	if err != nil {
		return err
	}
	l.close()
	l.place, l.file, l.first, l.inner, l.told, l.found = p, f, nil, false, false, true
	l.closed = m.closed
	l.lines = scanner{file: f.text, buf: l.lines.buf}
	l.lines.seek(p.offset)
	if f.pack == nil {
		l.watch.writes(f.file)
		return nil
	}
	l.first, err = f.head() // now, since going back costs reading it again
	return intact(err)
}

// begin goes to the beginning of the series, or of what can have come since the time that is asked for.
func (l *log) begin() error {
	for {
		all, err := l.members()
		if err != nil {
			return explainRead(err)
		}
		all = whole(all)
		if len(all) == 0 {
			return nil
		}
		i := 0
		for i < len(all)-1 && !all[i].closed.IsZero() && all[i].closed.Before(l.since) {
			i++
		}
		err = l.open(all[i], placeOf(all, i))
		if missing(err) {
			continue // it was compressed or deleted meanwhile
		}
		return explainRead(err)
	}
}

// placeOf is the beginning of a member.
func placeOf(all []member, i int) place {
	p := place{date: all[i].date}
	if i > 0 && all[i-1].date == all[i].date {
		p.after = all[i-1].closed
	}
	return p
}

// resume goes to the place that a cursor names.
func (l *log) resume(cursor string) error {
	p, sum, err := parseCursor(cursor)
	if err != nil {
		return err
	}
	for {
		all, err := l.members()
		if err != nil {
			return explainRead(err)
		}
		all = whole(all)
		i := slices.IndexFunc(all, p.of)
		if i < 0 && p.offset == 0 {
			l.place = p
			return nil // its file was not there yet
		}
		if i < 0 {
			return errors.New("the file that the cursor names is gone; read without it")
		}
		err = l.open(all[i], p)
		if missing(err) {
			continue
		}
		if err != nil {
			return explainRead(err)
		}
		head, err := l.file.head()
		if err != nil {
			return explainRead(err)
		}
		if got := p.cursor(nil, head); string(got) != cursor || int64(len(head)) < min(p.offset, sumMost) {
			return fmt.Errorf("the file that the cursor names is gone (%x), and another is in its place; read without it", sum)
		}
		return nil
	}
}

// cursor appends where l is to b, as resume takes it.
func (l *log) cursor(b []byte) ([]byte, error) {
	p := l.place
	p.offset = l.position()
	if l.file != nil && l.file.pack == nil && len(l.first) < sumMost && p.offset > int64(len(l.first)) {
		var err error
		if l.first, err = l.file.head(); err != nil {
			return nil, explainRead(err)
		}
	}
	return p.cursor(b, l.first), nil
}

// position is where in its file l is.
func (l *log) position() int64 {
	if l.file == nil {
		return l.place.offset
	}
	return l.lines.position()
}

// carries says whether rec is of the streams that are asked for. What does not say of which it is, such as text that
// was in the file before, is.
func (l *log) carries(rec sink.Record) bool {
	return rec.Stream == 0 || slices.Contains(l.only, rec.Stream)
}

// wants says whether rec is of the streams and the time that are asked for.
func (l *log) wants(rec sink.Record) bool {
	return l.carries(rec) && (rec.Time.IsZero() || !rec.Time.Before(l.since) && (l.until.IsZero() || !rec.Time.After(l.until)))
}

// next returns the next record that is wanted, from whatever file. Its text is valid until next is called again. io.EOF says
// that there is none now.
func (l *log) next() (sink.Record, error) {
	for moved := false; ; {
		if l.file == nil {
			if advanced, err := l.advance(); err != nil || !advanced {
				return sink.Record{}, ended(err)
			}
		}
		line, whole, err := l.lines.next()
		if errors.Is(err, errDamaged) {
			if rec, ok := l.lost(err); ok {
				return rec, nil
			}
			err = io.EOF // as far as it can be read
		}
		switch {
		case err == io.EOF && l.alone:
			return sink.Record{}, io.EOF
		case err == io.EOF && moved:
			if err := l.leave(); err != nil {
				return sink.Record{}, err
			}
			moved = false
		case err == io.EOF:
			// What was written before the file was left is read before the next one is.
			if moved, err = l.left(); err != nil || !moved {
				return sink.Record{}, ended(err)
			}
		case err != nil:
			return sink.Record{}, explainRead(err)
		default:
			if rec := l.record(line, whole); l.wants(rec) {
				l.last = sink.Record{Time: rec.Time, Stream: rec.Stream, Partial: rec.Partial}
				return rec, nil
			}
		}
	}
}

// lost is what is told once where the rest of a file cannot be read, behind the end of a line that it has cut. The files behind
// it can be read.
func (l *log) lost(err error) (rec sink.Record, ok bool) {
	switch {
	case l.told:
		return rec, false
	case l.last.Partial:
		l.last.Partial, l.inner = false, false
		return l.last, true
	}
	l.told = true
	if l.bad == nil {
		l.bad = err
	}
	return sink.Record{Text: fmt.Appendf(nil, "[muxd: %v; what stood behind this is missing]", err)}, true
}

// ended is io.EOF where there is no error.
func ended(err error) error {
	if err == nil {
		return io.EOF
	}
	return err
}

// left says whether nothing is written to the file any more: another follows it.
func (l *log) left() (bool, error) {
	if l.file.pack != nil {
		return l.followed()
	}
	now := filepath.Join(l.dir, filepath.Base(pathAt(l.path, time.Now())))
	info, err := os.Stat(now)
	if err == nil && identityOf(info) == l.file.id {
		if info.Size() < l.lines.position() { // it was truncated
			l.lines.seek(0)
			l.inner, l.first = false, nil
			return false, nil
		}
		return false, nil
	}
	if err != nil && !missing(err) {
		return false, explainRead(err)
	}
	all, err := l.members()
	if err != nil {
		return false, explainRead(err)
	}
	all = whole(all)
	i := slices.IndexFunc(all, l.place.of)
	if i < 0 {
		l.watch.names(now) // it may come back, and its directory too
		return false, nil
	}
	if !all[i].closed.IsZero() || i < len(all)-1 {
		return true, nil
	}
	info, err = os.Stat(filepath.Join(l.dir, all[i].name))
	return err == nil && identityOf(info) != l.file.id, nil
}

// followed says whether there is anything behind a file to which nothing is written any more, or will be.
func (l *log) followed() (bool, error) {
	all, err := l.members()
	if err != nil {
		return false, explainRead(err)
	}
	all = whole(all)
	i := slices.IndexFunc(all, l.place.of)
	return i >= 0 && (!all[i].closed.IsZero() || i < len(all)-1 || l.deleted(all[i])), nil
}

// deleted says whether the file that is open is none of the series any more, so that m, which is in its place, comes behind it.
func (l *log) deleted(m member) bool {
	switch {
	case !l.closed.IsZero():
		return !m.closed.Equal(l.closed)
	case m.closed.IsZero(): // is written, as the open one was
		return false
	}
	// The open one was rotated since. It is m, or m is what it was packed to, where they begin alike.
	f, err := openMember(l.dir, m)
	if err != nil {
		return false
	}
	defer f.close()
	if f.id == l.file.id {
		return false
	}
	ours, err := l.file.head()
	theirs, theirErr := f.head()
	return m.packed == "" || err == nil && theirErr == nil && !bytes.Equal(ours, theirs)
}

// leave goes from a file that was left to the next one of the series.
func (l *log) leave() error {
	all, err := l.members()
	if err != nil {
		return explainRead(err)
	}
	all = whole(all)
	i := slices.IndexFunc(all, l.place.of)
	if i < 0 {
		return nil
	}
	if l.deleted(all[i]) {
		l.close()
		l.place.offset = 0
		return nil
	}
	old := *l
	old.alone = true
	if all[i].closed.IsZero() && i == len(all)-1 { // somebody else has put another file into its place
		if l.done != nil {
			l.file = nil
			l.lines.buf = nil
			l.done(&old)
		}
		l.close()
		l.place.offset = 0
		return nil
	}
	l.close()
	l.place = place{date: all[i].date, after: all[i].closed}
	if i+1 < len(all) && all[i+1].date != all[i].date {
		l.place = place{date: all[i+1].date}
	}
	return nil
}

// advance opens the file of the place, if there is one by now.
func (l *log) advance() (bool, error) {
	for {
		all, err := l.members()
		if err != nil {
			return false, explainRead(err)
		}
		all = whole(all)
		i := slices.IndexFunc(all, func(m member) bool { return l.place.of(m) || m.date > l.place.date })
		if i < 0 {
			l.watch.names(filepath.Join(l.dir, l.name))
			return false, nil
		}
		p := l.place
		if all[i].date != p.date {
			p = place{date: all[i].date}
		}
		err = l.open(all[i], p)
		if missing(err) {
			continue
		}
		return err == nil, explainRead(err)
	}
}

// record understands one line, or one piece of a long one.
func (l *log) record(line []byte, ended bool) sink.Record {
	rec := sink.Record{Stream: l.stream, Text: line}
	if l.format != nil {
		if l.inner {
			rec.Time, rec.Stream, rec.Partial = l.long.Time, l.long.Stream, l.long.Partial
		} else if r, ok := l.format.parse(line); ok {
			rec = r
			if rec.Stream == 0 {
				rec.Stream = l.stream
			}
		} else {
			rec.Stream = 0
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
// the whole. Elsewhere it is a record that is torn, and not told.
func (l *log) rest() (sink.Record, bool) {
	if l.format != nil || l.file == nil {
		return sink.Record{}, false
	}
	text := l.lines.tail()
	return sink.Record{Stream: l.stream, Text: text, Partial: true}, len(text) > 0
}
