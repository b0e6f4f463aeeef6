package file

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/muxd/muxd/sink"
)

// reads says whether the request is for a stdin.
func reads(r *sink.Request) bool { return slices.Contains(r.Streams, sink.Stdin) }

// outputOnly are the options without a default, which a file that is read cannot have.
var outputOnly = []string{"format", "owner", "queue", "max-size", "rotate", "keep", "total-size", "max-age"}

// checkSource judges a file that a child shall read as its stdin.
func checkSource(r *sink.Request) error {
	if len(r.Streams) > 1 {
		return errors.New("stdin and an output are the same file; a child that reads what it writes does not end")
	}
	for _, name := range outputOnly {
		if r.Options.Has(name) {
			return fmt.Errorf("%s is for output, and stdin is read", name)
		}
	}
	path, err := sourcePath(r)
	r.Location = path
	return err
}

func sourcePath(r *sink.Request) (string, error) {
	path, err := r.Child.Expand(r.Arg, sink.Stdin, dateWord)
	if err != nil {
		return "", err
	}
	return filepath.Clean(pathAt(path, time.Now())), nil
}

// openSource opens the file, which becomes the child's stdin itself: nothing of it is in anybody's hands who could lose it. The
// files are returned, owned by the caller.
//
// O_NONBLOCK keeps the open of a FIFO from waiting for a writer (fifo(7)); the child reads a blocking one.
func openSource(r *sink.Request) ([]*os.File, error) {
	path, err := sourcePath(r)
	if err != nil {
		return nil, err
	}
	n, err := openRetry(path, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, explainSource(&fs.PathError{Op: "open", Path: path, Err: err})
	}
	f := os.NewFile(uintptr(n), path)
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if info.IsDir() {
		return nil, fmt.Errorf("open %s: it is a directory, and cannot be read as stdin", path)
	}
	d, err := duplicate(f)
	if err != nil {
		return nil, err
	}
	r.Location = path
	return []*os.File{d}, nil
}

// explainSource adds a way out.
func explainSource(err error) error {
	if errors.Is(err, fs.ErrPermission) {
		return fmt.Errorf("%w; let user id %d read it", err, os.Geteuid())
	}
	return err
}
