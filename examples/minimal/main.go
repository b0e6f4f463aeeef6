// Command muxd-sink-minimal is a sink plugin of muxd: minimal:PATH appends output to PATH.stdout and PATH.stderr.
package main

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"os"

	"github.com/muxd/muxd/sink"
)

func main() {
	sink.Serve(sink.Plugin{
		Name: "minimal", Version: "0.1.0", Help: "appends output to files",
		Carries: []sink.Stream{sink.Stdout, sink.Stderr},
		Arg:     &sink.Option{Name: "path", Type: sink.Path, Required: true, Help: "the files, without .stdout and .stderr"},
		Options: []sink.Option{{Name: "sync", Type: sink.Bool, Default: "false", Help: "have all output on the disk at once"}},
		Check:   func(r *sink.Request) (sink.Wiring, error) { r.Exact = true; return sink.Pipe, nil },
		Open:    open,
	})
}

type files map[sink.Stream]*os.File

func open(_ context.Context, o *sink.Opening) (sink.Sink, error) {
	all, flags := files{}, os.O_WRONLY|os.O_APPEND|os.O_CREATE
	if o.Options.Bool("sync") {
		flags |= os.O_SYNC
	}
	for _, stream := range o.Streams {
		file, err := os.OpenFile(o.Arg+"."+stream.String(), flags, 0o640)
		if err != nil {
			return nil, errors.Join(err, all.Close())
		}
		all[stream] = file
	}
	return all, nil
}

func (all files) Write(_ context.Context, c *sink.Chunk) error {
	file, data := all[c.Stream], c.Data
	end, err := file.Seek(0, io.SeekEnd)
	if err != nil {
		return err
	}
	if begun := c.Intent(); begun != nil {
		written := end - int64(binary.BigEndian.Uint64(begun))
		data = data[max(0, min(written, int64(len(data)))):]
	} else {
		c.Intend(binary.BigEndian.AppendUint64(nil, uint64(end)))
	}
	_, err = file.Write(data)
	return err
}

func (all files) Close() (err error) {
	for _, file := range all {
		err = errors.Join(err, file.Close())
	}
	return err
}
