package sink

import (
	"os"

	"github.com/muxd/muxd/internal/fd"
)

// Opening is streams of one child in the hands of a sink.
type Opening struct {
	Request
	ID         string
	Rows, Cols int // of a console, at its beginning; never zero

	// Input takes what the child shall read as its stdin; nil where Stdin is not among Streams.
	Input *Input

	live        *opening
	master, tty *fd.FD
	status      uint32
	statusKnown bool
}

// Trouble says that the sink is waiting for something outside to be mended, or with nil that it goes on. It is shown in
// muxctl inspect and events.
func (o *Opening) Trouble(err error) { o.live.troubled(err) }

// Status is the child's wait status, as waitpid(2) encodes it, once the child has exited and where muxd knows it.
func (o *Opening) Status() (status uint32, known bool) {
	o.live.srv.mu.Lock()
	defer o.live.srv.mu.Unlock()
	return o.status, o.statusKnown
}

// Terminal takes ownership of the console's terminal pair: master, which the SDK reads, and tty, which becomes the
// child's terminal. O_NONBLOCK gets set on the master, which a copy shares: the console makes one, for what viewers
// type, before it calls Terminal.
func (o *Opening) Terminal(master, tty *os.File) error {
	var err error
	if o.master, err = fd.FromFile(master); err != nil {
		tty.Close()
		return err
	}
	o.tty, err = fd.FromFile(tty)
	return err
}
