package pty

import (
	"context"
	"errors"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/muxd/muxd/plugins/pty/cast"
	"github.com/muxd/muxd/sink"
)

// The values of the option record-input.
const (
	inputNo     = "no"
	inputEchoed = "echoed" // what is typed while the terminal echoes
	inputKeys   = "keys"   // and what is typed while a program reads key by key, and echoes by itself or not
)

// hidden stands in a recording for whatever is typed while it must not be shown, however much that is.
const hidden = "[hidden]"

// recorder is the recording of a console. Of a console without one it is nil, and its methods do nothing.
type recorder struct {
	to    *cast.Recording
	input string

	mu         sync.Mutex // for what follows
	rows, cols int        // that the recording has been told
	hiding     bool       // hidden is the last input in the recording
}

// record opens the recording that the options ask for; nil where they do not.
func record(o *sink.Opening) (*recorder, error) {
	if !o.Options.Has("record") {
		return nil, nil
	}
	path, err := o.Child.Expand(o.Options.String("record"), sink.Console)
	if err != nil {
		return nil, err
	}
	version := cast.V2
	if o.Options.String("record-format") == "v3" {
		version = cast.V3
	}
	h := cast.Header{Rows: o.Rows, Cols: o.Cols, Title: o.Child.Name, Command: o.Child.Command}
	to, err := cast.Open(path, version, h, o.Trouble)
	if err != nil {
		return nil, err
	}
	return &recorder{to: to, input: o.Options.String("record-input"), rows: o.Rows, cols: o.Cols}, nil
}

// typing says whether what is typed is recorded.
func (r *recorder) typing() bool { return r != nil && r.input != inputNo }

func (r *recorder) output(ctx context.Context, k *sink.Chunk) error {
	if r == nil {
		return nil
	}
	return r.to.Output(ctx, k.Data, k.Time, k)
}

// end records the end, with the exit status as a shell tells it: 128 and the signal's number where one has killed the child.
func (r *recorder) end(ctx context.Context, k *sink.Chunk, status func() (uint32, bool)) error {
	if r == nil {
		return nil
	}
	text := ""
	if s, known := status(); known {
		ws := unix.WaitStatus(s)
		code := ws.ExitStatus()
		if ws.Signaled() {
			code = 128 + int(ws.Signal())
		}
		text = strconv.Itoa(code)
	}
	return r.to.End(ctx, text, time.Now(), k)
}

// resized records a size, where it is another one.
func (r *recorder) resized(rows, cols int) {
	if r == nil {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if rows != r.rows || cols != r.cols {
		r.rows, r.cols = rows, cols
		r.to.Resize(rows, cols)
	}
}

// typed records what was typed while the terminal had these modes, if it may be shown.
func (r *recorder) typed(modes *unix.Termios, p []byte) {
	if r == nil || r.input == inputNo {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	byKey := modes.Lflag&(unix.ECHO|unix.ICANON) == 0
	switch {
	case modes.Lflag&unix.ECHO != 0, byKey && r.input == inputKeys:
		r.hiding = false
		r.to.Input(p)
	case !r.hiding:
		r.hiding = true
		r.to.Input([]byte(hidden))
	}
}

func (r *recorder) mark(ctx context.Context, label string) error {
	if r == nil {
		return errors.New("the console is not being recorded; spawn it with --sink pty,record=PATH")
	}
	return r.to.Mark(ctx, label)
}

func (r *recorder) close() error {
	if r == nil {
		return nil
	}
	return r.to.Close()
}
