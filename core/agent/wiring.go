package agent

import (
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/muxd/muxd/internal/fd"
	"github.com/muxd/muxd/internal/nearest"
	"github.com/muxd/muxd/internal/spec"
	"github.com/muxd/muxd/sink/sinkpb"
)

// wiringOption is an option that is the core's and no sink's: what the core makes for a sink that reads and writes far ends.
const wiringOption = "wiring"

var wiringDescription = &sinkpb.Option{
	Name: wiringOption, Type: sinkpb.Option_ENUM, Values: []string{wiringPipe, wiringPair}, Default: wiringPipe,
	Help: "of a sink that has the child on pipes: socketpair has it on sockets, stdin and stdout on the same one, for programs that want their stdio to be a connection",
}

// takeWiring takes wiringOption out of s, and says whether the child shall have sockets.
func takeWiring(s spec.Spec) (pair bool, err error) {
	text, given := s.Options[wiringOption]
	delete(s.Options, wiringOption)
	switch {
	case !given, text == wiringPipe:
		return false, nil
	case text == wiringPair:
		return true, nil
	}
	return false, fmt.Errorf("sink %s: %s=%s: want pipe or socketpair%s", s.Name, wiringOption, text, nearest.Hint(text, wiringDescription.Values))
}

// ends makes the ends of the streams of a choice that reads and writes far ends: near, which the child gets, and far, in their order. Those of a
// socket pair are both ways, and stdin and stdout have the same. It returns them owned by the caller, also with an error.
func (c *choice) ends() (near, far []*fd.FD, err error) {
	var both [2]*fd.FD // near and far of stdin, for stdout
	for _, s := range c.streams {
		var n, f *fd.FD
		switch {
		case c.wiring != wiringPair:
			f, n, err = fd.Pipe()
			if s == sinkpb.Stream_STDIN {
				f, n = n, f
			}
		case s == sinkpb.Stream_STDOUT && both[0] != nil:
			if n, err = both[0].Dup(); err == nil {
				f, err = both[1].Dup()
			}
		default:
			n, f, err = fd.Socketpair(unix.SOCK_STREAM)
		}
		if s == sinkpb.Stream_STDIN {
			both = [2]*fd.FD{n, f}
		}
		near, far = append(near, n), append(far, f)
		if err != nil {
			return near, far, err
		}
	}
	return near, far, nil
}

// endInput has the child read end-of-file from its stdin, which its sink has closed. A pipe ends with the last of its far ends, which is
// the keeper's; a socket is shut down, since its far end is stdout's too.
func (a *Agent) endInput(o *opening, s *stream) {
	if o.choice.wiring == wiringPair {
		if f, err := a.keeper.Fetch(a.ctx, o.farName(s)); err == nil {
			unix.Shutdown(f.Int(), unix.SHUT_WR)
			f.Close()
		}
	}
	a.keeper.Drop(a.ctx, o.farName(s), false)
}
