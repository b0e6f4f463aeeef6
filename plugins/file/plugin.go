// Package file is the sink that keeps a child's output in files.
//
//	file:PATH[,format=cri|json-file|tai64n|iso|raw][,mode=pipe|direct][,perm=0640][,owner=USER:GROUP][,max-line=16KiB][,sync=none]
//	    [,max-size=SIZE][,rotate=daily|hourly|DURATION][,keep=N][,total-size=SIZE][,max-age=DURATION][,compress=none|gzip|zstd]
//	    [,policy=block|drop-oldest|drop-newest|spill][,queue=SIZE][,spill-dir=DIR]
//
// PATH may hold {name}, {id}, {stream}, {host}, {run} and {date}. Files are appended to, never truncated, and made with
// their parent directories where they do not exist. Streams whose paths lead to one file share one writer, so
// that no record of one stands inside a record of another.
//
// A file for stdin is what the child has as its stdin, as after a shell's "<".
//
// While a file cannot be written (the disk is full, the directory is gone), the sink tries again. The stream waits, and nothing is
// dropped; or, with another policy, it goes on, and what does not fit into a queue is dropped, counted, and told of
// in the log where it is missing. A file that was deleted, renamed or replaced from outside is noticed within a second
// of output, and its path is opened again.
//
// A plugin that was killed in the middle of a chunk compares the file with the chunk when that comes again, and
// writes what is missing, before anybody else writes to that file. That takes a file that can be read back: of a FIFO or
// a character device it is not known what came through, and the chunk is written again whole. What a machine that went
// down has left torn is mended and marked by whoever appends to the file next.
package file

import (
	"context"
	"errors"
	"os"
	"slices"

	"github.com/muxd/muxd/sink"
)

// Plugin returns the sink plugin "file". Each call makes one with writers of its own, so a process serves one.
func Plugin() sink.Plugin {
	open := newFiles()
	return sink.Plugin{
		Name:    "file",
		Version: "1.0",
		Help:    "keeps output in a file, as records of several formats or as raw bytes",
		Carries: []sink.Stream{sink.Stdin, sink.Stdout, sink.Stderr},
		ByName:  []sink.Stream{sink.Stdin},
		Arg: &sink.Option{
			Name: "path", Type: sink.Path, Required: true,
			Help: "the file; {name}, {id}, {stream}, {host}, {run} and {date} in it are replaced",
		},
		Options: append([]sink.Option{
			{Name: "format", Type: sink.Enum, Values: []string{formatCRI, formatJSON, formatTAI64N, formatISO, formatRaw},
				Help: "cri, which is the default: time, stream and tag before each line; json-file: as Docker writes it; tai64n " +
					"and iso: a time before each line, as s6-log t and T; raw: the bytes, and the default of mode=direct"},
			{Name: "mode", Type: sink.Enum, Values: []string{modePipe, modeDirect}, Default: modePipe,
				Help: "pipe: the sink writes the file; direct: the child has the file itself as its output"},
			{Name: "perm", Type: sink.String, Default: "0640", Help: "permissions of a file that is made, octal"},
			{Name: "owner", Type: sink.String, Help: "USER, USER:GROUP or :GROUP, names or numbers: whose the files and directories are that are made"},
			{Name: "max-line", Type: sink.Size, Default: "16KiB",
				Help: "all but raw: the longest text of a record; a longer line becomes several"},
			{Name: "sync", Type: sink.Enum, Values: []string{syncNone, syncInterval, syncAlways}, Default: syncNone,
				Help: "always: what counts as put out is on the disk (fsync); interval: now and then; none: when the kernel does it"},
			{Name: "sync-interval", Type: sink.Duration, Default: "1s", Help: "sync=interval: how long output may not be on the disk"},
		}, slices.Concat(rotationOptions, policyOptions)...),
		Recover: open.recovered,
		Check: func(r *sink.Request) (sink.Wiring, error) {
			if reads(r) {
				return sink.Direct, checkSource(r)
			}
			s, err := parseSettings(r)
			if err != nil {
				return 0, err
			}
			r.Location, r.Exact = s.location(), s.readable()
			if s.direct {
				return sink.Direct, nil
			}
			return sink.Pipe, nil
		},
		Open: func(_ context.Context, o *sink.Opening) (sink.Sink, error) {
			s, err := parseSettings(&o.Request)
			if err != nil {
				return nil, err
			}
			o.Location = s.location()
			k, err := newFileSink(open, s, o.ID, o, o.Again)
			if err != nil {
				return nil, err // not k: an interface with a nil *fileSink in it is not nil
			}
			return k, nil
		},
		OpenDirect: func(_ context.Context, r *sink.Request) ([]*os.File, error) {
			if reads(r) {
				return openSource(r)
			}
			s, err := parseSettings(r)
			if err != nil {
				return nil, err
			}
			r.Location = s.location()
			return openDirect(open, s)
		},
		Logs: func(ctx context.Context, q *sink.LogQuery, emit func(sink.Record) error) error {
			s, err := parseSettings(&q.Request)
			if err != nil {
				return err
			}
			err = readLogs(ctx, s, q, emit)
			if errors.Is(err, errDamaged) {
				open.damaged(s, err)
			}
			return err
		},
	}
}
