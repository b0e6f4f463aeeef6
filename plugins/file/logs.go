package file

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"io/fs"
	"strings"

	"github.com/muxd/muxd/sink"
)

// readLogs is the plugin's Logs. With {stream} in the path there are two series: what has times is merged by them, and
// of raw output stdout comes before stderr.
func readLogs(ctx context.Context, s settings, q *sink.LogQuery, emit func(sink.Record) error) error {
	if s.format == nil && !(q.Since.IsZero() && q.Until.IsZero()) {
		return fmt.Errorf("%s: raw output has no times, so it cannot be read by them; use another format, "+
			"or ask for the last lines", s.location())
	}
	var w *watch
	if q.Follow {
		w = newWatch()
		defer w.close()
	}
	logs := newLogs(s, q, w)
	defer func() {
		for _, l := range logs {
			l.close()
		}
	}()
	skip, err := goTo(logs, q)
	if err != nil {
		return err
	}
	found := false
	for _, l := range logs {
		found = found || l.found
	}
	if !found && !q.Follow && q.Cursor == "" {
		return &fs.PathError{Op: "open", Path: s.location(), Err: fs.ErrNotExist}
	}
	tell := func(rec sink.Record) error {
		if rec.Cursor, err = cursorOf(logs); err != nil {
			return err
		}
		return emit(rec)
	}
	err = merge(logs, func(rec sink.Record) error {
		if skip > 0 {
			if !rec.Partial {
				skip--
			}
			return nil
		}
		return emit(rec)
	})
	if err != nil {
		return err
	}
	told := func(_ *log, rec sink.Record) error { return tell(rec) }
	if q.Follow {
		err = follow(ctx, logs, w, told)
	} else {
		err = emitRests(logs, told)
	}
	for _, l := range logs {
		err = cmp.Or(err, l.bad)
	}
	return err
}

// newLogs are the series to read, one for each path.
func newLogs(s settings, q *sink.LogQuery, w *watch) []*log {
	var logs []*log
	for i, t := range s.targets {
		if i > 0 && !s.apart {
			break
		}
		l := &log{
			series: seriesOf(t.path), path: t.path, format: s.format, only: q.Streams, since: q.Since, until: q.Until, watch: w,
		}
		if s.apart {
			l.stream = t.stream
		}
		w.names(pathIn(l.series))
		logs = append(logs, l)
	}
	return logs
}

// pathIn is a path in the directory of s.
func pathIn(s series) string { return s.dir + "/" + s.name }

// cursorGlue stands between the cursors of several series.
const cursorGlue = "+"

// cursorOf is a cursor for all logs together.
func cursorOf(logs []*log) (string, error) {
	var b []byte
	var err error
	for i, l := range logs {
		if l.inner {
			return "", nil // in the middle of a line
		}
		if i > 0 {
			b = append(b, cursorGlue...)
		}
		if b, err = l.cursor(b); err != nil {
			return "", err
		}
	}
	return string(b), nil
}

// goTo goes to where reading begins, and returns how many lines from there on are too many.
func goTo(logs []*log, q *sink.LogQuery) (skip int, err error) {
	switch {
	case q.Cursor != "":
		parts := strings.Split(q.Cursor, cursorGlue)
		if len(parts) != len(logs) {
			return 0, fmt.Errorf("cursor %s: %w", q.Cursor, errCursor)
		}
		for i, l := range logs {
			if err := l.resume(parts[i]); err != nil {
				return 0, fmt.Errorf("cursor %s: %w", q.Cursor, err)
			}
		}
		return 0, nil
	case q.Tail >= 0:
		return toTail(logs, q.Tail)
	}
	for _, l := range logs {
		if err := l.begin(); err != nil {
			return 0, err
		}
	}
	return 0, nil
}

// toTail goes to the last n lines of all logs together, and returns how many lines from there on are too many:
// each of several series is taken back by n lines, and what they hold is counted.
func toTail(logs []*log, n int) (skip int, err error) {
	type start struct {
		place place
		at    int64
	}
	starts := make([]start, len(logs))
	for i, l := range logs {
		if err := l.tail(n); err != nil {
			return 0, err
		}
		starts[i] = start{l.place, l.position()}
	}
	if len(logs) < 2 {
		return 0, nil
	}
	lines := 0
	err = merge(logs, func(rec sink.Record) error {
		if !rec.Partial {
			lines++
		}
		return nil
	})
	if err != nil {
		return 0, err
	}
	for i, l := range logs {
		l.close()
		l.place = starts[i].place
		l.place.offset = starts[i].at
	}
	return max(0, lines-n), nil
}

// merge tells the records that the logs hold now: those with a time in its order, others in the order of the logs. Each has
// a cursor.
func merge(logs []*log, emit func(sink.Record) error) error {
	type head struct {
		rec    sink.Record
		before string // where its log was before it
		after  string
	}
	heads := make([]*head, len(logs))
	places := make([]string, len(logs))
	placeOf := func(l *log) (string, error) {
		if l.inner {
			return "", nil
		}
		b, err := l.cursor(nil)
		return string(b), err
	}
	advance := func(i int) error {
		before := places[i]
		rec, err := logs[i].next()
		heads[i] = nil
		if err != nil && err != io.EOF {
			return err
		}
		after, placeErr := placeOf(logs[i])
		if placeErr != nil {
			return placeErr
		}
		if err == nil {
			heads[i] = &head{rec, before, after}
		} else {
			places[i] = after
		}
		return nil
	}
	var err error
	for i, l := range logs {
		if places[i], err = placeOf(l); err != nil {
			return err
		}
		if err := advance(i); err != nil {
			return err
		}
	}
	for {
		first := -1
		for i, h := range heads {
			if h != nil && (first < 0 || h.rec.Time.Before(heads[first].rec.Time)) {
				first = i
			}
		}
		if first < 0 {
			return nil
		}
		rec := heads[first].rec
		places[first] = heads[first].after
		if places[first] != "" {
			rec.Cursor = strings.Join(places, cursorGlue)
		}
		if err := emit(rec); err != nil {
			return err
		}
		if err := advance(first); err != nil {
			return err
		}
	}
}

// emitRests tells what stands behind the last newlines.
func emitRests(logs []*log, emit func(*log, sink.Record) error) error {
	for _, l := range logs {
		if rec, ok := l.rest(); ok {
			if err := emit(l, rec); err != nil {
				return err
			}
		}
	}
	return nil
}
