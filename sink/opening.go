package sink

import (
	"errors"
	"os"

	"github.com/muxd/muxd/internal/fd"
)

// Opening is streams of one child in the hands of a sink.
type Opening struct {
	Request
	ID         string
	Again      bool // an earlier process of this plugin was killed while it had the opening
	Given      bool // somebody else has made the console's terminal
	Rows, Cols int  // of a console, at its beginning; never zero

	// Unseen may be set by Plugin.Open for a sink that passes bytes on as they are and does not look at them: its chunks
	// have no Data, but Move.
	Unseen bool

	// Input takes what the child shall read as its stdin; nil where Stdin is not among Streams.
	Input *Input

	live        *opening
	master, tty *fd.FD
	memory      []byte
	status      uint32
	statusKnown bool
}

// Trouble says that the sink is waiting for something outside to be mended, or with nil that it goes on. It is shown in
// muxctl inspect and events.
func (o *Opening) Trouble(err error) { o.live.troubled(err) }

// Dropped tells how many bytes of a stream the sink's policy has dropped until now, in all. It is shown in muxctl inspect and events.
func (o *Opening) Dropped(st Stream, total uint64) { o.live.dropped(st, total) }

// Status is the child's wait status, as waitpid(2) encodes it, once the child has exited and where muxd knows it.
func (o *Opening) Status() (status uint32, known bool) {
	o.live.srv.mu.Lock()
	defer o.live.srv.mu.Unlock()
	return o.status, o.statusKnown
}

// Master returns a copy of the PTY master of a console that comes again, or is given: a descriptor owned by the caller, and no os.File,
// since these are registered with Go's netpoller, which every write of the child would wake. There is a terminal already
// then, and Terminal must not be called.
func (o *Opening) Master() (int, error) {
	if o.master == nil {
		return -1, errors.New("sink: the console is new, and has no terminal yet")
	}
	d, err := o.master.Dup()
	if err != nil {
		return -1, err
	}
	return d.Release(), nil
}

// Memory returns size bytes that outlive the process: where the opening comes Again they are as they were, otherwise
// zero. Memory that was never touched costs nothing. An opening has one such memory; it is valid until Sink.Close.
func (o *Opening) Memory(size int) ([]byte, error) { return o.live.parkedMemory(size) }

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
