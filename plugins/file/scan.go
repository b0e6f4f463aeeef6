package file

import (
	"bytes"
	"io"
)

// lineMost is the longest line that is read in one piece; a longer one is told in several. No record of ours is
// longer.
const lineMost = 160 << 10

// scanner reads the lines of a file that may still grow.
type scanner struct {
	file io.ReaderAt
	at   int64 // of what is read next from file
	buf  []byte
	r, w int // what of buf is not told yet
}

// next returns the next line without its newline, or with ended false a piece of one that goes on. It is valid until
// next is called again. io.EOF says that there is no whole line now; there may be later.
func (s *scanner) next() (line []byte, ended bool, err error) {
	if s.buf == nil {
		s.buf = make([]byte, 2*lineMost)
	}
	seen := 0 // bytes behind r in which no newline is
	for {
		if i := bytes.IndexByte(s.buf[s.r+seen:s.w], '\n'); i >= 0 {
			line = s.buf[s.r : s.r+seen+i]
			s.r += seen + i + 1
			return line, true, nil
		}
		seen = s.w - s.r
		if seen >= lineMost {
			line = s.buf[s.r : s.r+lineMost]
			s.r += lineMost
			return line, false, nil
		}
		if s.r > 0 {
			copy(s.buf, s.buf[s.r:s.w])
			s.r, s.w = 0, seen
		}
		n, err := s.file.ReadAt(s.buf[s.w:], s.at)
		s.w += n
		s.at += int64(n)
		if n == 0 {
			if err == nil {
				err = io.ErrNoProgress
			}
			return nil, false, err
		}
	}
}

// position is the offset of the next line.
func (s *scanner) position() int64 { return s.at - int64(s.w-s.r) }

// seek goes on at offset at.
func (s *scanner) seek(at int64) { s.at, s.r, s.w = at, 0, 0 }

// tail takes what stands behind the last newline.
func (s *scanner) tail() []byte {
	b := s.buf[s.r:s.w]
	s.r = s.w
	return b
}
