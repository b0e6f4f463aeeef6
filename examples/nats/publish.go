package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/muxd/muxd/sink"
)

// Headers of a message, beside JetStream's own.
const (
	headerTime    = "Muxd-Time"    // when the line was read
	headerChild   = "Muxd-Child"   // the child's name
	headerPartial = "Muxd-Partial" // the line goes on in the next message, or has no end
)

const (
	batchMost = 512              // messages that are under way at a time
	ackMost   = 10 * time.Second // how long an answer to a message may take
)

// publisher publishes the lines of one opening. A message has the opening, the stream and the line's offset as its
// Nats-Msg-Id, so JetStream drops what it has already: what comes again after a kill, and what is sent again since no answer came.
type publisher struct {
	js      jetstream.JetStream
	s       settings
	o       *sink.Opening
	retries *sink.Retries
}

func newPublisher(js jetstream.JetStream, s settings, o *sink.Opening) *publisher {
	return &publisher{js, s, o, &sink.Retries{Report: o.Trouble, First: 100 * time.Millisecond, Most: 5 * time.Second}}
}

func (p *publisher) Close() error { return nil }

func (p *publisher) Write(ctx context.Context, c *sink.Chunk) error {
	var batch []*nats.Msg
	for l := range c.Lines(p.s.maxLine) {
		batch = append(batch, p.message(c, l))
		if len(batch) < batchMost {
			continue
		}
		if err := p.publish(ctx, c.Stream, batch); err != nil {
			return err
		}
		l.Done()
		batch = batch[:0]
	}
	return p.publish(ctx, c.Stream, batch)
}

func (p *publisher) message(c *sink.Chunk, l sink.Line) *nats.Msg {
	m := nats.NewMsg(p.s.subject(p.o.Child, c.Stream.String()))
	m.Data = l.Text
	m.Header.Set(jetstream.MsgIDHeader, fmt.Sprintf("%s/%s/%d", p.o.ID, c.Stream, l.Offset))
	m.Header.Set(jetstream.ExpectedStreamHeader, p.s.stream)
	m.Header.Set(headerTime, c.Time.UTC().Format(time.RFC3339Nano))
	m.Header.Set(headerChild, p.o.Child.Name)
	if l.Partial {
		m.Header.Set(headerPartial, "true")
	}
	return m
}

// publish returns when JetStream has all of batch. It tries again until then, or until ctx is done.
func (p *publisher) publish(ctx context.Context, st sink.Stream, batch []*nats.Msg) error {
	retry := p.retries.New()
	defer retry.Over()
	for {
		known, err := p.try(batch)
		if err == nil {
			p.o.Count(st, "acknowledged", uint64(len(batch)))
			p.o.Count(st, "known", known)
			return nil
		}
		if err := retry.Wait(ctx, fmt.Errorf("publish to %s: %w", p.s.url, err)); err != nil {
			return err
		}
	}
}

// try sends batch, and waits for the answers, which say how many of them JetStream had already. A connection that is away is known at once.
func (p *publisher) try(batch []*nats.Msg) (known uint64, err error) {
	if !p.js.Conn().IsConnected() {
		return 0, nats.ErrDisconnected
	}
	late := time.NewTimer(ackMost)
	defer late.Stop()
	gone := p.js.Conn().StatusChanged(nats.RECONNECTING, nats.CLOSED)
	defer p.js.Conn().RemoveStatusListener(gone)
	answers := make([]jetstream.PubAckFuture, len(batch))
	for i, m := range batch {
		sent := *m // it is given a reply's subject, and cannot be sent again
		if answers[i], err = p.js.PublishMsgAsync(&sent, jetstream.WithRetryAttempts(0)); err != nil {
			return 0, err
		}
	}
	for _, a := range answers {
		select {
		case ack := <-a.Ok():
			if ack.Duplicate {
				known++
			}
		case err := <-a.Err():
			return 0, err
		case <-gone:
			return 0, nats.ErrDisconnected
		case <-late.C:
			return 0, errors.New("no answer came")
		}
	}
	return known, nil
}
