package file

import (
	"bytes"
	"errors"
	"io"
)

// tail goes back by n lines from the end of the series, and reads no more of it than it must. Of compressed files that is
// all of each.
func (l *log) tail(n int) error {
	all, err := l.members()
	if err != nil {
		return explainRead(err)
	}
	all = whole(all)
	for i := len(all) - 1; i >= 0; i-- {
		err := l.open(all[i], placeOf(all, i))
		if missing(err) {
			return l.tail(n) // it was compressed or deleted meanwhile
		}
		if err != nil {
			return explainRead(err)
		}
		start, found, err := l.back(n)
		if err != nil {
			return explainRead(err)
		}
		l.lines.seek(start)
		if n -= found; n <= 0 && (start > 0 || i == 0) {
			return nil
		}
	}
	return nil
}

// back finds where the last n lines of the open file begin, and says how many there are where they are fewer.
func (l *log) back(n int) (start int64, found int, err error) {
	if l.file.pack != nil {
		return tailPacked(l.file.text, n, l.endsLine)
	}
	size, err := l.file.size()
	if err != nil {
		return 0, 0, err
	}
	if l.format != nil { // what stands behind the last newline is no record
		last := make([]byte, min(size, lineMost))
		from := size - int64(len(last))
		if _, err := l.file.text.ReadAt(last, from); err != nil && err != io.EOF {
			return 0, 0, err
		}
		size = from + int64(bytes.LastIndexByte(last, '\n')+1)
	}
	return tailStart(l.file.text, size, n, l.endsLine)
}

// endsLine says whether a line that is wanted ends with a record.
func (l *log) endsLine(line []byte) bool {
	if l.format == nil {
		return true
	}
	rec, ok := l.format.parse(line)
	return !ok || !rec.Partial && l.carries(rec)
}

// tailPacked is tailStart for what can be read from its beginning only.
func tailPacked(file io.ReaderAt, n int, ends func(line []byte) bool) (start int64, found int, err error) {
	s := scanner{file: file}
	var starts []int64 // of the latest lines, at most n
	next := int64(0)
	for {
		line, whole, err := s.next()
		if err == io.EOF || errors.Is(err, errDamaged) {
			break
		}
		if err != nil {
			return 0, 0, err
		}
		if whole && ends(line) {
			starts = append(starts, next)
			if len(starts) > n {
				starts = starts[1:]
			}
			next = s.position()
		}
	}
	if len(starts) == 0 {
		return s.position(), 0, nil
	}
	return starts[0], len(starts), nil
}

// tailStart returns where the last n lines of the first size bytes of file begin, and how many there are, where they are
// fewer. It reads no more than it must. ends says of a piece between newlines (lineMost bytes of it, where there are so
// many) whether a line ends with it; a line that was written as several records ends with the last.
func tailStart(file io.ReaderAt, size int64, n int, ends func(line []byte) bool) (start int64, found int, err error) {
	const block, head = 64 << 10, lineMost
	if n <= 0 {
		return size, 0, nil
	}
	buf := make([]byte, block+head)
	start = size // of what is wanted so far
	for from := size; from > 0; {
		low := max(0, from-block)
		b := buf[:min(from+head, size)-low]
		if m, err := file.ReadAt(b, low); m < len(b) {
			return 0, 0, err // shorter than it was: err is not nil
		}
		for i := from - low; i >= 0; {
			i = int64(bytes.LastIndexByte(b[:i], '\n'))
			begin := i + 1 // of the piece behind that newline; of the file where there is none
			if i < 0 && low > 0 || low+begin >= size {
				continue
			}
			piece := b[begin:]
			if j := bytes.IndexByte(piece, '\n'); j >= 0 {
				piece = piece[:j]
			}
			if ends(piece[:min(len(piece), head)]) {
				if found == n {
					return start, n, nil
				}
				found++
			}
			start = low + begin
		}
		from = low
	}
	return start, found, nil
}
