// Package socket is the sink that puts a child's output out on a socket, and gives the child what comes from there as
// its stdin.
//
//	socket:unix:PATH           connects to a Unix stream socket; likewise unix-seqpacket, unix-dgram, tcp, tls, vsock
//	socket:listen=unix:PATH    listens, and serves every reader that connects
//
// One connection carries all streams of an opening, in the framing that the spec names.
//
// # What is promised
//
// A connection that breaks is made again. What the kernel had accepted on the broken connection is not sent again, but for
// a record that was torn; what it had not accepted is sent on the next one. Bytes that lay in the peer's buffers, unread,
// when the peer died are lost with it: a plain socket has no way to ask what was read.
//
// Connections and the listening socket survive this process. Where the bytes go as they are to one peer that is waited for,
// they are spliced from the child's pipe to the socket: the kernel takes out of the one what the other has accepted.
// Otherwise they are rendered into a queue (queue.go) in memory that outlives the process, and from there put into a pipe
// that does as well, which is spliced to the socket (flight.go). Either way a successor goes on exactly where this
// process was. TLS connections end with the process, and packets may be sent twice.
//
// With listen, every reader that is connected when a chunk comes gets all of it. While none is, the output waits in a queue
// for the next one.
package socket

import (
	"context"
	"os"
	"time"

	"github.com/muxd/muxd/sink"
)

// Plugin returns the sink plugin "socket". Each call makes one with listeners of its own, so a process serves one.
func Plugin() sink.Plugin {
	taken := &paths{owners: map[address]string{}}
	return sink.Plugin{
		Name:    "socket",
		Version: "1.0",
		Help:    "connects the streams to a socket, or lets readers connect to one",
		Carries: []sink.Stream{sink.Stdin, sink.Stdout, sink.Stderr},
		Arg:     &sink.Option{Name: "address", Type: sink.String, Help: "where to connect: " + addressForms},
		Options: options(),
		Check: func(r *sink.Request) (sink.Wiring, error) {
			s, err := parseSettings(r)
			if err != nil {
				return 0, err
			}
			r.Location, r.Exact, r.Drops = s.location(), s.exact(), s.policy != block
			if s.direct {
				return sink.Direct, nil
			}
			return sink.Pipe, nil
		},
		Open: func(ctx context.Context, o *sink.Opening) (sink.Sink, error) {
			return open(ctx, o, taken)
		},
		OpenDirect: openDirect,
	}
}

func open(ctx context.Context, o *sink.Opening, taken *paths) (sink.Sink, error) {
	s, err := parseSettings(&o.Request)
	if err != nil {
		return nil, err
	}
	o.Location = s.location()
	p := port{
		holder:  o,
		child:   o.Child,
		retries: &sink.Retries{Report: o.Trouble, First: 100 * time.Millisecond, Most: 5 * time.Second},
		input:   o.Input, outputs: s.outputs,
	}
	// Not returned at once: an interface with a nil pointer in it is not nil.
	if s.listen {
		l, err := openListener(ctx, s, p, taken)
		if err != nil {
			return nil, err
		}
		return l, nil
	}
	o.Unseen = s.moves()
	d, err := openDialled(ctx, s, p, o.Again)
	if err != nil {
		return nil, err
	}
	return d, nil
}

// openDirect connects, and gives the child the connection as each of its streams.
func openDirect(ctx context.Context, r *sink.Request) ([]*os.File, error) {
	s, err := parseSettings(r)
	if err != nil {
		return nil, err
	}
	f, err := s.dialDirect(ctx)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var out []*os.File
	for range r.Streams {
		c, err := copyOf(f)
		if err != nil {
			for _, f := range out {
				f.Close()
			}
			return nil, err
		}
		out = append(out, c)
	}
	return out, nil
}

// owner names a child in a message.
func owner(c sink.Child) string {
	if c.Name != "" {
		return c.Name
	}
	return c.ID
}

// Write puts out one chunk.
func (d *dialled) Write(ctx context.Context, c *sink.Chunk) error {
	if d.queue == nil {
		return d.put(ctx, c, c.Last)
	}
	return throughQueues(c, func(at uint64, p part) ([]byte, error) { return d.enqueue(ctx, at, p) })
}

// Write puts out one chunk.
func (l *listener) Write(ctx context.Context, c *sink.Chunk) error {
	return throughQueues(c, func(at uint64, p part) ([]byte, error) { return l.put(ctx, at, p) })
}

// throughQueues has put put a chunk into queues, and keeps what it leaves for the next one.
func throughQueues(c *sink.Chunk, put func(offset uint64, p part) ([]byte, error)) error {
	rest, err := put(c.Offset, part{stream: c.Stream, time: c.Time, carry: c.State(), data: c.Data, missed: c.Missed, last: c.Last})
	if err == nil {
		c.SetState(rest)
	}
	return err
}
