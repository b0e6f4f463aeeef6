package sinktest

import (
	"context"
	"fmt"
	"io"
	"sync/atomic"
	"time"

	"github.com/muxd/muxd/sink/sinkpb"
)

// open opens the target's stream, or others, with a reader behind it.
func (s *session) open(h *host, streams ...sinkpb.Stream) (*opening, error) {
	if len(streams) == 0 {
		streams = s.target.streams()
	}
	p, err := s.place(s.target)
	if err != nil {
		return nil, err
	}
	r := newReader(s.target, p)
	if r != nil {
		if err := r.begin(); err != nil {
			return nil, err
		}
	}
	ctx, cancel := s.soon()
	defer cancel()
	o, err := h.open(ctx, names.next(), s.target.wire(p), s.target.wiring, streams)
	if err == nil && r != nil {
		o.reader = r
		err = r.opened(ctx, o)
	}
	if err != nil && r != nil {
		r.close()
	}
	return o, err
}

// names gives each opening a name that is unique for ever, as far as a plugin can see.
var names counter

type counter struct{ n atomic.Int64 }

func (c *counter) next() string { return fmt.Sprintf("sinktest-%d", c.n.Add(1)) }

// openNew starts a plugin and opens the target's stream.
func (s *session) openNew() (*host, *opening, error) {
	h, err := s.host()
	if err != nil {
		return nil, nil, err
	}
	o, err := s.open(h)
	return h, o, err
}

// openWritten is openNew, and writes n bytes of l to the target's stream.
func (s *session) openWritten(l *lines, n int64) (*host, *opening, error) {
	h, o, err := s.openNew()
	if err != nil {
		return nil, nil, err
	}
	return h, o, s.write(o, first(l, n), 0)
}

// write writes all of r to the opening's output stream, in writes of that size. It fails when the sink takes nothing for the time-out.
func (s *session) write(o *opening, r io.Reader, size int) error {
	ctx, cancel := context.WithCancel(s)
	defer cancel()
	written := o.written[s.target.out]
	last := written.Load()
	done := make(chan error, 1)
	go func() { done <- o.write(ctx, s.target.out, r, size) }()
	for {
		select {
		case err := <-done:
			return err
		case <-time.After(s.o.Timeout):
		}
		now := written.Load()
		if now == last {
			cancel()
		}
		last = now
	}
}

// finish has the child exit, and checks numbers and bytes: want is a new traffic like the one that was written.
func (s *session) finish(o *opening, want traffic) error {
	ctx, cancel := s.soon()
	defer cancel()
	if err := o.exit(ctx); err != nil {
		return err
	}
	return s.finished(o, want)
}

// forAll is a context for all bytes of o.
func (s *session) forAll(o *opening) (context.Context, context.CancelFunc) {
	if o.long && s.o.Full {
		return s.within(30 * s.o.Timeout) // a log is read back record by record
	}
	return s.soon()
}

// finished is finish for a child that has exited.
func (s *session) finished(o *opening, want traffic) error {
	ctx, cancel := s.forAll(o)
	defer cancel()
	if err := o.flushed(ctx, s.target.exact || o.h.starts == 1); err != nil {
		return err
	}
	if err := s.same(o, want); err != nil {
		return err
	}
	if err := o.sayForget(ctx); err != nil {
		return err
	}
	defer func() {
		o.close()
		o.h.drop(o)
	}()
	if sp, ok := o.reader.(*spool); ok && s.compares(o) {
		if n, most := sp.settled(), o.written[s.target.out].Load(); n > most {
			return fmt.Errorf("%d bytes came out, and %d were written", n, most)
		}
	}
	return nil
}

// compares says whether what comes out must be what was written: not of a sink that drops, nor of one that was killed and does not
// say that it is exact.
func (s *session) compares(o *opening) bool {
	return o.reader != nil && !s.target.drops && (s.target.exact || o.h.starts == 1 || o.wiring == sinkpb.Wiring_DIRECT)
}

// same compares what came out of the output stream with what was written to it.
func (s *session) same(o *opening, want traffic) error {
	if !s.compares(o) {
		return nil
	}
	ctx, cancel := s.forAll(o)
	defer cancel()
	n := o.written[s.target.out].Load()
	came, err := o.reader.output(ctx, o, n)
	if err != nil {
		return err
	}
	defer came.Close()
	if s.target.read == readLogs { // whether the last line had a newline a log does not say
		return compare(endLine(came), endLine(first(want, n)))
	}
	return compare(came, first(want, n))
}

// endLine ends the last line of r, if it is not ended.
func endLine(r io.Reader) io.Reader { return &lineEnder{r: r} }

type lineEnder struct {
	r     io.Reader
	last  byte
	some  bool
	ended bool
}

func (l *lineEnder) Read(b []byte) (int, error) {
	if l.ended || len(b) == 0 {
		return 0, io.EOF
	}
	n, err := l.r.Read(b)
	if n > 0 {
		l.last, l.some = b[n-1], true
		return n, nil
	}
	if err == io.EOF && l.some && l.last != '\n' {
		l.ended = true
		b[0] = '\n'
		return 1, nil
	}
	return 0, err
}

// pass is the whole life of an opening: written, ended, compared.
func (s *session) pass(o *opening, written, want traffic, n int64, size int) error {
	if err := s.write(o, first(written, n), size); err != nil {
		return err
	}
	return s.finish(o, want)
}
