package cast

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// What a recording shows may be secret, so that others cannot read the files that are made.
const (
	filePerm = 0o600
	dirPerm  = 0o750
)

// identity is what makes two names the same file.
type identity struct{ dev, ino uint64 }

// file is an open recording that ends behind a whole line.
type file struct {
	*os.File
	id    identity
	start time.Time     // of the recording, a whole second
	last  time.Duration // from start to the last event
	end   int64         // its length
}

// openFile opens the recording at path, and makes it where it does not exist. An unfinished line at its end is
// taken back. The caller owns it.
func openFile(path string, version int, h Header, now time.Time) (*file, error) {
	if err := os.MkdirAll(filepath.Dir(path), dirPerm); err != nil {
		return nil, fmt.Errorf("record: %w", err)
	}
	f, err := os.OpenFile(path, os.O_RDWR|os.O_APPEND|os.O_CREATE|unix.O_NONBLOCK|unix.O_NOCTTY, filePerm) // never wait for a FIFO
	if err != nil {
		return nil, fmt.Errorf("record: %w", err)
	}
	c, err := load(f, version, h, now)
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("record %s: %w", path, err)
	}
	return c, nil
}

func load(f *os.File, version int, h Header, now time.Time) (*file, error) {
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, errors.New("it is not a regular file, and a recording must be one")
	}
	if err := flock(f); err != nil {
		return nil, err
	}
	c := &file{File: f, id: identityOf(info)}
	if err := c.read(version); err != nil {
		return nil, err
	}
	if c.end < info.Size() {
		if err := f.Truncate(c.end); err != nil {
			return nil, err
		}
	}
	if c.end > 0 {
		return c, nil
	}
	c.start = now.Truncate(time.Second)
	return c, c.append(h.line(version, c.start))
}

func identityOf(info fs.FileInfo) identity {
	st := info.Sys().(*syscall.Stat_t)
	return identity{st.Dev, st.Ino}
}

// headerMost is the longest first line that is taken for a header; of other lines only the beginning is looked at.
const headerMost = 64 << 10

// read finds out where the recording stands: its beginning, its last event, and the end of its last whole line.
func (c *file) read(version int) error {
	r := bufio.NewReaderSize(io.NewSectionReader(c, 0, 1<<62), 64<<10)
	first, n, err := nextLine(r, headerMost)
	switch {
	case err == io.EOF && bytes.HasPrefix(first, headerBegin[:min(n, int64(len(headerBegin)))]):
		return nil // empty, or a header that was not finished
	case err == io.EOF:
		return errNone
	case err != nil:
		return err
	}
	if err := c.header(first, version); err != nil {
		return err
	}
	for err == nil {
		c.end += n
		var line []byte
		line, n, err = nextLine(r, 64)
		at, ok := eventTime(line)
		switch {
		case err != nil || !ok:
		case version == V3:
			c.last += time.Duration(at) * time.Microsecond
		default:
			c.last = time.Duration(at) * time.Microsecond
		}
	}
	if err != io.EOF {
		return err
	}
	return nil
}

// nextLine reads a line, and returns its first bytes and its length; io.EOF where it has no end.
func nextLine(r *bufio.Reader, most int) (first []byte, n int64, err error) {
	for {
		part, err := r.ReadSlice('\n')
		n += int64(len(part))
		first = append(first, part[:min(len(part), most-len(first))]...)
		if !errors.Is(err, bufio.ErrBufferFull) {
			return first, n, err
		}
	}
}

// headerBegin is how a header of this package begins.
var headerBegin = []byte(`{"version":`)

var errNone = errors.New("there is something else than an asciicast in it; name another file")

// header judges the first line of a file that is there already.
func (c *file) header(line []byte, version int) error {
	var h struct {
		Version   int   `json:"version"`
		Timestamp int64 `json:"timestamp"`
	}
	switch err := json.Unmarshal(line, &h); {
	case err != nil || h.Version == 0:
		return errNone
	case h.Version != version:
		return fmt.Errorf("there is an asciicast of version %d in it, and this one would be of version %d; name another file, or choose "+
			"with record-format", h.Version, version)
	}
	c.start = time.Unix(h.Timestamp, 0)
	return nil
}

// flock keeps everybody else from recording to the same file, for as long as it is open.
func flock(f *os.File) error {
	raw, err := f.SyscallConn()
	if err != nil {
		return err
	}
	var lockErr error
	err = raw.Control(func(n uintptr) { lockErr = unix.Flock(int(n), unix.LOCK_EX|unix.LOCK_NB) })
	if errors.Is(lockErr, unix.EWOULDBLOCK) {
		return errors.New("another console is being recorded to it; put {id} or {name} into its path")
	}
	return errors.Join(err, lockErr)
}

// append appends whole lines, or nothing.
func (c *file) append(b []byte) error {
	n, err := c.Write(b)
	if err != nil && n > 0 {
		c.Truncate(c.end) // where that fails too the next open does it
	}
	if err != nil {
		return err
	}
	c.end += int64(n)
	return nil
}

// has says whether line stands at offset at.
func (c *file) has(line []byte, at int64) bool {
	there := make([]byte, len(line))
	_, err := c.ReadAt(there, at)
	return err == nil && bytes.Equal(there, line)
}

// find opens the file id, which was renamed within dir. nil where it is not there.
func find(dir string, id identity) *os.File {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil
	}
	for _, e := range entries {
		if info, err := e.Info(); err == nil && info.Mode().IsRegular() && identityOf(info) == id {
			f, err := os.OpenFile(filepath.Join(dir, e.Name()), os.O_RDWR|os.O_APPEND, 0)
			if err != nil {
				return nil
			}
			return f
		}
	}
	return nil
}
