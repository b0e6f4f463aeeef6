package file

import (
	"context"
	"io"
	"slices"
	"time"

	"github.com/muxd/muxd/sink"
)

// afterlife is how long a file that was replaced is read on: its writers look only once a second whether it was.
const afterlife = 3 * time.Second

// leaving is a file that was replaced.
type leaving struct {
	log   *log
	until time.Time
}

// follow tells what comes to the logs until ctx is done, and then what they hold, whole lines or not. It does not
// close the logs.
func follow(ctx context.Context, logs []*log, w *watch, emit func(*log, sink.Record) error) error {
	var old []leaving
	defer func() {
		for _, o := range old {
			o.log.close()
		}
	}()
	for _, l := range logs {
		l.done = func(gone *log) { old = append(old, leaving{gone, time.Now().Add(afterlife)}) }
	}
	for {
		over := ctx.Err() != nil // asked before reading: what was written before it was done is read
		for _, o := range old {
			if err := drain(o.log, emit); err != nil {
				return err
			}
		}
		had := len(old)
		for _, l := range logs {
			if err := drain(l, emit); err != nil {
				return err
			}
		}
		if len(old) > had {
			continue
		}
		if over {
			for _, o := range old {
				if err := emitRests([]*log{o.log}, emit); err != nil {
					return err
				}
			}
			return emitRests(logs, emit)
		}
		var err error
		old = slices.DeleteFunc(old, func(o leaving) bool {
			if err != nil || time.Now().Before(o.until) {
				return false
			}
			err = emitRests([]*log{o.log}, emit)
			o.log.close()
			return true
		})
		if err != nil {
			return err
		}
		var deadline time.Time
		if len(old) > 0 {
			deadline = old[0].until
		}
		if err := w.wait(ctx, deadline); err != nil {
			return err
		}
	}
}

// drain tells what l holds now.
func drain(l *log, emit func(*log, sink.Record) error) error {
	for {
		rec, err := l.next()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		if err := emit(l, rec); err != nil {
			return err
		}
	}
}
