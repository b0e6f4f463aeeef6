package sink

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/muxd/muxd/internal/fd"
	"github.com/muxd/muxd/internal/fdchan"
	"github.com/muxd/muxd/internal/rest"
	"github.com/muxd/muxd/internal/stage"
	"github.com/muxd/muxd/sink/sinkpb"
)

// cutGrace is how long a sink may still take to put out what a stream held when it was cut.
const cutGrace = 2 * time.Second

// server is the sink service of one plugin process.
type server struct {
	sinkpb.UnimplementedSinkServer
	plugin  *Plugin
	channel *channel
	parks   parks
	pasts   pasts

	starting sync.Mutex // for eng and copier, until they are made
	eng      *stage.Engine
	copier   *stage.Fan

	mu        sync.Mutex
	openings  map[string]*opening
	watcher   *watcher
	options   Values              // of the latest request
	recovered map[string][]*fd.FD // what a predecessor parked, and nobody has taken yet
	live      map[string]bool     // the openings of a predecessor that come again
	crashed   bool                // the predecessor did
}

// newServer takes ownership of conn, and serves what is called there.
func newServer(p *Plugin, conn *fdchan.Conn) *server {
	s := &server{
		plugin: p, channel: newChannel(), pasts: newPasts(),
		openings: map[string]*opening{}, recovered: map[string][]*fd.FD{}, live: map[string]bool{},
	}
	s.channel.begin(conn, s.called)
	return s
}

// ep is the fd channel of now.
func (s *server) ep() *fdchan.Endpoint {
	ep, _ := s.channel.now()
	return ep
}

// close ends every opening: what their streams still hold stays there.
func (s *server) close() {
	s.mu.Lock()
	var all []*opening
	for _, o := range s.openings {
		all = append(all, o)
	}
	s.mu.Unlock()
	s.pasts.close()
	for _, o := range all {
		o.close(false)
	}
	if s.eng != nil {
		s.eng.Close()
	}
	if s.copier != nil {
		s.copier.Close()
	}
	s.ep().Close()
}

func (s *server) Describe(context.Context, *sinkpb.DescribeRequest) (*sinkpb.Description, error) {
	return s.plugin.describe(), nil
}

// shared is v, or the map of the request before that says the same: thousands of children with the same sink have one.
func (s *server) shared(v Values) Values {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !maps.Equal(s.options, v) {
		s.options = v
	}
	return s.options
}

// check parses a spec and asks the author for the wiring.
func (s *server) check(sp *sinkpb.Spec, child *sinkpb.Child, streams []sinkpb.Stream) (*Request, Wiring, error) {
	r, err := s.plugin.request(sp, child, streams)
	if err != nil {
		return nil, 0, status.Error(codes.InvalidArgument, err.Error())
	}
	r.Options = s.shared(r.Options)
	wiring := Pipe
	switch p := s.plugin; {
	case p.OpenConsole != nil:
		wiring = PTY
	case p.Open == nil && p.OpenRaw == nil && p.OpenDirect != nil:
		wiring = Direct
	}
	if s.plugin.Check != nil {
		w, err := s.plugin.Check(r)
		if err != nil {
			return nil, 0, status.Errorf(codes.InvalidArgument, "sink %s: %v", s.plugin.Name, err)
		}
		if wiring != PTY || w == ConsoleSocket {
			wiring = w
		}
	}
	return r, wiring, nil
}

func (s *server) Check(_ context.Context, req *sinkpb.CheckRequest) (*sinkpb.CheckResponse, error) {
	r, wiring, err := s.check(req.Spec, req.Child, req.Streams)
	if err != nil {
		return nil, err
	}
	return &sinkpb.CheckResponse{Wiring: sinkpb.Wiring(wiring), Location: r.Location, Exact: r.Exact || s.plugin.Copies, Drops: r.Drops}, nil
}

func (s *server) Open(ctx context.Context, req *sinkpb.OpenRequest) (*sinkpb.OpenResponse, error) {
	ticket, err := fdchan.TicketFrom(req.Ticket)
	if err != nil {
		return nil, status.Error(codes.InvalidArgument, err.Error())
	}
	r, wiring, err := s.check(req.Spec, req.Child, req.Streams)
	if err != nil {
		return nil, err
	}
	if req.Opening == "" {
		return nil, status.Error(codes.InvalidArgument, "open: the opening has no name")
	}
	o := newOpening(s, req.Opening, r, wiring)
	o.pub.Again, o.pub.Given = req.Again || wiring == Pipe && s.served(req.Opening), req.Given
	isConsole := s.plugin.OpenConsole != nil
	if req.Given && !isConsole || wiring == ConsoleSocket && !req.Given && !req.Again {
		return nil, status.Errorf(codes.InvalidArgument, "open: whether sink %s makes a terminal, or is given one, is contradictory", s.plugin.Name)
	}
	takes := s.plugin.Copies || isConsole && (req.Again || req.Given)
	if s.plugin.Copies && len(req.Streams) != 1 || !takes && len(req.Branches) > 0 {
		return nil, status.Errorf(codes.InvalidArgument, "open: sink %s with %d branches for %d streams", s.plugin.Name, len(req.Branches), len(req.Streams))
	}
	if req.Gaps && (wiring != Pipe || isConsole || s.plugin.Copies || len(req.Streams) != 1 || req.Streams[0] == sinkpb.Stream_STDIN) {
		return nil, status.Errorf(codes.InvalidArgument, "open: sink %s with the memory of a branch, and without a branch", s.plugin.Name)
	}
	o.branches, o.lossy = req.Branches, req.Gaps
	if size := req.Size; size.GetRows() > 0 && size.GetCols() > 0 {
		o.pub.Rows, o.pub.Cols = int(size.Rows), int(size.Cols)
	}
	s.mu.Lock()
	if old := s.openings[req.Opening]; old != nil {
		s.mu.Unlock()
		return s.openedBefore(ctx, old, req, ticket)
	}
	s.openings[req.Opening] = o
	o.knowParked()
	s.mu.Unlock()

	resp, err := o.open(ctx, ticket)
	if err != nil {
		s.mu.Lock()
		delete(s.openings, req.Opening)
		s.mu.Unlock()
		o.cancel()
	}
	o.openErr = err
	close(o.opened)
	rest.After()
	return resp, err
}

// served says whether a predecessor served the opening: an agent that died over a move may have opened it, and the next one does not know.
func (s *server) served(id string) bool {
	s.starting.Lock()
	eng := s.eng
	s.starting.Unlock()
	s.mu.Lock()
	state := s.recovered[stage.ParkState] != nil
	parked := s.recovered[parkMemory+id] != nil
	for name := range s.recovered {
		if of, _, ok := ownName(name); ok && of == id {
			parked = true
		}
	}
	s.mu.Unlock()
	if eng == nil && state && !s.plugin.Copies {
		eng, _ = s.engine() // whoever needs it is told what is wrong
	}
	return parked || eng != nil && eng.Knows(id+"/")
}

// openedBefore answers an Open that was made again: the far ends that came with it are copies of what is here. What became of its
// streams may have been told to somebody who died.
func (s *server) openedBefore(ctx context.Context, o *opening, req *sinkpb.OpenRequest, ticket fdchan.Ticket) (*sinkpb.OpenResponse, error) {
	<-o.opened
	if o.openErr != nil {
		return nil, o.openErr
	}
	defer func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		for _, f := range o.flows {
			s.changed(f)
		}
	}()
	if o.wiring == Pipe || o.console != nil && (req.Given || req.Again) {
		n := len(req.Streams) + endsOf(req.Branches...)
		if req.Gaps {
			n++
		}
		d, err := s.ep().Take(ctx, ticket, n)
		if err != nil {
			return nil, openError(err)
		}
		fd.CloseAll(d.FDs)
		if err := d.Ack(); err != nil {
			return nil, openError(err)
		}
	}
	return &sinkpb.OpenResponse{Wiring: sinkpb.Wiring(o.wiring)}, nil
}

// openError gives an error of an open the gRPC code that the core acts on.
func openError(err error) error {
	code := codes.FailedPrecondition
	switch {
	case errors.Is(err, unix.EMFILE), errors.Is(err, unix.ENFILE), errors.Is(err, unix.ENOSPC), errors.Is(err, unix.ENOMEM):
		code = codes.ResourceExhausted
	case errors.Is(err, os.ErrNotExist):
		code = codes.NotFound
	case errors.Is(err, os.ErrPermission):
		code = codes.PermissionDenied
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled):
		code = codes.DeadlineExceeded
	}
	return status.Error(code, err.Error())
}

// find returns the opening of that name.
func (s *server) find(name string) (*opening, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if o := s.openings[name]; o != nil {
		return o, nil
	}
	return nil, status.Errorf(codes.NotFound, "there is no opening %q", name)
}

// console returns the opening of that name, which must have a console.
func (s *server) console(name string) (*opening, error) {
	o, err := s.find(name)
	if err != nil {
		return nil, err
	}
	if o.console == nil {
		return nil, status.Errorf(codes.FailedPrecondition, "sink %s is not a console", s.plugin.Name)
	}
	return o, nil
}

func (s *server) End(_ context.Context, req *sinkpb.EndRequest) (*sinkpb.EndResponse, error) {
	o, err := s.find(req.Opening)
	if err != nil {
		return nil, err
	}
	o.childExited(req.Status, req.HasStatus)
	return &sinkpb.EndResponse{}, nil
}

func (s *server) Cut(_ context.Context, req *sinkpb.CutRequest) (*sinkpb.CutResponse, error) {
	o, err := s.find(req.Opening)
	if err != nil {
		return nil, err
	}
	o.cut()
	return &sinkpb.CutResponse{}, nil
}

func (s *server) Forget(_ context.Context, req *sinkpb.ForgetRequest) (*sinkpb.ForgetResponse, error) {
	s.mu.Lock()
	o := s.openings[req.Opening]
	if o != nil && !o.over() {
		s.mu.Unlock()
		return nil, status.Errorf(codes.FailedPrecondition, "opening %q has streams that have not ended", req.Opening)
	}
	delete(s.openings, req.Opening)
	s.mu.Unlock()
	if o != nil {
		if req.HasStatus {
			o.childExited(req.Status, true)
		}
		o.cancel()
		o.close(true)
	}
	return &sinkpb.ForgetResponse{}, nil
}

func (s *server) Resize(_ context.Context, req *sinkpb.ResizeRequest) (*sinkpb.ResizeResponse, error) {
	o, err := s.console(req.Opening)
	if err != nil {
		return nil, err
	}
	if err := o.console.Resize(int(req.Size.GetRows()), int(req.Size.GetCols())); err != nil {
		return nil, status.Error(codes.FailedPrecondition, fmt.Sprintf("resize: %v", err))
	}
	return &sinkpb.ResizeResponse{}, nil
}

func (s *server) Mark(ctx context.Context, req *sinkpb.MarkRequest) (*sinkpb.MarkResponse, error) {
	o, err := s.console(req.Opening)
	if err != nil {
		return nil, err
	}
	if err := o.console.Mark(ctx, req.Label); err != nil {
		return nil, status.Error(codes.FailedPrecondition, fmt.Sprintf("mark: %v", err))
	}
	return &sinkpb.MarkResponse{}, nil
}
