// Package socket is the sink that puts a child's output out on a socket, and gives the child what comes from there as
// its stdin.
//
//	socket:unix:PATH           connects to a Unix stream socket
//	socket:tcp:HOST:PORT       connects over TCP
//	socket:listen=unix:PATH    listens, and serves every reader that connects
//
// One connection carries all streams of an opening, as they were read and in that order, without anything that tells
// them apart.
//
// # What is promised
//
// A connection that breaks is made again, and the child waits meanwhile. What the kernel had accepted on the broken
// connection is not sent again, and what it had not accepted is sent on the next one: so no byte is sent twice, but
// bytes that lay in the peer's buffers, unread, when the peer died are lost with it. A plain socket has no way to ask
// what was read.
//
// A connection that the sink has made survives this process. The bytes go from the child's pipe to the socket, and from
// the socket to the child's stdin, in the kernel (splice(2)), which takes out of the one what the other has accepted:
// so where a process of this plugin is killed its successor goes on exactly there, and the peer notices nothing.
//
// With listen, every reader that is connected when a chunk comes gets all of it, and a reader that does not read holds
// up the others. While none is connected the child waits, once its pipe is full.
package socket

import (
	"context"
	"time"

	"github.com/muxd/muxd/sink"
)

// Plugin returns the sink plugin "socket". Each call makes one with listeners of its own, so a process serves one.
func Plugin() sink.Plugin {
	taken := &paths{owners: map[string]string{}}
	return sink.Plugin{
		Name:    "socket",
		Version: "1.0",
		Help:    "connects the streams to a socket, or lets readers connect to one",
		Carries: []sink.Stream{sink.Stdin, sink.Stdout, sink.Stderr},
		Arg: &sink.Option{
			Name: "address", Type: sink.String,
			Help: "where to connect: unix:PATH or tcp:HOST:PORT",
		},
		Options: []sink.Option{
			{Name: "listen", Type: sink.String, Help: "instead of an address: unix:PATH, where readers connect"},
			{Name: "perm", Type: sink.String, Default: "0600", Help: "with listen: permissions of the socket file, octal"},
			{Name: "framing", Type: sink.Enum, Values: []string{"raw"}, Default: "raw",
				Help: "raw: the bytes as they are"},
			{Name: "policy", Type: sink.Enum, Values: []string{"block"}, Default: "block",
				Help: "block: the child waits while nobody takes its output"},
		},
		Check: func(r *sink.Request) (sink.Wiring, error) {
			s, err := parseSettings(r)
			if err != nil {
				return 0, err
			}
			r.Location = s.location()
			return sink.Pipe, nil
		},
		Open: func(ctx context.Context, o *sink.Opening) (sink.Sink, error) {
			s, err := parseSettings(&o.Request)
			if err != nil {
				return nil, err
			}
			o.Location = s.location()
			p := port{
				holder:  o,
				retries: &sink.Retries{Report: o.Trouble, First: 100 * time.Millisecond, Most: 5 * time.Second},
				input:   o.Input, outputs: s.outputs,
			}
			// Not returned at once: an interface with a nil pointer in it is not nil.
			if s.listen {
				l, err := openListener(ctx, s, p, taken, owner(o.Child))
				if err != nil {
					return nil, err
				}
				return l, nil
			}
			o.Unseen = true
			d, err := openDialled(ctx, s, p, o.Again)
			if err != nil {
				return nil, err
			}
			return d, nil
		},
	}
}

// owner names a child in a message.
func owner(c sink.Child) string {
	if c.Name != "" {
		return c.Name
	}
	return c.ID
}

// Write puts out one chunk.
func (d *dialled) Write(ctx context.Context, c *sink.Chunk) error { return d.put(ctx, c, c.Last) }

// Write puts out one chunk.
func (l *listener) Write(ctx context.Context, c *sink.Chunk) error { return l.put(ctx, c.Data, c.Last) }
