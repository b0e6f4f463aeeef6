package sinktest

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/muxd/muxd/internal/fd"
	"github.com/muxd/muxd/sink/sinkpb"
)

// withStdin opens stdin and the output stream, and returns the peer that sends what the child reads.
func (s *session) withStdin() (*host, *opening, peer, error) {
	if !slices.Contains(s.desc.Carries, sinkpb.Stream_STDIN) || slices.Contains(s.desc.ByName, sinkpb.Stream_STDIN) {
		return nil, nil, nil, notApplicable("it does not carry stdin beside the output")
	}
	if s.target.read != readListen && s.target.read != readConnect {
		return nil, nil, nil, notApplicable("the kit is not the sink's far peer: that takes {listen} or {connect}")
	}
	h, err := s.host()
	if err != nil {
		return nil, nil, nil, err
	}
	o, err := s.open(h, sinkpb.Stream_STDIN, s.target.out)
	if err != nil {
		return nil, nil, nil, err
	}
	return h, o, o.reader.(*spool).from.(peer), nil
}

func stdinCheck(s *session) error {
	h, o, p, err := s.withStdin()
	if err != nil {
		return err
	}
	sent := make([]byte, 300_000)
	(&noise{}).Read(sent)
	failed := make(chan error, 1)
	go func() {
		err := p.send(sent)
		if err == nil && s.target.read == readListen { // where the sink listens another peer may come
			err = p.closeWrite()
		}
		failed <- err
	}()
	near := o.near[sinkpb.Stream_STDIN]
	near.SetReadDeadline(time.Now().Add(s.o.Timeout))
	got := make([]byte, len(sent))
	if n, err := io.ReadFull(near, got); err != nil {
		return fmt.Errorf("the child read %d of %d bytes: %w", n, len(sent), err)
	}
	if err := <-failed; err != nil {
		return fmt.Errorf("send to the sink: %w", err)
	}
	if !bytes.Equal(got, sent) {
		return errors.New("the child read something else than was sent")
	}
	ctx, cancel := s.soon()
	defer cancel()
	if s.target.read == readListen {
		ev := h.p.events
		k := key{o.id, sinkpb.Stream_STDIN}
		if err := ev.wait(ctx, func() bool { t := ev.streams[k]; return t != nil && t.eof }); err != nil {
			return fmt.Errorf("the far peer has sent all, and eof of STDIN was not told: %w", err)
		}
		o.far[sinkpb.Stream_STDIN].Close()
		o.far[sinkpb.Stream_STDIN] = fd.New(-1)
		if n, err := near.Read(got); err != io.EOF {
			return fmt.Errorf("after eof of STDIN the child read %d bytes (%v), want its end", n, err)
		}
	}
	if err := s.write(o, first(&lines{}, 10_000), 0); err != nil {
		return err
	}
	return s.finish(o, &lines{})
}

func stdinExit(s *session) error {
	_, o, p, err := s.withStdin()
	if err != nil {
		return err
	}
	o.near[sinkpb.Stream_STDIN].Close() // the child closes its stdin
	go p.send([]byte("nobody reads this\n"))
	if err := s.write(o, first(&lines{}, 10_000), 0); err != nil {
		return err
	}
	return s.finish(o, &lines{})
}
