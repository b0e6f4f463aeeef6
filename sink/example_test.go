package sink_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/muxd/muxd/sink"
)

// journal appends chunks to a file, once each: before a chunk is written, the file's length is recorded with it.
type journal struct {
	o    *sink.Opening
	file *os.File
}

func (j *journal) Close() error { return j.file.Close() }

func (j *journal) Write(_ context.Context, c *sink.Chunk) error {
	end, err := j.file.Seek(0, 2)
	if err != nil {
		return err
	}
	data := c.Data
	if b := c.Intent(); b != nil { // an earlier process was killed over this chunk: the file tells how far it came
		var start int64
		fmt.Sscan(string(b), &start)
		data = data[min(int64(len(data)), end-start):]
		end = start
	}
	c.Intend(fmt.Append(nil, end))
	if _, err := j.file.Write(data); err != nil {
		return err
	}
	j.o.Count(c.Stream, "chunks", 1) // for people: muxctl inspect shows it
	return nil
}

// A sink that takes chunks, and finds out what of one was written where a process was killed over it.
func Example_chunks() {
	sink.Serve(sink.Plugin{
		Name:    "journal",
		Help:    "appends output to a file",
		Carries: []sink.Stream{sink.Stdout}, // one: another stream's chunks would come between a length and its chunk
		Arg:     &sink.Option{Name: "path", Type: sink.Path, Required: true, Help: "where to"},
		Metrics: []sink.Metric{{Name: "chunks", Help: "pieces that were written"}},
		Check:   func(r *sink.Request) (sink.Wiring, error) { r.Exact = true; return sink.Pipe, nil },
		Open: func(_ context.Context, o *sink.Opening) (sink.Sink, error) {
			f, err := os.OpenFile(o.Arg, os.O_RDWR|os.O_APPEND|os.O_CREATE, 0o640)
			if err != nil {
				return nil, err
			}
			return &journal{o, f}, nil
		},
	})
}

// shout writes lines.
type shout struct{ to *os.File }

func (s shout) Close() error { return s.to.Close() }

func (s shout) Write(_ context.Context, c *sink.Chunk) error {
	for l := range c.Lines(4 << 10) {
		if _, err := fmt.Fprintf(s.to, "%s %d: %s!\n", c.Stream, l.Offset, l.Text); err != nil {
			return err
		}
		l.Done()
	}
	return nil
}

// A sink that takes lines.
func Example_lines() {
	sink.Serve(sink.Plugin{
		Name:    "shout",
		Help:    "writes lines to a file",
		Carries: []sink.Stream{sink.Stdout, sink.Stderr},
		Arg:     &sink.Option{Name: "path", Type: sink.Path, Required: true, Help: "where to"},
		Open: func(_ context.Context, o *sink.Opening) (sink.Sink, error) {
			f, err := os.OpenFile(o.Arg, os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o640)
			if err != nil {
				return nil, err
			}
			return shout{f}, nil
		},
	})
}

// relay passes bytes on as they are.
type relay struct{ to *net.UnixConn }

func (r relay) Close() error { return r.to.Close() }

func (r relay) Write(_ context.Context, c *sink.Chunk) error {
	raw, err := r.to.SyscallConn()
	if err != nil {
		return err
	}
	for c.Left() > 0 {
		var moveErr error
		if err := raw.Write(func(fd uintptr) bool { // called again when there is room
			_, moveErr = c.Move(fd, c.Left())
			return !errors.Is(moveErr, unix.EAGAIN)
		}); err != nil {
			return err
		}
		if moveErr != nil {
			return moveErr
		}
	}
	return nil
}

// A sink that takes bytes without looking at them: the kernel moves them to a connection, which muxd keeps too, so that it
// goes on where a process is killed.
func Example_moved() {
	sink.Serve(sink.Plugin{
		Name:    "relay",
		Help:    "passes output on to a socket",
		Carries: []sink.Stream{sink.Stdout},
		Arg:     &sink.Option{Name: "path", Type: sink.Path, Required: true, Help: "where to"},
		Open: func(_ context.Context, o *sink.Opening) (sink.Sink, error) {
			o.Unseen = true
			if kept := o.Parked("peer"); len(kept) > 0 {
				c, err := net.FileConn(kept[0])
				kept[0].Close()
				if err != nil {
					return nil, err
				}
				return relay{c.(*net.UnixConn)}, o.Park("peer", c.(*net.UnixConn))
			}
			c, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: o.Arg, Net: "unix"})
			if err != nil {
				return nil, err
			}
			return relay{c}, o.Park("peer", c)
		},
	})
}

// A sink that makes the child's end itself, and has nothing to do afterwards.
func Example_direct() {
	sink.Serve(sink.Plugin{
		Name:    "plain",
		Help:    "is a file",
		Carries: []sink.Stream{sink.Stdout, sink.Stderr},
		Arg:     &sink.Option{Name: "path", Type: sink.Path, Required: true, Help: "where to"},
		OpenDirect: func(_ context.Context, r *sink.Request) (near []*os.File, err error) {
			for range r.Streams {
				f, err := os.OpenFile(r.Arg, os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o640)
				if err != nil {
					return near, err // the SDK closes what is in near
				}
				near = append(near, f)
			}
			return near, nil
		},
	})
}

// pump reads the far end itself, which it could as well give to somebody else.
type pump struct{ to *os.File }

func (p pump) Close() error { return p.to.Close() }

func (p pump) Read(ctx context.Context, far *sink.Far) error {
	defer context.AfterFunc(ctx, func() { p.to.SetWriteDeadline(time.Unix(1, 0)) })() // it shall not wait for what takes nothing
	b := make([]byte, 64<<10)
	for {
		n, err := far.Read(b)
		if err == io.EOF {
			return nil
		}
		if err == nil {
			_, err = p.to.Write(b[:n])
		}
		if err != nil {
			return err
		}
		far.Put(n) // they are where they belong
	}
}

// A sink that reads far ends itself. What it has read when its process is killed, and not written, is lost.
func Example_raw() {
	sink.Serve(sink.Plugin{
		Name:    "pump",
		Help:    "appends output to a file, or writes it to a FIFO",
		Carries: []sink.Stream{sink.Stdout, sink.Stderr},
		Arg:     &sink.Option{Name: "path", Type: sink.Path, Required: true, Help: "where to"},
		OpenRaw: func(_ context.Context, o *sink.Opening) (sink.RawSink, error) {
			f, err := os.OpenFile(o.Arg, os.O_RDWR|os.O_APPEND|os.O_CREATE, 0o640)
			if err != nil {
				return nil, err
			}
			return pump{f}, nil
		},
	})
}
