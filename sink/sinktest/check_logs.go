package sinktest

import (
	"errors"
	"fmt"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/muxd/muxd/sink/sinkpb"
)

// texts collects the lines of a log.
type texts struct {
	lines   []string
	cursors []string
	open    bool
}

func (t *texts) add(r *sinkpb.LogRecord) error {
	if t.open {
		t.lines[len(t.lines)-1] += string(r.Text)
		t.cursors[len(t.cursors)-1] = r.Cursor
	} else {
		t.lines, t.cursors = append(t.lines, string(r.Text)), append(t.cursors, r.Cursor)
	}
	t.open = r.Partial
	return nil
}

// are says how the lines differ from those of numbers from to to.
func (t *texts) are(from, to int) error {
	if len(t.lines) != to-from+1 {
		return fmt.Errorf("%d lines came, want %d", len(t.lines), to-from+1)
	}
	for i, text := range t.lines {
		if want := string(line(from + i)); text+"\n" != want {
			return fmt.Errorf("line %d is %.40q, want %.40q", from+i, text, want)
		}
	}
	return nil
}

func logsAll(s *session) error {
	const n = 300
	_, o, err := s.openNew()
	if err != nil {
		return err
	}
	if err := s.write(o, someLines(1, n), 0); err != nil {
		return err
	}
	ctx, cancel := s.soon()
	defer cancel()
	if err := o.exit(ctx); err != nil {
		return err
	}
	if err := o.flushed(ctx, true); err != nil {
		return err
	}
	var all, last, behind texts
	if _, err := o.logs(ctx, &sinkpb.LogsRequest{Tail: -1}, all.add); err != nil {
		return unless("Logs with this spec", err)
	}
	if err := all.are(1, n); err != nil {
		return err
	}
	if _, err := o.logs(ctx, &sinkpb.LogsRequest{Tail: 7}, last.add); err != nil {
		return err
	}
	if err := last.are(n-6, n); err != nil {
		return fmt.Errorf("with tail 7: %w", err)
	}
	if err := o.forget(ctx); err != nil {
		return err
	}
	const at = 100
	if all.cursors[at-1] == "" {
		return nil
	}
	if _, err := o.logs(ctx, &sinkpb.LogsRequest{Tail: -1, Cursor: all.cursors[at-1]}, behind.add); err != nil {
		return fmt.Errorf("behind the cursor of line %d, after Forget: %w", at, err)
	}
	if err := behind.are(at+1, n); err != nil {
		return fmt.Errorf("behind the cursor of line %d, after Forget: %w", at, err)
	}
	return nil
}

func logsFollow(s *session) error {
	const n = 200
	_, o, err := s.openNew()
	if err != nil {
		return err
	}
	ctx, cancel := s.soon()
	defer cancel()
	if err := s.write(o, someLines(1, 1), 0); err != nil {
		return err
	}
	var all texts
	came, ended := make(chan struct{}), make(chan error, 1)
	go func() {
		_, err := o.logs(ctx, &sinkpb.LogsRequest{Tail: -1, Follow: true}, func(r *sinkpb.LogRecord) error {
			if len(all.lines) == 0 {
				close(came)
			}
			return all.add(r)
		})
		ended <- err
	}()
	select {
	case <-came:
	case err := <-ended:
		if status.Code(err) == codes.Unimplemented {
			return unless("Logs with this spec", err)
		}
		return errors.Join(errors.New("the log that is followed ended while its stream goes on"), err)
	case <-ctx.Done():
		return errors.New("the line that was written did not come")
	}
	if err := s.write(o, someLines(2, n), 0); err != nil {
		return err
	}
	if err := o.exit(ctx); err != nil {
		return err
	}
	if err := o.flushed(ctx, false); err != nil {
		return err
	}
	select {
	case err := <-ended:
		if err != nil {
			return err
		}
	case <-ctx.Done():
		return errors.New("the stream is flushed, and the log that is followed does not end")
	}
	if err := all.are(1, n); err != nil {
		return err
	}
	return o.forget(ctx)
}
