package main

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/muxd/muxd/internal/fd"
	"github.com/muxd/muxd/internal/fdchan"
	"github.com/muxd/muxd/sink/sinkpb"
)

// give gives one end of a new SEQPACKET pair under the ticket, and returns the other.
func (p *plain) give(ctx context.Context, ticket []byte) (*net.UnixConn, error) {
	ours, theirs, err := fd.Socketpair(unix.SOCK_SEQPACKET)
	if err != nil {
		return nil, err
	}
	defer theirs.Close()
	if err := p.channelNow().Give(ctx, fdchan.Ticket(ticket), theirs.Int()); err != nil {
		return nil, err
	}
	file := ours.File("pair")
	defer file.Close()
	c, err := net.FileConn(file)
	if err != nil {
		return nil, err
	}
	return c.(*net.UnixConn), nil
}

func (p *plain) Logs(ctx context.Context, req *sinkpb.LogsRequest) (*sinkpb.LogsResponse, error) {
	if p.console || strings.HasPrefix(req.Spec.Arg, "unix:") {
		return nil, status.Error(codes.Unimplemented, "nothing is kept")
	}
	conn, err := p.give(ctx, req.Ticket)
	if err != nil {
		return nil, err
	}
	go p.sendLog(conn, req)
	return &sinkpb.LogsResponse{}, nil
}

func (p *plain) sendLog(conn *net.UnixConn, req *sinkpb.LogsRequest) {
	defer conn.Close()
	send := func(r *sinkpb.LogRecord) {
		b, _ := proto.Marshal(r)
		conn.Write(b)
	}
	at, _ := strconv.Atoi(req.Cursor)
	for first := true; ; first = false {
		o, err := p.find(req.Opening)
		over := err != nil || !req.Follow
		if err == nil {
			p.mu.Lock()
			over = over || o.streams[0].over() && !p.is("logs.follow")
			p.mu.Unlock()
		}
		text, _ := os.ReadFile(req.Spec.Arg)
		lines := bytes.SplitAfter(text, []byte("\n"))
		if lines = lines[:max(0, len(lines)-1)]; first && req.Tail >= 0 {
			tail := int(req.Tail)
			if p.is("logs.all") {
				tail++
			}
			at = max(at, len(lines)-tail)
		}
		for ; at < len(lines); at++ {
			send(&sinkpb.LogRecord{Text: bytes.TrimSuffix(lines[at], []byte("\n")), Cursor: fmt.Sprint(at + 1)})
		}
		if over {
			if n := len(text); n > 0 && text[n-1] != '\n' {
				send(&sinkpb.LogRecord{Text: text[bytes.LastIndexByte(text, '\n')+1:]})
			}
			send(&sinkpb.LogRecord{End: true})
			return
		}
		<-time.After(5 * time.Millisecond)
	}
}

// plainConsole is a console that keeps all its output in memory, and nothing of it when it is killed.
type plainConsole struct {
	p      *plain
	master *fd.FD
	tty    *fd.FD
	out    []byte        // plain.mu
	over   bool          // plain.mu
	isCut  bool          // plain.mu
	holds  map[*int]bool // where viewers are that are waited for; plain.mu

	branch   *fd.FD // plain.mu
	branchID string
}

func (o *plainOpening) openConsole(ctx context.Context) error {
	c := &plainConsole{p: o.p, holds: map[*int]bool{}}
	o.console = c
	if o.req.Again {
		d, err := o.p.channelNow().Take(ctx, fdchan.Ticket(o.req.Ticket), 1+len(o.req.Branches))
		if err != nil {
			return err
		}
		c.master = d.FDs[0]
		if len(o.req.Branches) == 1 {
			c.branch, c.branchID = d.FDs[1], o.req.Branches[0].Id
		}
		if err := c.openTTY(); err != nil {
			return err
		}
		return d.Ack()
	}
	n, err := unix.Open("/dev/ptmx", unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return err
	}
	c.master = fd.New(n)
	if err := unix.IoctlSetPointerInt(n, unix.TIOCSPTLCK, 0); err != nil {
		return err
	}
	if err := c.openTTY(); err != nil {
		return err
	}
	if !o.p.is("wiring") {
		c.resize(o.req.Size)
	}
	return o.p.channelNow().Give(ctx, fdchan.Ticket(o.req.Ticket), c.tty.Int(), n)
}

func (c *plainConsole) openTTY() error {
	n, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(c.master.Int()), unix.TIOCGPTPEER, unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC)
	if errno != 0 {
		return errno
	}
	c.tty = fd.New(int(n))
	return nil
}

func (c *plainConsole) resize(s *sinkpb.Size) {
	unix.IoctlSetWinsize(c.master.Int(), unix.TIOCSWINSZ, &unix.Winsize{Row: uint16(s.GetRows()), Col: uint16(s.GetCols())})
}

// run reads the master until its last terminal side is closed.
func (c *plainConsole) run() {
	if c.p.is("console.reopen") {
		c.tty.Close()
	}
	b := make([]byte, 16<<10)
	for {
		c.p.mu.Lock()
		full := false
		for at := range c.holds {
			full = full || !c.isCut && len(c.out)-*at > 256<<10
		}
		changed := c.p.changed
		c.p.mu.Unlock()
		if full {
			<-changed
			continue
		}
		n, err := unix.Read(c.master.Int(), b)
		c.onward(b[:max(n, 0)])
		c.p.mu.Lock()
		if n > 0 {
			c.out = append(c.out, b[:n]...)
		}
		if err == unix.EAGAIN && !c.isCut || err == unix.EINTR || n > 0 {
			c.p.change()
			c.p.mu.Unlock()
			if err != nil {
				unix.Poll([]unix.PollFd{{Fd: int32(c.master.Int()), Events: unix.POLLIN}}, 20)
			}
			continue
		}
		c.p.mu.Unlock()
		c.endBranch()
		c.p.mu.Lock()
		c.over = true
		c.p.change()
		c.p.mu.Unlock()
		return
	}
}

func (c *plainConsole) end() { c.tty.Close() }

func (c *plainConsole) cut() {
	c.p.mu.Lock()
	defer c.p.mu.Unlock()
	c.isCut = true
	c.p.change()
}

func (c *plainConsole) close() {
	c.master.Close()
	c.tty.Close()
}

func (p *plain) Resize(_ context.Context, req *sinkpb.ResizeRequest) (*sinkpb.ResizeResponse, error) {
	o, err := p.find(req.Opening)
	if err != nil {
		return nil, err
	}
	if o.console == nil {
		return nil, status.Error(codes.FailedPrecondition, "it is no console")
	}
	if !p.is("console.size") {
		o.console.resize(req.Size)
	}
	return &sinkpb.ResizeResponse{}, nil
}

func (p *plain) Attach(ctx context.Context, req *sinkpb.AttachRequest) (*sinkpb.AttachResponse, error) {
	o, err := p.find(req.Opening)
	if err != nil {
		return nil, err
	}
	if o.console == nil {
		return nil, status.Error(codes.FailedPrecondition, "it is no console")
	}
	conn, err := p.give(ctx, req.Ticket)
	if err != nil {
		return nil, err
	}
	go o.console.show(conn, req.Replay, req.Hold)
	go o.console.type_(conn)
	return &sinkpb.AttachResponse{}, nil
}

// show sends output until the console is over.
func (c *plainConsole) show(conn *net.UnixConn, replay string, hold bool) {
	at := new(int)
	fmt.Sscanf(replay, "from=%d", at)
	c.p.mu.Lock()
	if hold {
		c.holds[at] = true
	}
	c.p.mu.Unlock()
	defer func() {
		c.p.mu.Lock()
		defer c.p.mu.Unlock()
		delete(c.holds, at)
		c.p.change()
		conn.Close()
	}()
	for {
		c.p.mu.Lock()
		changed, over := c.p.changed, c.over
		var b []byte
		if *at < len(c.out) {
			b = c.out[*at:min(len(c.out), *at+32<<10)]
		}
		c.p.mu.Unlock()
		if len(b) > 0 {
			if _, err := conn.Write(append(binary.BigEndian.AppendUint64([]byte{0x81}, uint64(*at)), b...)); err != nil {
				return
			}
			c.p.mu.Lock()
			*at += len(b)
			c.p.change()
			c.p.mu.Unlock()
			continue
		}
		if over {
			conn.Write([]byte{0x85, 0, 0, 0, 0, 0})
			return
		}
		<-changed
	}
}

// type_ types what the viewer sends.
func (c *plainConsole) type_(conn *net.UnixConn) {
	defer conn.Close()
	at := uint64(0)
	b := make([]byte, 70<<10)
	for {
		n, err := conn.Read(b)
		if err != nil || n == 0 {
			return
		}
		if b[0] != 1 || n < 9 {
			if c.p.is("console.frames") {
				continue
			}
			return
		}
		offset, text := binary.BigEndian.Uint64(b[1:]), b[9:n]
		if offset < at && !c.p.is("console.keys") {
			text = text[min(uint64(len(text)), at-offset):]
		}
		unix.Write(c.master.Int(), text)
		at += uint64(len(text))
		conn.Write(binary.BigEndian.AppendUint64([]byte{0x82}, at))
	}
}
