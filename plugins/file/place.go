package file

import (
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// place is a place in a series: an offset in the file that comes after the one which was closed then. It stays right when
// that file is rotated, and when it is compressed.
type place struct {
	date   string    // where the series has {date}
	after  time.Time // zero: it is the first
	offset int64     // of the text, which may be compressed in the file
}

// of says whether m is the file of the place.
func (p place) of(m member) bool {
	return m.date == p.date && (m.closed.IsZero() || m.closed.After(p.after))
}

// sumMost is how much of a file's beginning tells it from another.
const sumMost = 64

// cursor is a place in words, for somebody who goes on there later. head is the beginning of the file, by which it is known
// whether the place still is what it was.
func (p place) cursor(b, head []byte) []byte {
	var after int64
	if !p.after.IsZero() {
		after = p.after.UnixNano()
	}
	b = strconv.AppendInt(b, after, 36)
	b = append(b, '.')
	b = strconv.AppendInt(b, p.offset, 36)
	b = append(b, '.')
	b = strconv.AppendUint(b, uint64(crc32.ChecksumIEEE(head[:min(int64(len(head)), p.offset)])), 36)
	b = append(b, '.')
	return append(b, p.date...)
}

// errCursor is for what never was a cursor of this log.
var errCursor = errors.New("it is no cursor of this log")

// parseCursor is what cursor has written.
func parseCursor(s string) (p place, sum uint32, err error) {
	fields := strings.SplitN(s, ".", 4)
	if len(fields) != 4 {
		return p, 0, errCursor
	}
	after, err := strconv.ParseInt(fields[0], 36, 64)
	if err != nil {
		return p, 0, errCursor
	}
	if after != 0 {
		p.after = time.Unix(0, after)
	}
	if p.offset, err = strconv.ParseInt(fields[1], 36, 64); err != nil || p.offset < 0 {
		return p, 0, errCursor
	}
	n, err := strconv.ParseUint(fields[2], 36, 32)
	if err != nil {
		return p, 0, errCursor
	}
	p.date = fields[3]
	return p, uint32(n), nil
}

// opened is a file of a series, open for reading. Of a compressed one the text is read, from its beginning on.
type opened struct {
	file *os.File
	id   identity
	text io.ReaderAt
	pack *packed // nil: it is not compressed
}

// openMember opens m for reading. It is returned, owned by the caller.
func openMember(dir string, m member) (*opened, error) {
	f, err := os.Open(filepath.Join(dir, m.name))
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = fmt.Errorf("%s is not a regular file, so nothing was kept", f.Name())
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	o := &opened{file: f, id: identityOf(info), text: f}
	if m.packed != "" {
		o.pack = &packed{file: f, how: m.packed}
		o.text = o.pack
	}
	return o, nil
}

func (o *opened) close() {
	if o.pack != nil {
		o.pack.end()
	}
	o.file.Close()
}

// size is the length of the text as it is now. A compressed one is read for it.
func (o *opened) size() (int64, error) {
	if o.pack == nil {
		return o.file.Seek(0, io.SeekEnd)
	}
	n, err := io.Copy(io.Discard, io.NewSectionReader(o.pack, 0, 1<<62))
	return n, err
}

// head is the beginning of the text.
func (o *opened) head() ([]byte, error) {
	b := make([]byte, sumMost)
	n, err := o.text.ReadAt(b, 0)
	if err == io.EOF {
		err = nil
	}
	return b[:n], intact(err)
}

// packed reads the text of a compressed file at any offset; going back costs reading it again.
type packed struct {
	file *os.File
	how  string
	r    io.ReadCloser
	at   int64
}

func (p *packed) end() {
	if p.r != nil {
		p.r.Close()
		p.r = nil
	}
}

// ReadAt is io.ReaderAt for one goroutine.
func (p *packed) ReadAt(b []byte, at int64) (int, error) {
	if p.r == nil || at < p.at {
		p.end()
		if _, err := p.file.Seek(0, io.SeekStart); err != nil {
			return 0, err
		}
		r, err := unpacker(p.file, p.how)
		if err == nil {
			err = p.begun()
		}
		if err != nil {
			return 0, fmt.Errorf("%s %w: %w", p.file.Name(), errDamaged, err)
		}
		p.r, p.at = r, 0
	}
	n, err := io.CopyN(io.Discard, p.r, at-p.at)
	p.at += n
	if err != nil {
		return 0, p.damaged(err)
	}
	k := 0
	for k < len(b) && err == nil { // not io.ReadFull, which has one error for the end of the text and that of half a file
		var n int
		n, err = p.r.Read(b[k:])
		k += n
	}
	p.at += int64(k)
	return k, p.damaged(err)
}

// damaged explains what is no end of the text.
func (p *packed) damaged(err error) error {
	if err == nil || err == io.EOF {
		return err
	}
	return fmt.Errorf("%s %w: %w", p.file.Name(), errDamaged, err)
}

// begun is an error where there is not even a beginning: for zstd an empty file is a text, but none of ours.
func (p *packed) begun() error {
	info, err := p.file.Stat()
	if err == nil && info.Size() == 0 {
		err = errors.New("it is empty")
	}
	return err
}

// errDamaged is for a compressed file that cannot be read to its end.
var errDamaged = errors.New("is damaged")

// intact is nil where err is that: as far as the text can be read it is one.
func intact(err error) error {
	if errors.Is(err, errDamaged) {
		return nil
	}
	return err
}
