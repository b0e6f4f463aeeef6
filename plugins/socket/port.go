package socket

import (
	"os"
	"syscall"

	"github.com/muxd/muxd/sink"
)

// port is what an opening gives to its connections.
type port struct {
	holder
	child   sink.Child
	retries *sink.Retries
	input   *sink.Input // the child's stdin; nil where it is not carried
	outputs int         // output streams that have not ended
}

// holder keeps what must outlive this process. An opening is one.
type holder interface {
	Memory(size int) ([]byte, error)
	Dropped(st sink.Stream, total uint64)
	Park(tag string, files ...syscall.Conn) error
	Parked(tag string) []*os.File
	Over() bool
}

// tellDropped tells how much of each output stream has been dropped.
func tellDropped(p *port, dropped [2]uint64) {
	for i, n := range dropped {
		if n > 0 {
			p.Dropped(outputs[i], n)
		}
	}
}
