package file

import (
	"context"
	"fmt"
	"io"
	"io/fs"

	"github.com/muxd/muxd/sink"
)

// readLogs is the plugin's Logs. With {stream} in the path there are two files: what was written as CRI records is
// merged by time, and of raw output stdout comes before stderr.
func readLogs(ctx context.Context, s settings, q *sink.LogQuery, emit func(sink.Record) error) error {
	if s.format == nil && !q.Since.IsZero() {
		return fmt.Errorf("read log %s: raw output has no times, so it cannot be read since one; use another format, "+
			"or ask for the last lines", s.location())
	}
	var w *watch
	if q.Follow {
		w = newWatch()
		defer w.close()
	}
	logs := newLogs(s, q)
	defer func() {
		for _, l := range logs {
			l.close()
		}
	}()
	found := false
	for _, l := range logs {
		w.names(l.path)
		if err := l.open(w); err != nil {
			return err
		}
		found = found || l.file != nil
	}
	if !found && !q.Follow {
		return fmt.Errorf("read log: %w", &fs.PathError{Op: "open", Path: s.location(), Err: fs.ErrNotExist})
	}
	skip, err := toTail(logs, q.Tail)
	if err != nil {
		return err
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
	if q.Follow {
		return follow(ctx, logs, w, emit)
	}
	return emitRests(logs, emit)
}

// newLogs are the files to read, one for each path.
func newLogs(s settings, q *sink.LogQuery) []*log {
	var logs []*log
	for i, t := range s.targets {
		if i > 0 && !s.apart {
			break
		}
		l := &log{path: t.path, format: s.format, only: q.Streams, since: q.Since}
		if s.apart {
			l.stream = t.stream
		}
		logs = append(logs, l)
	}
	return logs
}

// toTail goes to the last n lines of all logs together, and returns how many lines from there on are too many:
// each of several files is taken back by n lines, and what they hold is counted. Negative n is all.
func toTail(logs []*log, n int) (skip int, err error) {
	if n < 0 {
		return 0, nil
	}
	starts := make([]int64, len(logs))
	for i, l := range logs {
		if err := l.tail(n); err != nil {
			return 0, err
		}
		starts[i] = l.lines.position()
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
		l.lines.seek(starts[i])
		l.inner = false
	}
	return max(0, lines-n), nil
}

// merge tells the records that the logs hold now: those with a time in its order, others in the order of the logs.
func merge(logs []*log, emit func(sink.Record) error) error {
	heads := make([]*sink.Record, len(logs))
	advance := func(i int) error {
		rec, err := logs[i].next()
		switch err {
		case nil:
			heads[i] = &rec
		case io.EOF:
			heads[i] = nil
		default:
			return err
		}
		return nil
	}
	for i := range logs {
		if err := advance(i); err != nil {
			return err
		}
	}
	for {
		first := -1
		for i, h := range heads {
			if h != nil && (first < 0 || h.Time.Before(heads[first].Time)) {
				first = i
			}
		}
		if first < 0 {
			return nil
		}
		if err := emit(*heads[first]); err != nil {
			return err
		}
		if err := advance(first); err != nil {
			return err
		}
	}
}

// emitRests tells what stands behind the last newlines.
func emitRests(logs []*log, emit func(sink.Record) error) error {
	for _, l := range logs {
		if rec, ok := l.rest(); ok {
			if err := emit(rec); err != nil {
				return err
			}
		}
	}
	return nil
}
