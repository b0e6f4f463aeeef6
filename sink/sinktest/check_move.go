package sinktest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	"github.com/muxd/muxd/internal/fd"
	"github.com/muxd/muxd/internal/fdchan"
	"github.com/muxd/muxd/sink/sinkpb"
)

// unless says that a check does not apply to a plugin that answers UNIMPLEMENTED.
func unless(call string, err error) error {
	if status.Code(err) == codes.Unimplemented {
		return notApplicable("it answers UNIMPLEMENTED to " + call)
	}
	return fmt.Errorf("%s: %w", call, err)
}

func moveLeave(s *session) error {
	h, o, err := s.openNew()
	if err != nil {
		return err
	}
	ctx, cancel := s.soon()
	defer cancel()
	_, err = h.p.sinks.Leave(ctx, &sinkpb.LeaveRequest{Opening: o.id, Stream: sinkpb.Stream_STDIN})
	if status.Code(err) == codes.Unimplemented {
		return unless("Leave", err)
	}
	if err := want("Leave of a stream that it does not read", err, codes.NotFound); err != nil {
		return err
	}
	enough := make(chan struct{})
	written := make(chan error, 1)
	writing, stop := context.WithCancel(ctx)
	defer stop()
	go func() { written <- o.trickle(writing, s.target.out, &lines{}, enough) }()
	<-time.After(20 * time.Millisecond)
	callCtx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	resp, err := h.p.sinks.Leave(callCtx, &sinkpb.LeaveRequest{Opening: o.id, Stream: s.target.out})
	if err != nil {
		close(enough)
		return fmt.Errorf("the call Leave: %w", err)
	}
	close(enough)
	stop() // since Leave nobody reads, and the pipe may be full
	if err := <-written; err != nil && !errors.Is(err, os.ErrDeadlineExceeded) && !errors.Is(err, context.Canceled) {
		return err
	}
	if !resp.Left {
		return errors.New("the call Leave answers that it keeps the stream, and nothing holds it up")
	}
	k := key{o.id, s.target.out}
	ev := h.p.events
	if err := ev.wait(ctx, func() bool { t := ev.streams[k]; return t != nil && t.over() }); err != nil {
		return fmt.Errorf("after Leave neither flushed nor failed was told: %w", err)
	}
	if t := ev.of(k); !t.flushed || t.outBytes != resp.Bytes {
		return fmt.Errorf("the call Leave answers %d bytes, and flushed was told with %d", resp.Bytes, t.outBytes)
	}
	all := o.written[s.target.out].Load()
	o.closeNear()
	far := o.far[s.target.out].File("far end")
	defer far.Close()
	rest, err := io.ReadAll(far)
	if err != nil {
		return err
	}
	if got := int64(resp.Bytes) + int64(len(rest)); got != all {
		return fmt.Errorf("%d bytes were written; Leave answers that %d were put out, and %d are left in the pipe", all, resp.Bytes, len(rest))
	}
	o.written[s.target.out].Store(int64(resp.Bytes))
	if err := s.same(o, &lines{}); err != nil {
		return err
	}
	return o.forget(ctx)
}

func moveRepark(s *session) error {
	l := &lines{}
	h, o, err := s.openWritten(l, 31_000)
	if err != nil {
		return err
	}
	ctx, cancel := s.soon()
	defer cancel()
	before := h.keeper.list()
	h.keeper.drop()
	if _, err := h.p.sinks.Repark(ctx, &sinkpb.ReparkRequest{}); err != nil {
		return unless("Repark", err)
	}
	if err := h.reparked(o, before); err != nil {
		return err
	}
	if err := s.succeed(h); err != nil {
		return err
	}
	if err := s.write(o, first(l, 31_000), 0); err != nil {
		return err
	}
	return s.finish(o, &lines{})
}

// reparked says what is missing of before, and has the far ends that were parked take the place of the kit's.
func (h *host) reparked(o *opening, before map[string]int) error {
	after := h.keeper.list()
	for name, n := range before {
		if after[name] != n {
			return fmt.Errorf("it had parked %q with %d descriptors, and Repark parked it with %d", name, n, after[name])
		}
	}
	for _, st := range o.streams {
		name := farEnds + o.id + "/" + streamNames[st]
		h.keeper.mu.Lock()
		held := h.keeper.held[name]
		delete(h.keeper.held, name)
		h.keeper.mu.Unlock()
		if len(held) != 1 {
			return fmt.Errorf("the call Repark did not park %s: it parked %d descriptors under it", name, len(held))
		}
		if !sameFile(held[0], o.far[st]) {
			return fmt.Errorf("what Repark parked as %s is not the stream's far end", name)
		}
		o.far[st].Close()
		o.far[st] = held[0]
	}
	return nil
}

var streamNames = map[sinkpb.Stream]string{
	sinkpb.Stream_STDIN: "stdin", sinkpb.Stream_STDOUT: "stdout", sinkpb.Stream_STDERR: "stderr", sinkpb.Stream_CONSOLE: "console",
}

// sameFile says whether both are the same pipe, or masters of the same terminal.
func sameFile(a, b *fd.FD) bool {
	var x, y unix.Stat_t
	if unix.Fstat(a.Int(), &x) != nil || unix.Fstat(b.Int(), &y) != nil || x.Dev != y.Dev || x.Ino != y.Ino {
		return false
	}
	n, errA := unix.IoctlGetInt(a.Int(), unix.TIOCGPTN)
	m, errB := unix.IoctlGetInt(b.Int(), unix.TIOCGPTN)
	return (errA == nil) == (errB == nil) && n == m
}

// leaveAlone is the death of keeper and agent: what they had of the plugin is gone.
func (h *host) leaveAlone() {
	h.p.conn.Close()
	h.p.fds.Close()
	h.p.channel.Close()
	h.keeper.drop()
}

// errNobody says that the plugin does not listen for a later muxd.
var errNobody = errors.New("nobody listens there")

// reconnect is a later muxd: it opens a new fd channel and a new connection to the service.
func (h *host) reconnect(ctx context.Context) error {
	c, err := net.DialUnix("unixpacket", nil, &net.UnixAddr{Net: "unixpacket", Name: h.p.listener})
	if err != nil {
		return errors.Join(errNobody, err)
	}
	conn := fdchan.NewConn(c)
	cred, err := conn.Peer()
	if err == nil && int(cred.Pid) != h.p.pid() {
		err = fmt.Errorf("process %d listens, and the plugin is %d", cred.Pid, h.p.pid())
	}
	if err != nil {
		conn.Close()
		return err
	}
	c.SetDeadline(time.Now().Add(answerMost))
	hello := newTicket()
	if err := conn.Send(fdchan.Packet{Type: fdchan.Hello, Ticket: hello}); err != nil {
		conn.Close()
		return err
	}
	p, fds, err := conn.Recv()
	fd.CloseAll(fds)
	switch {
	case err != nil:
		conn.Close()
		return fmt.Errorf("wait for the answer to Hello: %w", err)
	case p.Type != fdchan.Ack || p.Ticket != hello:
		conn.Close()
		return errors.New("the call Hello was not answered with Ack and its ticket")
	}
	c.SetDeadline(never)
	h.p.fds = fdchan.NewEndpoint(conn, h.keeper.park)
	if h.p.channel, err = h.p.fds.Dup(); err != nil {
		return err
	}
	h.p.conn, err = grpc.NewClient("unix:"+h.p.socket, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return err
	}
	h.p.sinks = sinkpb.NewSinkClient(h.p.conn)
	return nil
}

func moveAlone(s *session) error {
	l := &lines{}
	h, o, err := s.openWritten(l, 30_000)
	if err != nil {
		return err
	}
	h.leaveAlone()
	ctx, cancel := s.soon()
	defer cancel()
	err = h.reconnect(ctx)
	if errors.Is(err, errNobody) {
		return notApplicable("it does not listen for a later muxd (MUXD_FD_LISTENER), which kills it then")
	}
	if err != nil {
		return err
	}
	h.leaveAlone()
	if err := s.write(o, first(l, 300_000), 0); err != nil {
		return fmt.Errorf("while it was alone: %w", err)
	}
	if err := h.reconnect(ctx); err != nil {
		return fmt.Errorf("a second time: %w", err)
	}
	_, err = h.p.sinks.Repark(ctx, &sinkpb.ReparkRequest{})
	parks := status.Code(err) != codes.Unimplemented
	if err != nil && parks {
		return fmt.Errorf("the call Repark to a later muxd: %w", err)
	}
	if parks {
		if err := h.reparked(o, nil); err != nil {
			return err
		}
	}
	list, err := h.p.sinks.Openings(ctx, &sinkpb.OpeningsRequest{})
	if err != nil || !slices.Contains(list.Openings, o.id) {
		return fmt.Errorf("the call Openings answers %v to a later muxd, and %s is open: %w", list.GetOpenings(), o.id, err)
	}
	if err := h.p.watch(ctx); err != nil {
		return err
	}
	if parks { // otherwise its streams end with it: nobody else has them
		if err := s.succeed(h); err != nil {
			return err
		}
	}
	if err := s.write(o, first(l, 3000), 0); err != nil {
		return err
	}
	return s.finish(o, &lines{})
}

func moveIdle(s *session) error {
	h, err := s.host()
	if err != nil {
		return err
	}
	h.leaveAlone()
	select {
	case <-h.p.exited:
		return nil
	case <-time.After(s.o.Timeout):
		return fmt.Errorf("it still runs %v later", s.o.Timeout)
	}
}

func movePause(s *session) error {
	l := &lines{}
	h, o, err := s.openWritten(l, 2000)
	if err != nil {
		return err
	}
	ctx, cancel := s.soon()
	defer cancel()
	if _, err := h.p.sinks.Pause(ctx, &sinkpb.PauseRequest{}); err != nil {
		return unless("Pause", err)
	}
	far := o.far[s.target.out].Int()
	before, err := unix.IoctlGetInt(far, unix.TIOCINQ)
	if err != nil {
		return os.NewSyscallError("FIONREAD", err)
	}
	if err := s.write(o, first(l, 2000), 0); err != nil {
		return err
	}
	<-time.After(100 * time.Millisecond)
	if now, err := unix.IoctlGetInt(far, unix.TIOCINQ); err != nil || now != before+2000 {
		return fmt.Errorf("of 2000 bytes that were written after Pause %d are in the pipe", now-before)
	}
	if err := s.succeed(h); err != nil {
		return err
	}
	return s.finish(o, &lines{})
}
