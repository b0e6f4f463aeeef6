package sinktest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"github.com/muxd/muxd/internal/fd"
	"github.com/muxd/muxd/sink/sinkpb"
)

// opening is an opening as muxd has it: its near ends are a child's, its far ends the keeper's.
type opening struct {
	h       *host
	id      string
	spec    *sinkpb.Spec
	streams []sinkpb.Stream
	wiring  sinkpb.Wiring
	near    map[sinkpb.Stream]*os.File // what the child would have; of stdin the read end
	far     map[sinkpb.Stream]*fd.FD   // the keeper's copies; of a console its master
	written map[sinkpb.Stream]*atomic.Int64
	ended   bool // the child has exited
	cut     bool
	forgot  bool
	reader  reader // what comes out; may be nil
	long    bool   // it may take ten times as long
}

// open opens streams of a child.
func (h *host) open(ctx context.Context, id string, spec *sinkpb.Spec, wiring sinkpb.Wiring, streams []sinkpb.Stream) (*opening, error) {
	o := &opening{
		h: h, id: id, spec: spec, wiring: wiring, streams: streams,
		near: map[sinkpb.Stream]*os.File{}, far: map[sinkpb.Stream]*fd.FD{}, written: map[sinkpb.Stream]*atomic.Int64{},
	}
	for _, st := range streams {
		o.written[st] = &atomic.Int64{}
	}
	var err error
	switch wiring {
	case sinkpb.Wiring_PIPE:
		err = o.openPipes(ctx)
	case sinkpb.Wiring_PTY:
		err = o.openConsole(ctx)
	case sinkpb.Wiring_DIRECT:
		err = o.openDirect(ctx)
	default:
		err = fmt.Errorf("the call Check answers wiring %v, want PIPE, PTY or DIRECT", wiring)
	}
	if err != nil {
		o.close()
		return nil, err
	}
	h.openings = append(h.openings, o)
	return o, nil
}

func (o *opening) request(ticket []byte) *sinkpb.OpenRequest {
	return &sinkpb.OpenRequest{
		Opening: o.id, Spec: o.spec, Child: child(o.id), Streams: o.streams, Ticket: ticket, Size: &sinkpb.Size{Rows: 24, Cols: 80},
	}
}

// child is the child of an opening.
func child(id string) *sinkpb.Child {
	return &sinkpb.Child{Id: id, Name: "n" + id, Run: 1, Command: []byte("sinktest")}
}

// call makes the Open call.
func (o *opening) call(ctx context.Context, req *sinkpb.OpenRequest) error {
	resp, err := o.h.p.sinks.Open(ctx, req)
	switch {
	case err != nil:
		return fmt.Errorf("the call Open: %w", err)
	case resp.Wiring != o.wiring:
		return fmt.Errorf("the call Open answers wiring %v, and Check answered %v", resp.Wiring, o.wiring)
	}
	return nil
}

func (o *opening) openPipes(ctx context.Context) error {
	var far []int
	for _, st := range o.streams {
		r, w, err := fd.Pipe()
		if err != nil {
			return err
		}
		near := w
		o.far[st] = r
		if st == sinkpb.Stream_STDIN {
			near, o.far[st] = r, w
		}
		unix.SetNonblock(near.Int(), true) // for deadlines; the far end is another open file description
		o.near[st] = near.File(st.String())
		far = append(far, o.far[st].Int())
	}
	return o.h.p.give(ctx, far, func(ctx context.Context, ticket []byte) error { return o.call(ctx, o.request(ticket)) })
}

func (o *opening) openConsole(ctx context.Context) error {
	fds, err := o.h.p.take(ctx, func(ctx context.Context, ticket []byte) error { return o.call(ctx, o.request(ticket)) })
	if err != nil {
		return err
	}
	defer func() { fd.CloseAll(fds) }()
	if len(fds) != 2 {
		return fmt.Errorf("with PTY %d descriptors came, want 2: the terminal side, then the master", len(fds))
	}
	number, err := unix.IoctlGetInt(fds[1].Int(), unix.TIOCGPTN)
	if err != nil {
		return fmt.Errorf("with PTY the second descriptor is no master of a terminal: TIOCGPTN: %w", err)
	}
	var st unix.Stat_t
	if err := unix.Fstat(fds[0].Int(), &st); err != nil || st.Mode&unix.S_IFMT != unix.S_IFCHR ||
		unix.Major(st.Rdev) < 136 || unix.Major(st.Rdev) > 143 || unix.Minor(st.Rdev) != uint32(number) {
		return fmt.Errorf("with PTY the first descriptor is not the terminal side of the second, /dev/pts/%d", number)
	}
	o.far[sinkpb.Stream_CONSOLE] = fds[1]
	unix.SetNonblock(fds[0].Int(), true)
	o.near[sinkpb.Stream_CONSOLE] = fds[0].File("console")
	fds = nil
	return o.raw()
}

// raw has the terminal pass bytes on as they are.
func (o *opening) raw() error {
	master := o.far[sinkpb.Stream_CONSOLE].Int()
	t, err := unix.IoctlGetTermios(master, unix.TCGETS)
	if err != nil {
		return err
	}
	t.Oflag &^= unix.OPOST
	t.Lflag &^= unix.ECHO | unix.ICANON | unix.ISIG | unix.IEXTEN
	t.Iflag &^= unix.ICRNL | unix.INLCR | unix.IGNCR | unix.IXON
	return unix.IoctlSetTermios(master, unix.TCSETS, t)
}

func (o *opening) openDirect(ctx context.Context) error {
	fds, err := o.h.p.take(ctx, func(ctx context.Context, ticket []byte) error { return o.call(ctx, o.request(ticket)) })
	if err != nil {
		return err
	}
	if len(fds) != len(o.streams) {
		fd.CloseAll(fds)
		return fmt.Errorf("with DIRECT %d descriptors came for %d streams", len(fds), len(o.streams))
	}
	for i, st := range o.streams {
		o.near[st] = fds[i].File(st.String())
	}
	return nil
}

// again opens the opening in another process, with the streams that have not ended.
func (o *opening) again(ctx context.Context) error {
	if o.forgot || o.wiring == sinkpb.Wiring_DIRECT {
		return nil
	}
	req := o.request(nil)
	req.Again, req.Streams = true, nil
	var far []int
	for _, st := range o.streams {
		if f := o.far[st]; f.Int() >= 0 {
			req.Streams = append(req.Streams, st)
			far = append(far, f.Int())
		}
	}
	err := o.h.p.give(ctx, far, func(ctx context.Context, ticket []byte) error {
		req.Ticket = ticket
		return o.call(ctx, req)
	})
	if err != nil {
		return fmt.Errorf("again: %w", err)
	}
	if o.ended {
		if err := o.sayEnd(ctx); err != nil {
			return err
		}
	}
	if o.cut {
		return o.sayCut(ctx)
	}
	return nil
}

// outputs are the streams that the child writes.
func (o *opening) outputs() []sinkpb.Stream {
	var out []sinkpb.Stream
	for _, st := range o.streams {
		if st != sinkpb.Stream_STDIN {
			out = append(out, st)
		}
	}
	return out
}

// write writes all of r to a stream, in writes of at most size bytes; with size 0 a line each. It blocks while the sink takes nothing, until
// ctx is done.
func (o *opening) write(ctx context.Context, st sinkpb.Stream, r io.Reader, size int) error {
	near := o.near[st]
	stop := context.AfterFunc(ctx, func() { near.SetWriteDeadline(past) })
	defer func() {
		if !stop() {
			near.SetWriteDeadline(never)
		}
	}()
	pieces := newPieces(r, size)
	for {
		b, err := pieces.next()
		if len(b) > 0 {
			n, err := near.Write(b)
			o.written[st].Add(int64(n))
			if err != nil {
				return fmt.Errorf("write to the near end after %d bytes: %w", o.written[st].Load(), err)
			}
		}
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return err
		}
	}
}

// exit is the child's exit: its near ends are closed, and the sink is told.
func (o *opening) exit(ctx context.Context) error {
	o.closeNear()
	o.ended = true
	return o.sayEnd(ctx)
}

func (o *opening) closeNear() {
	for _, f := range o.near {
		f.Close()
	}
}

func (o *opening) sayEnd(ctx context.Context) error {
	if _, err := o.h.p.sinks.End(ctx, &sinkpb.EndRequest{Opening: o.id, HasStatus: true}); err != nil {
		return fmt.Errorf("the call End: %w", err)
	}
	return nil
}

// sayCut is the drain deadline.
func (o *opening) sayCut(ctx context.Context) error {
	o.cut = true
	if _, err := o.h.p.sinks.Cut(ctx, &sinkpb.CutRequest{Opening: o.id}); err != nil {
		return fmt.Errorf("the call Cut: %w", err)
	}
	return nil
}

// flushed waits until every output stream is flushed, and compares the numbers that were told with what was written.
func (o *opening) flushed(ctx context.Context, exact bool) error {
	if o.wiring == sinkpb.Wiring_DIRECT {
		return nil
	}
	ev := o.h.p.events
	for _, st := range o.outputs() {
		k := key{o.id, st}
		if err := ev.wait(ctx, func() bool { t := ev.streams[k]; return t != nil && t.over() }); err != nil {
			t := ev.of(k)
			what := "neither eof nor flushed"
			if t.eof {
				what = "eof and no flushed"
			}
			if t.trouble != "" {
				what += fmt.Sprintf(", and trouble %q", t.trouble)
			}
			return fmt.Errorf("%s was told of %v, which has ended: %w", what, st, err)
		}
		t := ev.of(k)
		if t.failed {
			return fmt.Errorf("%v has failed: %s", st, t.failure)
		}
		if want := uint64(o.written[st].Load()); exact && t.outBytes != want {
			return fmt.Errorf("flushed was told of %v with %d bytes, and %d were written", st, t.outBytes, want)
		}
	}
	return ev.fault()
}

// sayForget ends the opening for the plugin.
func (o *opening) sayForget(ctx context.Context) error {
	if _, err := o.h.p.sinks.Forget(ctx, &sinkpb.ForgetRequest{Opening: o.id}); err != nil {
		return fmt.Errorf("the call Forget: %w", err)
	}
	o.forgot = true
	return nil
}

// forget ends the opening for the plugin and for the kit.
func (o *opening) forget(ctx context.Context) error {
	err := o.sayForget(ctx)
	o.close()
	o.h.drop(o)
	return err
}

// drop takes o out of the host's openings.
func (h *host) drop(o *opening) {
	for i, have := range h.openings {
		if have == o {
			h.openings = append(h.openings[:i], h.openings[i+1:]...)
			return
		}
	}
}

// close closes what the kit has of o.
func (o *opening) close() {
	o.closeNear()
	for _, f := range o.far {
		f.Close()
	}
	if o.reader != nil {
		o.reader.close()
	}
}
