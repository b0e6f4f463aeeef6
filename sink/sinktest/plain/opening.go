package main

import (
	"context"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/muxd/muxd/internal/fd"
	"github.com/muxd/muxd/internal/fdchan"
	"github.com/muxd/muxd/sink/sinkpb"
)

// plainOpening is an opening of plain.
type plainOpening struct {
	p       *plain
	id      string
	req     *sinkpb.OpenRequest
	opened  bool // the Open has returned
	streams []*plainStream
	conn    net.Conn // of a socket
	stdin   *fd.FD
	inOver  bool
	ended   bool
	console *plainConsole
}

func (p *plain) Open(ctx context.Context, req *sinkpb.OpenRequest) (*sinkpb.OpenResponse, error) {
	if len(req.Ticket) != 16 {
		if p.is("calls.ticket") {
			return nil, status.Error(codes.FailedPrecondition, "the ticket is none")
		}
		return nil, status.Error(codes.InvalidArgument, "the ticket is none")
	}
	if err := p.judge(req.Spec); err != nil {
		return nil, err
	}
	p.mu.Lock()
	old := p.openings[req.Opening]
	count := len(p.openings)
	p.mu.Unlock()
	if old != nil {
		return p.openAgain(ctx, req)
	}
	if p.is("streams") && count >= 60 {
		return nil, status.Error(codes.ResourceExhausted, "60 are enough")
	}
	o := &plainOpening{p: p, id: req.Opening, req: req}
	var err error
	if p.console {
		err = o.openConsole(ctx)
	} else {
		err = o.openPipes(ctx)
	}
	if err != nil {
		o.close()
		return nil, status.Error(codes.FailedPrecondition, err.Error())
	}
	p.mu.Lock()
	o.opened = true
	p.openings[o.id] = o
	p.change()
	p.mu.Unlock()
	for _, s := range o.streams {
		go s.run()
	}
	if o.stdin != nil {
		go o.feed()
	}
	if p.console {
		go o.console.run()
		return &sinkpb.OpenResponse{Wiring: sinkpb.Wiring_PTY, NearEnds: 1, FarEnds: 1}, nil
	}
	return &sinkpb.OpenResponse{Wiring: sinkpb.Wiring_PIPE}, nil
}

// openAgain answers an Open that is repeated.
func (p *plain) openAgain(ctx context.Context, req *sinkpb.OpenRequest) (*sinkpb.OpenResponse, error) {
	if p.is("calls.again") {
		return nil, status.Error(codes.AlreadyExists, "it is open")
	}
	if p.console {
		return &sinkpb.OpenResponse{Wiring: sinkpb.Wiring_PTY}, nil
	}
	d, err := p.channelNow().Take(ctx, fdchan.Ticket(req.Ticket), len(req.Streams))
	if err != nil {
		return nil, status.Error(codes.FailedPrecondition, err.Error())
	}
	fd.CloseAll(d.FDs)
	return &sinkpb.OpenResponse{Wiring: sinkpb.Wiring_PIPE}, d.Ack()
}

func (o *plainOpening) openPipes(ctx context.Context) error {
	arg, isSocket := strings.CutPrefix(o.req.Spec.Arg, "unix:")
	lock := o.lock("kill.open")
	d, err := o.p.channelNow().TakeAny(ctx, fdchan.Ticket(o.req.Ticket))
	if err != nil {
		return err
	}
	if want := len(o.req.Streams); len(d.FDs) != want {
		if !o.p.is("fds.surplus") || len(d.FDs) < want {
			err := errNumber(len(d.FDs))
			d.Refuse(err)
			return err
		}
	}
	lock()
	if isSocket {
		if o.conn, err = net.Dial("unix", arg); err != nil {
			d.Refuse(err)
			return err
		}
	}
	for i, st := range o.req.Streams {
		if st == sinkpb.Stream_STDIN {
			o.stdin = d.FDs[i]
			continue
		}
		path := arg
		if st == sinkpb.Stream_STDERR {
			path += ".stderr"
		}
		s, err := o.newStream(st, d.FDs[i], path)
		if err != nil {
			d.Refuse(err)
			return err
		}
		o.streams = append(o.streams, s)
		unlock := o.lock("kill.park")
		err = s.park()
		unlock()
		if err != nil {
			d.Refuse(err)
			return err
		}
	}
	if o.p.is("fds.leak") {
		unix.Dup(o.streams[0].far.Int())
	}
	return d.Ack()
}

type errNumber int

func (n errNumber) Error() string { return "another number of descriptors came than there are streams" }

// lock leaves something behind that a successor of the process stumbles over, if the process has the defect; what it returns takes that
// away.
func (o *plainOpening) lock(defect string) (unlock func()) {
	if !o.p.is(defect) || strings.HasPrefix(o.req.Spec.Arg, "unix:") {
		return func() {}
	}
	path := filepath.Join(filepath.Dir(o.req.Spec.Arg), "lock")
	if _, err := os.Stat(path); err == nil {
		panic("the lock is there")
	}
	os.WriteFile(path, nil, 0o600)
	return func() { os.Remove(path) }
}

// feed gives the child what comes on the socket.
func (o *plainOpening) feed() {
	w := o.stdin.File("stdin")
	n, err := io.Copy(w, o.conn)
	if err != nil && o.p.is("stdin.exit") {
		panic(err)
	}
	if o.p.is("stdin") && n > 0 {
		return // and its end is not told
	}
	w.Close()
	o.p.mu.Lock()
	o.inOver = true
	o.p.change()
	o.p.mu.Unlock()
}

// farEnds are those of the streams that have not ended.
func (o *plainOpening) farEnds() map[sinkpb.Stream]*fd.FD {
	out := map[sinkpb.Stream]*fd.FD{}
	for _, s := range o.streams {
		if !s.over() {
			out[s.st] = s.far
		}
	}
	if o.console != nil && !o.console.over {
		out[sinkpb.Stream_CONSOLE] = o.console.master
	}
	return out
}

// events is the state of all streams. plain.mu is held.
func (o *plainOpening) events() []*sinkpb.Event {
	var out []*sinkpb.Event
	tell := func(st sinkpb.Stream, eof, flushed bool, failed string, n uint64) {
		if eof {
			out = append(out, &sinkpb.Event{Opening: o.id, Stream: st, What: &sinkpb.Event_Eof{Eof: &sinkpb.Eof{Bytes: n}}})
		}
		switch {
		case failed != "":
			out = append(out, &sinkpb.Event{Opening: o.id, Stream: st, What: &sinkpb.Event_Failed{Failed: &sinkpb.Failed{Error: failed, Bytes: n}}})
		case flushed:
			if o.p.is("bytes.both") && st == sinkpb.Stream_STDERR {
				n++
			}
			out = append(out, &sinkpb.Event{Opening: o.id, Stream: st, What: &sinkpb.Event_Flushed{Flushed: &sinkpb.Flushed{Bytes: n}}})
		}
	}
	for _, s := range o.streams {
		tell(s.st, s.eof, s.flushed, s.failed, s.total)
	}
	if o.inOver {
		tell(sinkpb.Stream_STDIN, true, false, "", 0)
	}
	if c := o.console; c != nil {
		tell(sinkpb.Stream_CONSOLE, c.over, c.over, "", uint64(len(c.out)))
	}
	return out
}

// blocked says whether a stream waits for its destination.
func (o *plainOpening) blocked() bool {
	for _, s := range o.streams {
		if !s.turn.TryLock() {
			return true
		}
		s.turn.Unlock()
	}
	return false
}

func (p *plain) End(_ context.Context, req *sinkpb.EndRequest) (*sinkpb.EndResponse, error) {
	o, err := p.find(req.Opening)
	if err != nil {
		if p.is("calls.unknown") {
			return &sinkpb.EndResponse{}, nil
		}
		return nil, err
	}
	if o.conn != nil && o.stdin != nil {
		o.conn.(*net.UnixConn).CloseRead()
	}
	if o.console != nil {
		o.console.end()
	}
	if p.is("end.writers") {
		for _, s := range o.streams {
			s.stop("cut")
			s.wait()
		}
	}
	p.mu.Lock()
	o.ended = true
	p.mu.Unlock()
	return &sinkpb.EndResponse{}, nil
}

func (p *plain) Cut(_ context.Context, req *sinkpb.CutRequest) (*sinkpb.CutResponse, error) {
	o, err := p.find(req.Opening)
	if err != nil {
		return nil, err
	}
	for _, s := range o.streams {
		if !p.is("end.cut") || *s.out() < 2000 {
			s.stop("cut")
		}
		if !p.is("end.stuck") {
			time.AfterFunc(time.Second, s.giveUp)
		}
	}
	if o.console != nil {
		o.console.cut()
	}
	return &sinkpb.CutResponse{}, nil
}

func (p *plain) Leave(ctx context.Context, req *sinkpb.LeaveRequest) (*sinkpb.LeaveResponse, error) {
	o, err := p.find(req.Opening)
	if err != nil {
		return nil, err
	}
	for _, s := range o.streams {
		if s.st != req.Stream {
			continue
		}
		s.stop("leave")
		s.wait()
		n := s.total
		if p.is("move.leave") {
			n++
		}
		return &sinkpb.LeaveResponse{Left: true, Bytes: n}, nil
	}
	return nil, status.Errorf(codes.NotFound, "%v is not read", req.Stream)
}

func (p *plain) Forget(_ context.Context, req *sinkpb.ForgetRequest) (*sinkpb.ForgetResponse, error) {
	o, err := p.find(req.Opening)
	if err != nil {
		return &sinkpb.ForgetResponse{}, nil
	}
	p.mu.Lock()
	if len(o.farEnds()) > 0 {
		p.mu.Unlock()
		if p.is("end.order") {
			return &sinkpb.ForgetResponse{}, nil
		}
		return nil, status.Error(codes.FailedPrecondition, "a stream has not ended")
	}
	delete(p.openings, o.id)
	p.mu.Unlock()
	for _, s := range o.streams {
		p.park(s.name())
	}
	o.close()
	return &sinkpb.ForgetResponse{}, nil
}

// close closes everything.
func (o *plainOpening) close() {
	for _, s := range o.streams {
		s.close()
	}
	if o.conn != nil {
		o.conn.Close()
	}
	if o.console != nil {
		o.console.close()
	}
}

func (p *plain) Stat(_ context.Context, req *sinkpb.StatRequest) (*sinkpb.StatResponse, error) {
	o, err := p.find(req.Opening)
	if err != nil {
		return nil, err
	}
	resp := &sinkpb.StatResponse{}
	for _, s := range o.streams {
		n := *s.out()
		if p.is("metrics") { // it counts from its own start
			n -= s.before
		}
		resp.Streams = append(resp.Streams, &sinkpb.StreamStat{
			Stream: s.st, Bytes: *s.out(), Metrics: []*sinkpb.MetricStat{{Name: "put", Value: int64(n)}},
		})
	}
	return resp, nil
}
