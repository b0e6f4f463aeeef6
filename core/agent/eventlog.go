package agent

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"google.golang.org/protobuf/proto"

	"github.com/muxd/muxd/control/controlpb"
)

// eventLog is the latest events in the runtime directory, for the agent after this one: two files of records, the older one of which is
// full, and makes room when the other one is full too. A record is the length of what follows, in 4 bytes, and a
// controlpb.Event. It is written before anybody is told of the event, so that no two events ever have the same number; it
// goes to the page cache, which outlives the process, and is not flushed: it is not meant to outlive the machine.
type eventLog struct {
	path string
	file *os.File
	n    int // records in file
}

// eventFile is the newer file's name, and behind it oldEvents is the older one's.
const (
	eventFile = "agent-events"
	oldEvents = ".old"
)

// openEventLog returns the log of a runtime directory, and what earlier agents wrote; with fresh, nothing. A record that was
// cut short by a kill is removed.
func openEventLog(runtimeDir string, fresh bool) (*eventLog, []*controlpb.Event, error) {
	l := &eventLog{path: filepath.Join(runtimeDir, eventFile)}
	flags := os.O_RDWR | os.O_CREATE | os.O_APPEND
	if fresh {
		os.Remove(l.path + oldEvents)
		flags |= os.O_TRUNC
	}
	older, _, err := readEvents(l.path + oldEvents)
	if err != nil {
		return nil, nil, err
	}
	if l.file, err = os.OpenFile(l.path, flags, 0o600); err != nil {
		return nil, nil, fmt.Errorf("open the log of events: %w", err)
	}
	events, whole, err := readEvents(l.path)
	if err == nil {
		err = l.file.Truncate(whole)
	}
	if err != nil {
		l.file.Close()
		return nil, nil, err
	}
	l.n = len(events)
	return l, append(older, events...), nil
}

// readEvents reads the whole records of a file, and says how long they are together.
func readEvents(path string) (events []*controlpb.Event, whole int64, err error) {
	b, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, 0, fmt.Errorf("read the log of events: %w", err)
	}
	for len(b) >= 4 {
		n := int(binary.BigEndian.Uint32(b))
		if n > len(b)-4 {
			break
		}
		ev := &controlpb.Event{}
		if proto.Unmarshal(b[4:4+n], ev) != nil {
			break
		}
		events = append(events, ev)
		whole += int64(4 + n)
		b = b[4+n:]
	}
	return events, whole, nil
}

// add writes ev down.
func (l *eventLog) add(ev *controlpb.Event) error {
	if l.n >= eventsKept/2 {
		if err := l.turn(); err != nil {
			return err
		}
	}
	b, err := proto.MarshalOptions{}.MarshalAppend(make([]byte, 4, 128), ev)
	if err != nil {
		return err
	}
	binary.BigEndian.PutUint32(b, uint32(len(b)-4))
	if _, err := l.file.Write(b); err != nil {
		return err
	}
	l.n++
	return nil
}

// turn makes the newer file the older one, and begins another.
func (l *eventLog) turn() error {
	if err := os.Rename(l.path, l.path+oldEvents); err != nil {
		return err
	}
	file, err := os.OpenFile(l.path, os.O_RDWR|os.O_CREATE|os.O_APPEND|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	l.file.Close()
	l.file, l.n = file, 0
	return nil
}

func (l *eventLog) close() { l.file.Close() }
