package main

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/muxd/muxd/sink"
)

// lastMost is how long the rest of a log may take to come when its child has ended.
const lastMost = 10 * time.Second

// log reads what a child has written back from JetStream. A cursor is a message's number in the stream.
type log struct {
	js   jetstream.JetStream
	s    settings
	q    *sink.LogQuery
	next uint64 // number of the message to go on with; 0: the first
}

// readLog is sink.Plugin.Logs.
func readLog(ctx context.Context, js jetstream.JetStream, s settings, q *sink.LogQuery, emit func(sink.Record) error) error {
	l := &log{js: js, s: s, q: q}
	if q.Cursor != "" {
		n, err := strconv.ParseUint(q.Cursor, 10, 64)
		if err != nil {
			return fmt.Errorf("cursor %q: want a number", q.Cursor)
		}
		l.next = n + 1
	}
	err := l.tail(ctx, emit)
	if !q.Follow {
		return err
	}
	if err == nil {
		err = l.follow(ctx, emit)
	}
	if ctx.Err() == nil {
		return err
	}
	// The streams have ended, and all that was in them is published.
	last, cancel := context.WithTimeout(context.WithoutCancel(ctx), lastMost)
	defer cancel()
	return l.read(last, false, emit)
}

// tail emits what there is, or the end of it.
func (l *log) tail(ctx context.Context, emit func(sink.Record) error) error {
	if l.q.Tail < 0 || l.q.Cursor != "" {
		return l.read(ctx, false, emit)
	}
	var kept []sink.Record
	err := l.read(ctx, false, func(r sink.Record) error {
		kept = append(kept, r)
		if over := len(kept) - 2*l.q.Tail; over > 0 { // seldom, and many at once
			kept = slices.Delete(kept, 0, len(kept)-l.q.Tail)
		}
		return nil
	})
	for _, r := range kept[max(0, len(kept)-l.q.Tail):] {
		if err := emit(r); err != nil {
			return err
		}
	}
	return err
}

// follow emits what is published until ctx is done, or emit fails. A server that goes away is waited for.
func (l *log) follow(ctx context.Context, emit func(sink.Record) error) error {
	waits := sink.Retries{Report: func(error) {}, First: 100 * time.Millisecond, Most: 5 * time.Second}
	for retry := waits.New(); ; {
		var emitErr error
		err := l.read(ctx, true, func(r sink.Record) error {
			retry.Over()
			emitErr = emit(r)
			return emitErr
		})
		if emitErr != nil {
			return emitErr
		}
		if ctx.Err() != nil || retry.Wait(ctx, err) != nil {
			return ctx.Err()
		}
	}
}

// read emits what is published from l.next on. It returns at the end, or with follow when ctx is done.
func (l *log) read(ctx context.Context, follow bool, emit func(sink.Record) error) error {
	cfg := jetstream.OrderedConsumerConfig{FilterSubjects: []string{l.s.subject(l.q.Child, "*")}}
	switch {
	case l.next > 0:
		cfg.DeliverPolicy, cfg.OptStartSeq = jetstream.DeliverByStartSequencePolicy, l.next
	case !l.q.Since.IsZero():
		cfg.DeliverPolicy, cfg.OptStartTime = jetstream.DeliverByStartTimePolicy, &l.q.Since
	}
	stream, err := l.js.Stream(ctx, l.s.stream)
	if err != nil {
		return fmt.Errorf("stream %s at %s: %w", l.s.stream, l.s.url, err)
	}
	c, err := stream.OrderedConsumer(ctx, cfg)
	if err != nil {
		return fmt.Errorf("read stream %s: %w", l.s.stream, err)
	}
	if info, err := c.Info(ctx); err != nil {
		return fmt.Errorf("read stream %s: %w", l.s.stream, err)
	} else if info.NumPending == 0 && !follow {
		return nil
	}
	messages, err := c.Messages()
	if err != nil {
		return fmt.Errorf("read stream %s: %w", l.s.stream, err)
	}
	defer messages.Stop()
	for {
		m, err := messages.Next(jetstream.NextContext(ctx))
		if err != nil {
			if cause := ctx.Err(); cause != nil {
				return cause
			}
			return fmt.Errorf("read stream %s: %w", l.s.stream, err)
		}
		meta, err := m.Metadata()
		if err != nil {
			return err
		}
		l.next = meta.Sequence.Stream + 1
		r := recordOf(m, meta)
		if l.wanted(r) {
			if err := emit(r); err != nil {
				return err
			}
		}
		if meta.NumPending == 0 && !follow {
			return nil
		}
	}
}

// wanted says whether the query is for r.
func (l *log) wanted(r sink.Record) bool {
	return slices.Contains(l.q.Streams, r.Stream) && !r.Time.Before(l.q.Since) && (l.q.Until.IsZero() || !r.Time.After(l.q.Until))
}

// recordOf is what a message says.
func recordOf(m jetstream.Msg, meta *jetstream.MsgMetadata) sink.Record {
	r := sink.Record{
		Text: m.Data(), Partial: m.Headers().Get(headerPartial) != "", Time: meta.Timestamp,
		Cursor: strconv.FormatUint(meta.Sequence.Stream, 10),
	}
	if t, err := time.Parse(time.RFC3339Nano, m.Headers().Get(headerTime)); err == nil {
		r.Time = t
	}
	switch subject := m.Subject(); subject[strings.LastIndexByte(subject, '.')+1:] {
	case "stdout":
		r.Stream = sink.Stdout
	case "stderr":
		r.Stream = sink.Stderr
	}
	return r
}
