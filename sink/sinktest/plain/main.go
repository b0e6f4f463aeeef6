// Command plain is a sink plugin without the SDK, for the kit's own tests: it passes, unless it is started with a defect, which is
// named after the check that has to find it.
//
//	plain:PATH       writes to a file or a FIFO
//	plain:unix:PATH  writes to a socket, from which stdin comes
//	plain-console    is a console
//
// It is written after PROTOCOL.md, and its scheme for streams is the one that stands there in section 5.
package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/muxd/muxd/internal/fd"
	"github.com/muxd/muxd/internal/fdchan"
	"github.com/muxd/muxd/sink/sinkpb"
)

// plain is the plugin: what a process has.
type plain struct {
	sinkpb.UnimplementedSinkServer
	defect  string
	console bool

	mu       sync.Mutex
	ep       *fdchan.Endpoint
	openings map[string]*plainOpening
	parked   map[string][]*fd.FD // of the process before, not yet taken
	changed  chan struct{}       // closed and replaced at every change
	watchers int
	paused   bool
	stuck    bool // hang.stop
	met      bool // a later muxd has come
}

func (p *plain) is(defect string) bool { return p.defect == defect }

// The arguments are the plugin's name, plain or plain-console, and perhaps a defect.
func main() {
	if len(os.Args) < 2 {
		fmt.Fprintln(os.Stderr, "usage: plain plain|plain-console [DEFECT]")
		os.Exit(2)
	}
	p := &plain{
		console:  os.Args[1] == "plain-console",
		openings: map[string]*plainOpening{}, parked: map[string][]*fd.FD{}, changed: make(chan struct{}),
	}
	if len(os.Args) > 2 {
		p.defect = os.Args[2]
	}
	if err := p.serve(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func (p *plain) serve() error {
	if os.Getenv("MUXD_SINK_PLUGIN") != "5d6d1c1f-muxd-sink" && !p.is("start.cookie") {
		return errors.New("this is a plugin of muxd")
	}
	if p.is("start.slow") && wasStopped() {
		return errors.New("the start took too long")
	}
	version := "1"
	if offered := os.Getenv("PLUGIN_PROTOCOL_VERSIONS"); p.is("start.version") {
		version, _, _ = strings.Cut(offered, ",")
	}
	channel := fd.New(3)
	if p.is("fds.malformed") || p.is("fds.unclaimed") {
		channel = p.proxy(channel)
	}
	conn, err := fdchan.New(channel)
	if err != nil {
		return err
	}
	p.ep = fdchan.NewAnswering(conn, p.called)
	go p.alone()
	if err := unix.Listen(4, 4); err != nil {
		return err
	}
	go p.later(fd.New(4))

	path := filepath.Join(os.Getenv("PLUGIN_UNIX_SOCKET_DIR"), "grpc")
	l, err := net.Listen("unix", path)
	if err != nil {
		return err
	}
	s := grpc.NewServer(grpc.UnknownServiceHandler(func(_ any, stream grpc.ServerStream) error {
		if m, _ := grpc.MethodFromServerStream(stream); m == "/plugin.GRPCController/Shutdown" && !p.is("start.shutdown") {
			os.Exit(0)
		}
		return status.Error(codes.Unimplemented, "there is no such call")
	}))
	sinkpb.RegisterSinkServer(s, p)
	fmt.Printf("1|%s|unix|%s|grpc|\n", version, path)
	if p.is("start.handshake") {
		fmt.Println("ready")
	}
	if p.is("hang.stop") {
		go p.sticks()
	}
	return s.Serve(l)
}

// wasStopped looks on for a second, and says whether the process stood still for a good part of it, or before.
func wasStopped() bool {
	const long = 200 * time.Millisecond
	stopped := startedFor() > long
	for begin, last := time.Now(), time.Now(); !stopped && time.Since(begin) < time.Second; {
		<-time.After(time.Millisecond)
		stopped = time.Since(last) > long
		last = time.Now()
	}
	return stopped
}

// startedFor is how long ago the process was executed.
func startedFor() time.Duration {
	stat, _ := os.ReadFile("/proc/self/stat")
	fields := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))
	ticks, _ := strconv.ParseInt(fields[19], 10, 64)
	var now unix.Timespec
	unix.ClockGettime(unix.CLOCK_BOOTTIME, &now)
	return time.Duration(now.Nano()) - time.Duration(ticks)*10*time.Millisecond
}

// channelNow is the fd channel of now.
func (p *plain) channelNow() *fdchan.Endpoint {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.ep
}

// alone ends the process when nobody is at its fd channel, and it has nothing to do.
func (p *plain) alone() {
	for {
		ep := p.channelNow()
		<-ep.Done()
		for ep == p.channelNow() {
			p.mu.Lock()
			idle := len(p.openings) == 0
			p.mu.Unlock()
			if idle && !p.is("move.idle") {
				os.Exit(0)
			}
			<-time.After(50 * time.Millisecond)
		}
	}
}

// later takes the fd channel of a later muxd.
func (p *plain) later(f *fd.FD) {
	l, err := net.FileListener(f.File("listener"))
	if err != nil {
		return
	}
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		conn := fdchan.NewConn(c.(*net.UnixConn))
		hello, _, err := conn.Recv()
		if err != nil || hello.Type != fdchan.Hello {
			conn.Close()
			continue
		}
		p.mu.Lock()
		p.ep, p.met = fdchan.NewAnswering(conn, p.called), true
		p.mu.Unlock()
		if p.is("move.alone") {
			hello.Ticket[0]++
		}
		conn.Send(fdchan.Packet{Type: fdchan.Ack, Ticket: hello.Ticket})
	}
}

// park has the keeper hold fds. With nobody there, Repark does it later.
func (p *plain) park(name string, fds ...int) error {
	err := p.channelNow().Park(context.Background(), name, fds...)
	if fdchan.Broken(err) {
		return nil
	}
	return err
}

// change tells Watch that something has changed. p.mu is held.
func (p *plain) change() {
	close(p.changed)
	p.changed = make(chan struct{})
}

func (p *plain) Describe(context.Context, *sinkpb.DescribeRequest) (*sinkpb.Description, error) {
	d := &sinkpb.Description{Name: "plain", Version: "1", Help: "a plugin of the kit's own tests", KeepsLogs: true, CallsOnChannel: true}
	d.Carries = []sinkpb.Stream{sinkpb.Stream_STDIN, sinkpb.Stream_STDOUT, sinkpb.Stream_STDERR}
	d.Arg = &sinkpb.Option{Name: "path", Type: sinkpb.Option_STRING, Required: true, Help: "where to"}
	d.Rewires, d.TakesBranch = !p.console, p.console
	if p.console {
		d.Name, d.KeepsLogs, d.Arg, d.Carries = "plain-console", false, nil, []sinkpb.Stream{sinkpb.Stream_CONSOLE}
	} else {
		d.Metrics = []*sinkpb.Metric{{Name: "put", Help: "bytes that are where they belong"}}
	}
	d.Options = []*sinkpb.Option{
		{Name: "count", Type: sinkpb.Option_INT, Default: "1", Help: "a number"},
		{Name: "kind", Type: sinkpb.Option_ENUM, Values: []string{"one", "two"}, Default: "one", Help: "a word"},
	}
	if p.is("describe") {
		d.Options = append(d.Options, d.Options[0])
	}
	return d, nil
}

// judge judges a spec.
func (p *plain) judge(s *sinkpb.Spec) error {
	for name, value := range s.Options {
		switch {
		case name == "count":
			if _, err := strconv.Atoi(value); err != nil && !p.is("options.bad") {
				return status.Errorf(codes.InvalidArgument, "count=%s: want a number", value)
			}
		case name == "kind":
			if value != "one" && value != "two" {
				return status.Errorf(codes.InvalidArgument, "kind=%s: want one or two", value)
			}
		case !p.is("options.unknown"):
			return status.Errorf(codes.InvalidArgument, "unknown option %q", name)
		}
	}
	if (s.Arg == "") != p.console {
		return status.Error(codes.InvalidArgument, "the path is missing, or there is one for a console")
	}
	return nil
}

func (p *plain) Check(_ context.Context, req *sinkpb.CheckRequest) (*sinkpb.CheckResponse, error) {
	if err := p.judge(req.Spec); err != nil {
		return nil, err
	}
	if p.is("options.pure") {
		os.WriteFile(req.Spec.Arg, nil, 0o600)
	}
	if p.console {
		return &sinkpb.CheckResponse{Wiring: sinkpb.Wiring_PTY}, nil
	}
	st, err := os.Stat(req.Spec.Arg)
	regular := !strings.HasPrefix(req.Spec.Arg, "unix:") && (err != nil || st.Mode().IsRegular())
	return &sinkpb.CheckResponse{Wiring: sinkpb.Wiring_PIPE, Exact: regular}, nil
}

func (p *plain) find(id string) (*plainOpening, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if o := p.openings[id]; o != nil {
		return o, nil
	}
	return nil, status.Errorf(codes.NotFound, "there is no opening %q", id)
}

func (p *plain) Openings(context.Context, *sinkpb.OpeningsRequest) (*sinkpb.OpeningsResponse, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	resp := &sinkpb.OpeningsResponse{}
	for id, o := range p.openings {
		if p.is("hang.busy") && o.blocked() || p.stuck {
			p.mu.Unlock()
			<-time.After(time.Minute)
			p.mu.Lock()
		}
		if o.opened {
			resp.Openings = append(resp.Openings, id)
		}
	}
	return resp, nil
}

func (p *plain) Watch(_ *sinkpb.WatchRequest, out grpc.ServerStreamingServer[sinkpb.Event]) error {
	p.mu.Lock()
	p.watchers++
	mine := p.watchers
	p.change()
	p.mu.Unlock()
	for snapshot := false; ; {
		p.mu.Lock()
		changed := p.changed
		if mine != p.watchers && !p.is("calls.watch") {
			p.mu.Unlock()
			return status.Error(codes.Aborted, "another Watch has taken over")
		}
		var events []*sinkpb.Event
		for _, o := range p.openings {
			events = append(events, o.events()...)
		}
		p.mu.Unlock()
		if !snapshot {
			events = append(events, &sinkpb.Event{What: &sinkpb.Event_Snapshot{Snapshot: &sinkpb.Snapshot{}}})
			snapshot = true
		}
		for _, e := range events {
			if err := out.Send(e); err != nil {
				return err
			}
		}
		select {
		case <-changed:
		case <-out.Context().Done():
			return nil
		}
	}
}

func (p *plain) Recover(ctx context.Context, req *sinkpb.RecoverRequest) (*sinkpb.RecoverResponse, error) {
	n := 0
	for _, q := range req.Parked {
		n += int(q.Fds)
	}
	d, err := p.channelNow().Take(ctx, fdchan.Ticket(req.Ticket), n)
	if err != nil {
		return nil, status.Error(codes.FailedPrecondition, err.Error())
	}
	rest := d.FDs
	p.mu.Lock()
	for _, q := range req.Parked {
		p.parked[q.Name], rest = rest[:q.Fds], rest[q.Fds:]
	}
	p.mu.Unlock()
	if p.is("kill.again") { // until the opening comes again nobody has a copy
		for _, q := range req.Parked {
			p.park(q.Name)
		}
	}
	return &sinkpb.RecoverResponse{}, d.Ack()
}

func (p *plain) Repark(context.Context, *sinkpb.ReparkRequest) (*sinkpb.ReparkResponse, error) {
	p.mu.Lock()
	var all []*plainOpening
	for _, o := range p.openings {
		all = append(all, o)
	}
	met := p.met
	p.mu.Unlock()
	if p.is("move.repark") && !met {
		return &sinkpb.ReparkResponse{}, nil
	}
	for _, o := range all {
		for st, f := range o.farEnds() {
			if err := p.park("far/"+o.id+"/"+strings.ToLower(st.String()), f.Int()); err != nil {
				return nil, err
			}
		}
		for _, s := range o.streams {
			if err := s.park(); err != nil {
				return nil, err
			}
		}
	}
	return &sinkpb.ReparkResponse{}, nil
}

func (p *plain) Pause(context.Context, *sinkpb.PauseRequest) (*sinkpb.PauseResponse, error) {
	if p.is("move.pause") {
		return &sinkpb.PauseResponse{}, nil
	}
	p.mu.Lock()
	p.paused = true
	p.mu.Unlock()
	p.mu.Lock()
	all := []*plainStream{}
	for _, o := range p.openings {
		all = append(all, o.streams...)
	}
	p.mu.Unlock()
	for _, s := range all {
		s.turn.Lock() // it has nothing in hand
		defer s.turn.Unlock()
	}
	return &sinkpb.PauseResponse{}, nil
}

// sticks has Openings hang once the process was continued.
func (p *plain) sticks() {
	for last := time.Now(); ; last = time.Now() {
		<-time.After(10 * time.Millisecond)
		if time.Since(last) > 90*time.Millisecond {
			p.mu.Lock()
			p.stuck = true
			p.mu.Unlock()
		}
	}
}

// proxy stands between the fd channel and the plugin. By the defect it closes nothing of a packet that is malformed, or does not pass on that
// nobody has asked for a Give in time.
func (p *plain) proxy(outer *fd.FD) *fd.FD {
	inner, ours, err := fd.Socketpair(unix.SOCK_SEQPACKET)
	if err != nil {
		panic(err)
	}
	pass := func(from, to *fd.FD) {
		b, oob := make([]byte, 200<<10), make([]byte, unix.CmsgSpace(4*fdchan.MaxFDs))
		for {
			n, oobn, _, _, err := unix.Recvmsg(from.Int(), b, oob, unix.MSG_CMSG_CLOEXEC)
			if err != nil || n == 0 {
				unix.Shutdown(to.Int(), unix.SHUT_WR)
				return
			}
			packet, _, err := fdchan.Unmarshal(b[:n])
			switch {
			case err != nil && p.is("fds.malformed"):
				continue
			case err == nil && p.is("fds.unclaimed") && packet.Type == fdchan.Refuse && strings.HasSuffix(string(packet.Payload), "in time"):
				continue
			}
			unix.Sendmsg(to.Int(), b[:n], oob[:oobn], nil, 0)
			msgs, _ := unix.ParseSocketControlMessage(oob[:oobn])
			for _, m := range msgs {
				fds, _ := unix.ParseUnixRights(&m)
				for _, f := range fds {
					unix.Close(f)
				}
			}
		}
	}
	go pass(outer, ours)
	go pass(ours, outer)
	return inner
}
