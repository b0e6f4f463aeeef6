// Package control drives a running muxd: it spawns children, attaches to their consoles, reads their logs, and waits for their
// ends. muxctl is made of it.
//
// The messages are those of the control API, in controlpb; errors are of type [*Error].
package control

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	"github.com/muxd/muxd/control/controlpb"
	"github.com/muxd/muxd/internal/localrpc"
)

// Client is a connection to a muxd. Its methods may be called from several goroutines; each blocks until the answer is there
// or its context is done.
type Client struct {
	// API is the control API itself.
	API    controlpb.ControlClient
	conn   *grpc.ClientConn
	socket string
}

// DefaultSocket is the control socket of a muxd that runs with defaults: $MUXD_SOCKET, or control.sock in $XDG_RUNTIME_DIR/muxd,
// or in /run/muxd for root.
func DefaultSocket() (string, error) {
	if s := os.Getenv("MUXD_SOCKET"); s != "" {
		return s, nil
	}
	if dir := os.Getenv("XDG_RUNTIME_DIR"); filepath.IsAbs(dir) {
		return filepath.Join(dir, "muxd", "control.sock"), nil
	}
	if os.Geteuid() == 0 {
		return "/run/muxd/control.sock", nil
	}
	return "", errors.New("find muxd: neither MUXD_SOCKET nor XDG_RUNTIME_DIR is set; give --socket")
}

// Dial returns a client of the muxd whose control socket is given. It does not connect before the first call. Close ends it.
func Dial(socket string) (*Client, error) {
	abs, err := filepath.Abs(socket)
	if err != nil {
		return nil, err
	}
	c := &Client{socket: abs}
	c.conn, err = grpc.NewClient("passthrough:///muxd", append(localrpc.Client(),
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", abs)
		}),
		grpc.WithUnaryInterceptor(func(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, call grpc.UnaryInvoker, opts ...grpc.CallOption) error {
			return c.retry(ctx, func() error { return call(ctx, method, req, reply, cc, opts...) })
		}),
		grpc.WithStreamInterceptor(func(ctx context.Context, desc *grpc.StreamDesc, cc *grpc.ClientConn, method string, open grpc.Streamer, opts ...grpc.CallOption) (grpc.ClientStream, error) {
			s, err := open(ctx, desc, cc, method, opts...)
			return s, c.Plain(err)
		}),
		grpc.WithConnectParams(grpc.ConnectParams{ // whoever is to answer is on this machine, and back soon
			Backoff:           backoff.Config{BaseDelay: retryFirst, Multiplier: 1.5, Jitter: 0.2, MaxDelay: retryPause},
			MinConnectTimeout: time.Second,
		}),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(64<<20)),
	)...)
	if err != nil {
		return nil, fmt.Errorf("dial %s: %w", socket, err)
	}
	c.API = controlpb.NewControlClient(c.conn)
	return c, nil
}

// Close ends the connection. Viewers and logs that were opened with it go on.
func (c *Client) Close() error { return c.conn.Close() }

// Error is what a call failed with.
type Error struct {
	Code codes.Code
	Text string // a sentence for people
}

func (e *Error) Error() string { return e.Text }

// GRPCStatus lets status.Code tell the code.
func (e *Error) GRPCStatus() *status.Status { return status.New(e.Code, e.Text) }

// Unreachable says whether err means that no muxd answers at the socket, or that it went away.
func Unreachable(err error) bool {
	e, ok := errors.AsType[*Error](err)
	return ok && e.Code == codes.Unavailable
}

// Retries while muxd is being replaced. Its listening sockets outlive an agent, and a keeper that its agent follows, so a client
// that can connect only has to wait. Where both were killed nobody listens until somebody starts muxd again.
const (
	retryFirst = 20 * time.Millisecond
	retryPause = 100 * time.Millisecond // the longest between two attempts
	retryMost  = 500 * time.Millisecond
	retryFor   = 10 * time.Second
)

// retry makes a call, and makes it again while an agent that died is being replaced. Every call can be repeated: a spawn carries its
// request's id, and the others have the same effect twice as once.
func (c *Client) retry(ctx context.Context, call func() error) error {
	begun := time.Now()
	for wait := retryFirst; ; wait = min(2*wait, retryPause) {
		asked := time.Now()
		err := call()
		if time.Since(asked) > retryMost { // it was waiting for its answer: the agent was there
			begun, wait = time.Now(), retryFirst
		}
		if status.Code(err) != codes.Unavailable || time.Since(begun) > retryFor || ctx.Value(once{}) != nil || !c.expected() {
			return c.Plain(err)
		}
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return c.Plain(err)
		}
	}
}

// expected says whether an answer can be expected: somebody listens at the socket, an agent or the keeper for the next one; or muxd was
// killed there, and has not ended, which would have removed the socket.
func (c *Client) expected() bool {
	conn, err := net.DialTimeout("unix", c.socket, time.Second)
	if err == nil {
		conn.Close()
	}
	return err == nil || errors.Is(err, syscall.ECONNREFUSED)
}

// Plain turns a gRPC error, as streams of API return it, into an Error.
func (c *Client) Plain(err error) error {
	if err == nil {
		return nil
	}
	s, ok := status.FromError(err)
	if !ok {
		return err
	}
	e := &Error{Code: s.Code(), Text: s.Message()}
	if e.Code != codes.Unavailable {
		return e
	}
	conn, dialErr := net.DialTimeout("unix", c.socket, time.Second)
	if dialErr == nil {
		conn.Close()
		return e
	}
	switch {
	case errors.Is(dialErr, os.ErrNotExist):
		e.Text = fmt.Sprintf("muxd is not running: there is no %s; start it with muxd --config FILE, or give --socket", c.socket)
	case errors.Is(dialErr, os.ErrPermission):
		e.Text = fmt.Sprintf("muxd at %s is another user's: %v", c.socket, errors.Unwrap(dialErr))
	case errors.Is(dialErr, syscall.ECONNREFUSED):
		e.Text = fmt.Sprintf("muxd was killed, and nobody answers at %s: start it again with muxd --config FILE, and it takes its children back", c.socket)
	default:
		e.Text = fmt.Sprintf("muxd does not answer at %s: %v", c.socket, dialErr)
	}
	return e
}

// Spawn starts a child and returns once its program runs. The files are what it gets for its streams whose sink is
// "inherit", in the order stdin, stdout, stderr; they stay owned by the caller. A terminal among them must not be
// the caller's controlling one: that needs a fork by the caller (SpawnForked).
func (c *Client) Spawn(ctx context.Context, child *controlpb.ChildSpec, inherit ...*os.File) (*controlpb.SpawnResponse, error) {
	req := &controlpb.SpawnRequest{RequestId: rand.Text(), Child: child}
	if len(inherit) == 0 {
		return c.API.Spawn(ctx, req)
	}
	var resp *controlpb.SpawnResponse
	err := c.withSession(ctx, func(ctx context.Context, s *session) error {
		return s.give(ctx, inherit, func(ticket []byte) (err error) {
			req.FdSession, req.Ticket = s.id[:], ticket
			resp, err = c.API.Spawn(ctx, req)
			return err
		})
	})
	return resp, err
}

// SpawnAttached is Spawn, and returns a viewer of the child's console that misses not a byte, owned by the caller; nil where
// the child has no console.
func (c *Client) SpawnAttached(ctx context.Context, child *controlpb.ChildSpec, o AttachOptions) (*controlpb.SpawnResponse, *Viewer, error) {
	req := &controlpb.SpawnRequest{RequestId: rand.Text(), Child: child}
	o.InputID = cmp.Or(o.InputID, rand.Text())
	var resp *controlpb.SpawnResponse
	var f *os.File
	err := c.withSession(ctx, func(ctx context.Context, s *session) (err error) {
		f, err = s.take(ctx, func(ticket []byte) (err error) {
			req.FdSession, req.Attach = s.id[:], o.request(ticket)
			resp, err = c.API.Spawn(ctx, req)
			if err == nil && !resp.Attached {
				err = errNothingComes
			}
			return err
		})
		return err
	})
	switch {
	case errors.Is(err, errNothingComes):
		return resp, nil, nil
	case err != nil:
		return nil, nil, err
	}
	v, err := NewViewer(f)
	if err == nil {
		v.run = 1
		v.survive(c, resp.Id, o)
	}
	return resp, v, err
}

// Upgrade replaces muxd and its plugins by the programs that are on disk now, and says what became of each process. It returns when
// all of them serve again.
func (c *Client) Upgrade(ctx context.Context) (*controlpb.UpgradeResponse, error) {
	return c.API.Upgrade(ctx, &controlpb.UpgradeRequest{RequestId: rand.Text()})
}

// Wait returns when the child is finished: every byte of its streams is where it belongs.
func (c *Client) Wait(ctx context.Context, child string) (*controlpb.Child, error) {
	return c.API.Wait(ctx, &controlpb.WaitRequest{Child: child})
}

// AttachOptions say how a viewer sees a console.
type AttachOptions struct {
	ReadOnly   bool
	Replay     string // screen, all, none, lines=N, from=OFFSET, since=OFFSET; empty: screen
	Rows, Cols int    // of the viewer's terminal; zero: it has none
	Hold       bool   // the child waits where this viewer reads too slowly; otherwise the viewer misses output and is redrawn
	Terminal   bool   // ViewerTake may ask for the terminal, and is answered with HandOver
	InputID    string // names what is typed, at most 32 bytes: what the console has of an input of that name is not typed again; empty: a new one
}

func (o AttachOptions) request(ticket []byte) *controlpb.AttachRequest {
	return &controlpb.AttachRequest{
		Ticket: ticket, ReadOnly: o.ReadOnly, Replay: o.Replay, Hold: o.Hold, InputId: []byte(o.InputID), Terminal: o.Terminal,
		Size: &controlpb.Size{Rows: uint32(o.Rows), Cols: uint32(o.Cols)},
	}
}

// Attach returns a viewer of the child's console, owned by the caller. It outlives the death of the console's plugin.
func (c *Client) Attach(ctx context.Context, child string, o AttachOptions) (*Viewer, error) {
	o.InputID = cmp.Or(o.InputID, rand.Text())
	v, err := c.attach(ctx, child, o)
	if err == nil {
		v.survive(c, child, o)
	}
	return v, err
}

// attach is Attach for one connection.
func (c *Client) attach(ctx context.Context, child string, o AttachOptions) (*Viewer, error) {
	var f *os.File
	var resp *controlpb.AttachResponse
	err := c.withSession(ctx, func(ctx context.Context, s *session) (err error) {
		f, err = s.take(ctx, func(ticket []byte) (err error) {
			req := o.request(ticket)
			req.Child, req.FdSession = child, s.id[:]
			resp, err = c.API.Attach(ctx, req)
			return err
		})
		return err
	})
	if err != nil {
		return nil, err
	}
	v, err := NewViewer(f)
	if err != nil {
		return nil, err
	}
	v.run = resp.Run
	return v, nil
}
