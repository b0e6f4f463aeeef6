package file

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"github.com/muxd/muxd/sink"
)

// cutOff is what the log says where it was cut off.
const cutOff = "the log was cut off here, and what stands before this may be incomplete"

// mend makes the file fit to be appended to, before the first record of this process and before the first one of a new
// stream. What stands behind the last newline is either the beginning of a record which nobody will finish, since the
// machine went down over it: it is made a whole record, as far as it goes. Or it is somebody else's text: it is ended
// with a newline. A record that says that its line goes on, where no stream is left to do that, is followed by one that
// ends the line, since readers join them. Where output may be missing, the log says so.
func (w *writing) mend() error {
	o, f := w.out, w.settings.format
	first, fresh := !o.begun, w.fresh && !w.part.again
	o.begun, w.fresh = true, false
	if f == nil || !o.regular || !first && !fresh {
		return nil
	}
	add, err := o.mending(f, w.part, w.carried, first, fresh)
	if err == nil && len(add) > 0 {
		_, err = o.file.Write(add)
	}
	if err != nil {
		o.begun, w.fresh = !first, fresh // another time
	}
	return err
}

// mending does what can be done by shortening the file, and returns what must be appended.
func (o *output) mending(f format, p part, carried []sink.Stream, first, fresh bool) ([]byte, error) {
	size, err := o.end()
	if err != nil || size == 0 {
		return nil, err
	}
	r, err := o.reopen()
	if err != nil {
		if errors.Is(err, fs.ErrPermission) {
			return nil, nil // it is left as it is
		}
		return nil, err
	}
	defer r.Close()
	b, from, err := tailOf(r, size)
	if err != nil {
		return nil, fmt.Errorf("read back %s: %w", o.file.Name(), err)
	}
	start := bytes.LastIndexByte(b, '\n') + 1
	torn := b[start:]
	var add []byte
	ours := false
	if first && len(torn) > 0 {
		keep, end := len(torn), []byte{'\n'}
		// A file system may leave zeros for what it had not written.
		text := bytes.TrimRight(torn, "\x00")
		if start > 0 || from == 0 {
			if keep, end, ours = f.mend(text, p.time, carried[0]); !ours {
				keep = len(torn)
			}
		}
		o.torn = ours
		if keep < len(torn) && o.file.Truncate(from+int64(start+keep)) != nil {
			end = []byte{'\n'} // chattr +a
		}
		add = append(add, end...)
	}
	for i, stream := range carried {
		if ours && i == 0 || fresh && unfinished(f, b[:start], stream) {
			add = notice(f, add, p.time, stream, cutOff)
		}
	}
	return add, nil
}

// tailOf reads the end of a file of size bytes: as much as a record may have, and the zeros behind it.
func tailOf(f *os.File, size int64) (b []byte, from int64, err error) {
	for from = size; ; {
		n := min(from, int64(recordMost))
		from -= n
		more := make([]byte, n, n+int64(len(b)))
		if _, err := f.ReadAt(more, from); err != nil && err != io.EOF {
			return nil, 0, err
		}
		zeros := len(bytes.Trim(more, "\x00")) == 0
		b = append(more, b...)
		if from == 0 || !zeros || len(b) > zerosMost {
			return b, from, nil
		}
	}
}

// zerosMost bounds how much memory the zeros at a file's end may take.
const zerosMost = 16 << 20

// unfinished says whether the last record of stream in lines says that its line goes on.
func unfinished(f format, lines []byte, stream sink.Stream) bool {
	for len(lines) > 0 {
		end := len(lines) - 1
		start := bytes.LastIndexByte(lines[:end], '\n') + 1
		if rec, ok := f.parse(lines[start:end]); ok && (rec.Stream == stream || rec.Stream == 0) {
			return rec.Partial
		}
		lines = lines[:start]
	}
	return false
}
