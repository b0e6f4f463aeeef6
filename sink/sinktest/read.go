package sinktest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/muxd/muxd/sink/sinkpb"
)

// reader reads what came out of an opening.
type reader interface {
	// begin is called before the first Open.
	begin() error
	// opened is called after each Open, of every process.
	opened(ctx context.Context, o *opening) error
	// output is all that came out of the opening's output stream, which is flushed; want is how much there should be.
	output(ctx context.Context, o *opening, want int64) (io.ReadCloser, error)
	// close ends it. It is called before the opening's directory is removed.
	close()
}

// newReader makes the reader of t. It returns nil where nothing can be read.
func newReader(t *target, p *place) reader {
	switch t.read {
	case readOut:
		return fileReader(p.path(readOut))
	case readListen:
		return newSpool(p, &listenFrom{path: p.path(readListen)})
	case readConnect:
		return newSpool(p, &connectFrom{path: p.path(readConnect)})
	case readFIFO:
		return newSpool(p, &fifoFrom{path: p.path(readFIFO)})
	case readViewer:
		return newSpool(p, &viewerFrom{})
	case readLogs:
		return logsReader{}
	case readNothing:
		return nil
	}
	return commandReader(p.fill(t.read))
}

// fileReader reads a file.
type fileReader string

func (fileReader) begin() error                           { return nil }
func (fileReader) opened(context.Context, *opening) error { return nil }
func (fileReader) close()                                 {}

func (r fileReader) output(context.Context, *opening, int64) (io.ReadCloser, error) {
	f, err := os.Open(string(r))
	if errors.Is(err, os.ErrNotExist) { // a sink may make its file with the first byte
		return io.NopCloser(strings.NewReader("")), nil
	}
	return f, err
}

// commandReader runs a shell command and takes its stdout.
type commandReader string

func (commandReader) begin() error                           { return nil }
func (commandReader) opened(context.Context, *opening) error { return nil }
func (commandReader) close()                                 {}

func (r commandReader) output(ctx context.Context, _ *opening, _ int64) (io.ReadCloser, error) {
	cmd := exec.CommandContext(ctx, "sh", "-c", string(r))
	var stderr tail
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("read what came out with %q: %w: %s", string(r), err, stderr.String())
	}
	return io.NopCloser(bytes.NewReader(out)), nil
}

// logsReader asks the plugin itself, with Logs.
type logsReader struct{}

func (logsReader) begin() error                           { return nil }
func (logsReader) opened(context.Context, *opening) error { return nil }
func (logsReader) close()                                 {}

func (logsReader) output(ctx context.Context, o *opening, _ int64) (io.ReadCloser, error) {
	r, w := io.Pipe()
	go func() {
		_, err := o.logs(ctx, &sinkpb.LogsRequest{Tail: -1}, func(rec *sinkpb.LogRecord) error {
			text := rec.Text
			if !rec.Partial {
				text = append(text, '\n')
			}
			_, err := w.Write(text)
			return err
		})
		w.CloseWithError(err)
	}()
	return r, nil
}

// logs makes the Logs call, with what of q is not the opening's, and calls each for every record but the last, which it returns.
func (o *opening) logs(ctx context.Context, q *sinkpb.LogsRequest, each func(*sinkpb.LogRecord) error) (*sinkpb.LogRecord, error) {
	q.Spec, q.Child, q.Streams, q.Opening = o.spec, child(o.id), o.outputs(), o.id
	fds, err := o.h.p.take(ctx, func(ctx context.Context, ticket []byte) error {
		q.Ticket = ticket
		_, err := o.h.p.sinks.Logs(ctx, q)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("the call Logs: %w", err)
	}
	if len(fds) != 1 {
		return nil, fmt.Errorf("the call Logs gave %d descriptors, want 1", len(fds))
	}
	conn, err := packets(fds[0])
	if err != nil {
		return nil, fmt.Errorf("the call Logs: %w", err)
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.SetDeadline(past) })()
	buf := make([]byte, 64<<10)
	for {
		n, err := conn.Read(buf)
		if n == 0 || err != nil {
			return nil, fmt.Errorf("the log was cut short: no record with end set came: %w", errors.Join(err, context.Cause(ctx)))
		}
		rec := &sinkpb.LogRecord{}
		if err := proto.Unmarshal(buf[:n], rec); err != nil {
			return nil, fmt.Errorf("a packet of the log is no LogRecord: %w", err)
		}
		switch {
		case rec.End && rec.Error != "":
			return rec, fmt.Errorf("the log could not be read to its end: %s", rec.Error)
		case rec.End:
			return rec, nil
		}
		if err := each(rec); err != nil {
			return nil, err
		}
	}
}

// spool is what comes in by itself, kept in a file as it comes.
type spool struct {
	from from
	path string
	file *os.File
	gate gate
}

// from is where a spool's bytes come from.
type from interface {
	begin(s *spool) error
	opened(ctx context.Context, s *spool, o *opening) error
	over() *sync.WaitGroup // done when nothing comes any more
	close()
}

func newSpool(p *place, f from) *spool {
	return &spool{from: f, path: filepath.Join(p.dir, "spool"), gate: newGate()}
}

func (s *spool) begin() error {
	f, err := os.Create(s.path)
	if err != nil {
		return err
	}
	s.file = f
	return s.from.begin(s)
}

func (s *spool) opened(ctx context.Context, o *opening) error { return s.from.opened(ctx, s, o) }

// Write keeps b, once the gate is open.
func (s *spool) Write(b []byte) (int, error) {
	if err := s.gate.pass(); err != nil {
		return 0, err
	}
	n, err := s.file.Write(b)
	s.gate.add(n)
	return n, err
}

// output waits until as much has come as there should be: what is flushed may still be in the kernel's hands.
func (s *spool) output(ctx context.Context, _ *opening, want int64) (io.ReadCloser, error) {
	if err := s.gate.wait(ctx, want); err != nil {
		return nil, fmt.Errorf("only %d of %d bytes came: %w", s.gate.count(), want, err)
	}
	return os.Open(s.path)
}

// settled is how much has come when nothing comes any more, or nothing more did for a while.
func (s *spool) settled() int64 {
	if _, ok := s.from.(*fifoFrom); ok { // it has no end, and what is flushed is in it
		return s.gate.count()
	}
	done := make(chan struct{})
	go func() {
		s.from.over().Wait()
		close(done)
	}()
	select {
	case <-done:
	case <-time.After(settleMost):
	}
	return s.gate.count()
}

// settleMost is how long a connection may stay after Forget. Nothing fails for that.
const settleMost = 200 * time.Millisecond

func (s *spool) close() {
	s.gate.end()
	s.from.close()
	if s.file != nil {
		s.file.Close()
	}
}

// packets makes a SEQPACKET connection of f, which it takes ownership of.
func packets(f interface{ File(string) *os.File }) (*net.UnixConn, error) {
	file := f.File("packets")
	defer file.Close()
	c, err := net.FileConn(file)
	if err != nil {
		return nil, err
	}
	uc, ok := c.(*net.UnixConn)
	if !ok || uc.LocalAddr().Network() != "unixpacket" {
		c.Close()
		return nil, errors.New("the descriptor is no Unix SEQPACKET socket")
	}
	return uc, nil
}
