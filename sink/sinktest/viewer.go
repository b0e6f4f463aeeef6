package sinktest

import (
	"context"
	"encoding/binary"
	"fmt"
	"net"
	"sync"

	"github.com/muxd/muxd/sink/sinkpb"
)

// The frames of PROTOCOL.md, section 6.
const (
	frameInput  = 0x01
	frameOutput = 0x81
	frameAck    = 0x82
	frameReplay = 0x83
	frameNotice = 0x84
	frameEnd    = 0x85
	frameReady  = 0x86

	frameMost = 1 + 8 + 64<<10
)

// viewer is a connection to a console.
type viewer struct {
	conn *net.UnixConn
	buf  []byte
}

// attach attaches a viewer to a console.
func (o *opening) attach(ctx context.Context, req *sinkpb.AttachRequest) (*viewer, error) {
	fds, err := o.h.p.take(ctx, func(ctx context.Context, ticket []byte) error {
		req.Opening, req.Ticket = o.id, ticket
		_, err := o.h.p.sinks.Attach(ctx, req)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("the call Attach: %w", err)
	}
	if len(fds) != 1 {
		return nil, fmt.Errorf("the call Attach gave %d descriptors, want 1", len(fds))
	}
	conn, err := packets(fds[0])
	if err != nil {
		return nil, fmt.Errorf("the call Attach: %w", err)
	}
	return &viewer{conn, make([]byte, frameMost+1)}, nil
}

// frame is a frame from the console.
type frame struct {
	kind   byte
	offset uint64 // of Output, Ack and Ready
	data   []byte // behind that; valid until the next frame
}

// next blocks for the next frame.
func (v *viewer) next() (frame, error) {
	n, err := v.conn.Read(v.buf)
	if err != nil {
		return frame{}, err
	}
	if n == 0 {
		return frame{}, fmt.Errorf("the connection ended without an End frame")
	}
	f := frame{kind: v.buf[0], data: v.buf[1:n]}
	if n > frameMost {
		return f, fmt.Errorf("a frame of type %#x with more than %d bytes", f.kind, frameMost)
	}
	switch f.kind {
	case frameOutput, frameAck, frameReady:
		if n < 9 || f.kind != frameOutput && n > 9 {
			return f, fmt.Errorf("a frame of type %#x with %d bytes", f.kind, n)
		}
		f.offset, f.data = binary.BigEndian.Uint64(f.data), f.data[8:]
	case frameEnd:
		if n != 6 {
			return f, fmt.Errorf("an End frame with %d bytes, want 6", n)
		}
	case frameReplay, frameNotice:
	default:
		return f, fmt.Errorf("a frame of the unknown type %#x", f.kind)
	}
	return f, nil
}

// input types b, which begins at offset of what this viewer has typed.
func (v *viewer) input(offset uint64, b []byte) error {
	p := binary.BigEndian.AppendUint64([]byte{frameInput}, offset)
	_, err := v.conn.Write(append(p, b...))
	return err
}

// viewerFrom spools a console's output, as a viewer that is waited for, and attaches again after each Open.
type viewerFrom struct {
	mu   sync.Mutex
	now  *viewer
	at   uint64 // how much has come
	work sync.WaitGroup
}

func (f *viewerFrom) begin(*spool) error { return nil }

func (f *viewerFrom) opened(ctx context.Context, s *spool, o *opening) error {
	f.work.Wait() // the connection to the process before has ended with it
	f.mu.Lock()
	at := f.at
	f.mu.Unlock()
	v, err := o.attach(ctx, &sinkpb.AttachRequest{ReadOnly: true, Hold: true, Replay: fmt.Sprintf("from=%d", at)})
	if err != nil {
		return err
	}
	f.mu.Lock()
	f.now = v
	f.mu.Unlock()
	f.work.Go(func() { f.read(s, v) })
	return nil
}

// read spools what comes until the connection ends.
func (f *viewerFrom) read(s *spool, v *viewer) {
	defer v.conn.Close()
	for {
		fr, err := v.next()
		if err != nil {
			return
		}
		switch fr.kind {
		case frameOutput:
			if fr.offset != f.at {
				s.gate.fail(fmt.Errorf("a viewer that is waited for got Output at offset %d, and had %d", fr.offset, f.at))
				return
			}
			if _, err := s.Write(fr.data); err != nil {
				return
			}
			f.mu.Lock()
			f.at += uint64(len(fr.data))
			f.mu.Unlock()
		case frameReplay:
			if len(fr.data) > 0 {
				s.gate.fail(fmt.Errorf("a viewer that is waited for, and goes on from an offset, got a Replay"))
				return
			}
		case frameEnd:
			return
		}
	}
}

func (f *viewerFrom) over() *sync.WaitGroup { return &f.work }

func (f *viewerFrom) close() {
	f.mu.Lock()
	if f.now != nil {
		f.now.conn.Close()
	}
	f.mu.Unlock()
	f.work.Wait()
}
