package agent

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"

	"google.golang.org/protobuf/proto"

	"github.com/muxd/muxd/core/agent/agentpb"
)

// journalLog is a file of records, each an agentpb.Entry behind its length in 4 bytes. A change costs one write, to the page cache,
// which outlives the process; it is not meant to outlive the machine. Of a record that a process was killed over the rest is missing, so
// that it does not count. When more than half of the file counts no more, what does is copied to another, which takes its place.
type journalLog struct {
	path string
	file *os.File
	size int64                // of whole records
	live int64                // of those that count
	of   map[string]journaled // by child
	buf  []byte
}

// journaled is where a child's records are that count; a length of 0: there is none.
type journaled struct {
	at, envAt int64
	n, envN   int32
}

// journalSlack is how much of the file may count no more, beside as much as does.
const journalSlack = 256 << 10

// openJournalLog makes the file where it is not there, and removes what a killed process has left of a record.
func openJournalLog(path string) (*journalLog, error) {
	file, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	l := &journalLog{path: path, file: file, of: map[string]journaled{}}
	if err := l.scan(); err != nil {
		file.Close()
		return nil, err
	}
	return l, nil
}

func (l *journalLog) close() { l.file.Close() }

// scan finds the records of the file.
func (l *journalLog) scan() error {
	b, err := io.ReadAll(l.file)
	if err != nil {
		return err
	}
	for rest := b; len(rest) >= 4; rest = b[l.size:] {
		n := int64(binary.BigEndian.Uint32(rest))
		e := &agentpb.Entry{}
		if n > int64(len(rest)-4) || proto.Unmarshal(rest[4:4+n], e) != nil {
			break
		}
		l.note(e, int32(4+n))
	}
	for id, at := range l.of {
		if at.n == 0 { // an agent was killed between the environment and the first record
			l.live -= int64(at.envN)
			delete(l.of, id)
		}
	}
	return l.file.Truncate(l.size)
}

// note says that e is the next n bytes of the file.
func (l *journalLog) note(e *agentpb.Entry, n int32) {
	at := l.of[e.Id]
	l.live -= int64(at.n + at.envN)
	switch e.What.(type) {
	case *agentpb.Entry_Child:
		at.at, at.n = l.size, n
	case *agentpb.Entry_Environment:
		at.envAt, at.envN = l.size, n
	default:
		at = journaled{}
	}
	l.live += int64(at.n + at.envN)
	if l.of[e.Id] = at; at.n+at.envN == 0 {
		delete(l.of, e.Id)
	}
	l.size += int64(n)
}

// add appends e. On an error nothing has changed.
func (l *journalLog) add(e *agentpb.Entry) error {
	b, err := proto.MarshalOptions{}.MarshalAppend(append(l.buf[:0], 0, 0, 0, 0), e)
	if err != nil {
		return fmt.Errorf("write the journal: %w", err)
	}
	l.buf = b[:0]
	if cap(b) > 64<<10 {
		l.buf = nil
	}
	binary.BigEndian.PutUint32(b, uint32(len(b)-4))
	if _, err := l.file.WriteAt(b, l.size); err != nil {
		return fmt.Errorf("write the journal: %w", errors.Join(err, l.file.Truncate(l.size)))
	}
	l.note(e, int32(len(b)))
	if l.size > 2*l.live+journalSlack {
		return l.compact()
	}
	return nil
}

// compact copies what counts to another file, and has it take the place of this one.
func (l *journalLog) compact() (err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("make the journal smaller: %w", err)
		}
	}()
	file, err := os.OpenFile(l.path+".new", os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	next := &journalLog{path: l.path, file: file, of: make(map[string]journaled, len(l.of)), buf: make([]byte, 0, 1<<20)}
	for id, at := range l.of {
		to := journaled{n: at.n, envN: at.envN}
		if to.envAt, err = next.copy(l.file, at.envAt, at.envN); err != nil {
			break
		}
		if to.at, err = next.copy(l.file, at.at, at.n); err != nil {
			break
		}
		next.of[id] = to
	}
	if err == nil {
		_, err = file.Write(next.buf)
	}
	if err == nil {
		err = os.Rename(l.path+".new", l.path)
	}
	if err != nil {
		file.Close()
		return err
	}
	l.file.Close()
	next.live, next.buf = next.size, nil
	*l = *next
	return nil
}

// copy appends n bytes of from, and returns where they stand.
func (l *journalLog) copy(from *os.File, at int64, n int32) (int64, error) {
	if len(l.buf)+int(n) > cap(l.buf) {
		if _, err := l.file.Write(l.buf); err != nil {
			return 0, err
		}
		l.buf = l.buf[:0]
	}
	had := len(l.buf)
	l.buf = append(l.buf, make([]byte, n)...)
	if _, err := from.ReadAt(l.buf[had:], at); err != nil {
		return 0, err
	}
	to := l.size
	l.size += int64(n)
	return to, nil
}

// entry reads the record of n bytes at a place.
func (l *journalLog) entry(at int64, n int32) (*agentpb.Entry, error) {
	b := make([]byte, n)
	if _, err := l.file.ReadAt(b, at); err != nil {
		return nil, err
	}
	e := &agentpb.Entry{}
	return e, proto.Unmarshal(b[4:], e)
}

// environment reads that of a child; nil where there is none.
func (l *journalLog) environment(id string) (*agentpb.Entry, error) {
	at := l.of[id]
	if at.envN == 0 {
		return nil, nil
	}
	return l.entry(at.envAt, at.envN)
}

// children reads all of them.
func (l *journalLog) children() ([]*agentpb.Child, error) {
	var out []*agentpb.Child
	for id, at := range l.of {
		e, err := l.entry(at.at, at.n)
		if err != nil {
			return nil, fmt.Errorf("child %s: %w", id, err)
		}
		out = append(out, e.GetChild())
	}
	return out, nil
}
