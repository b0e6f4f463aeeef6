package socket

import (
	"os"
	"syscall"

	"github.com/muxd/muxd/sink"
)

// port is what an opening gives to its connections.
type port struct {
	holder
	retries *sink.Retries
	input   *sink.Input // the child's stdin; nil where it is not carried
	outputs int         // output streams that have not ended; guarded by the sink's turn
}

// holder keeps what must outlive this process. An opening is one.
type holder interface {
	Park(tag string, files ...syscall.Conn) error
	Parked(tag string) []*os.File
	Over() bool
}
