package sink

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"syscall"

	"github.com/muxd/muxd/internal/fd"
)

// parkOwn begins the names of what sinks park: own/OPENING/TAG.
const parkOwn = "own/"

// ownName splits the name of what a sink parked.
func ownName(name string) (opening, tag string, ok bool) {
	rest, ok := strings.CutPrefix(name, parkOwn)
	i := strings.LastIndexByte(rest, '/')
	if !ok || i < 0 {
		return "", "", false
	}
	return rest[:i], rest[i+1:], true
}

// Park has muxd keep copies of what files are (os.File and net's connections and listeners will do, and at most ten), under
// a tag of the sink's choice, so that they outlive this process. It does not take ownership of them, and returns
// when the copies are safe. What was parked under the tag before is let go; without files nothing else happens. All is
// let go when the opening ends.
//
// A copy keeps what it is a copy of open: a connection that is to end before its opening does is shut down
// (shutdown(2)), or parked away with Park(tag) and closed.
func (o *Opening) Park(tag string, files ...syscall.Conn) error {
	if tag == "" || strings.Contains(tag, "/") {
		return fmt.Errorf("sink: park %q: a tag has at least one letter, and no slash", tag)
	}
	var copies []*fd.FD
	defer func() { fd.CloseAll(copies) }()
	for _, f := range files {
		d, err := dupConn(f)
		if err != nil {
			return fmt.Errorf("sink: park %s: %w", tag, err)
		}
		copies = append(copies, d)
	}
	s := o.live.srv
	o.live.parking.Lock()
	defer o.live.parking.Unlock()
	s.mu.Lock()
	old := o.live.parked[tag]
	known := o.live.tags[tag]
	if o.live.parked == nil {
		o.live.parked, o.live.tags = map[string][]syscall.Conn{}, map[string]bool{}
	}
	o.live.parked[tag], o.live.tags[tag] = files, true
	if len(files) == 0 {
		delete(o.live.parked, tag)
	}
	s.mu.Unlock()
	if len(files) == 0 && !known && len(old) == 0 {
		return nil
	}
	return s.park(parkOwn+o.ID+"/"+tag, fd.Ints(copies)...)
}

// Parked returns what an earlier process of this plugin parked under tag, owned by the caller, once; nothing where it
// parked nothing. To keep it for a successor of this process as well, park it again.
func (o *Opening) Parked(tag string) []*os.File {
	s := o.live.srv
	name := parkOwn + o.ID + "/" + tag
	s.mu.Lock()
	fds := s.recovered[name]
	delete(s.recovered, name)
	s.mu.Unlock()
	var out []*os.File
	for _, f := range fds {
		out = append(out, f.File(tag))
	}
	return out
}

// ParkedTags lists, in order, the tags under which an earlier process of this plugin parked something that Parked has not
// returned yet.
func (o *Opening) ParkedTags() []string {
	s := o.live.srv
	s.mu.Lock()
	defer s.mu.Unlock()
	var tags []string
	for name := range s.recovered {
		if id, tag, ok := ownName(name); ok && id == o.ID {
			tags = append(tags, tag)
		}
	}
	slices.Sort(tags)
	return tags
}

// Over says, in Sink.Close, that all streams have ended: nobody comes again for the opening. Otherwise the process ends, and
// a successor serves it.
func (o *Opening) Over() bool { return o.live.forgotten.Load() }

// dupConn returns a copy of c's descriptor, owned by the caller.
func dupConn(c syscall.Conn) (*fd.FD, error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return nil, err
	}
	var d *fd.FD
	var dupErr error
	err = raw.Control(func(n uintptr) { d, dupErr = fd.Dup(int(n)) })
	return d, errors.Join(err, dupErr)
}

// knowParked remembers the tags that a predecessor of o has used. server.mu is held.
func (o *opening) knowParked() {
	for name := range o.srv.recovered {
		if id, tag, ok := ownName(name); ok && id == o.pub.ID {
			if o.tags == nil {
				o.parked, o.tags = map[string][]syscall.Conn{}, map[string]bool{}
			}
			o.tags[tag] = true
		}
	}
}

// dropParked lets go what the sink has parked, when nobody will come again for it.
func (o *opening) dropParked() {
	o.parking.Lock()
	defer o.parking.Unlock()
	o.srv.mu.Lock()
	tags := o.tags
	o.tags, o.parked = nil, nil
	o.srv.mu.Unlock()
	for tag := range tags {
		o.srv.park(parkOwn + o.pub.ID + "/" + tag)
	}
}
