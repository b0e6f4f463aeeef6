package control

import (
	"context"
	"crypto/rand"
	"os"

	"github.com/muxd/muxd/control/controlpb"
)

// Adoption describes streams whose near ends somebody else has.
type Adoption struct {
	Name   string // empty: the id serves
	Cwd    string // for relative paths in sink specs
	Remove bool   // forget it once it is finished and has been waited for

	// Far has the far ends by stream: what can be written to for stdin, what can be read for stdout and stderr. A console
	// has one stream, "console", and no other: the master of its terminal. They stay owned by the caller, who has no use for them once Adopt has returned: muxd reads them, and has set O_NONBLOCK.
	Far map[string]*os.File
	// Sinks are their sinks; each names its stream.
	Sinks []*controlpb.SinkChoice

	// PID is the process that has the near ends, and Pidfd a pidfd of it, which stays owned by the caller. Zero: it is not
	// known, and the child ends with its streams.
	PID   int
	Pidfd *os.File
}

// Adopt makes a child of the streams. When it returns muxd holds them, and they survive each of its processes.
func (c *Client) Adopt(ctx context.Context, ad Adoption) (*controlpb.AdoptResponse, error) {
	req := &controlpb.AdoptRequest{
		RequestId: rand.Text(), Name: ad.Name, Cwd: []byte(ad.Cwd), Sinks: ad.Sinks, Pid: int32(ad.PID), Remove: ad.Remove,
	}
	var files []*os.File
	for _, stream := range []string{"stdin", "stdout", "stderr", "console"} {
		if f := ad.Far[stream]; f != nil {
			files = append(files, f)
		}
	}
	if ad.PID != 0 {
		files = append(files, ad.Pidfd)
	}
	var resp *controlpb.AdoptResponse
	err := c.withSession(ctx, func(ctx context.Context, s *session) error {
		return s.give(ctx, files, func(ticket []byte) (err error) {
			req.FdSession, req.Ticket = s.id[:], ticket
			resp, err = c.API.Adopt(ctx, req)
			return err
		})
	})
	return resp, err
}
