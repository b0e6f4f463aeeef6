package file

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/muxd/muxd/sink"
)

const (
	modePipe   = "pipe"
	modeDirect = "direct"
)

// settings is a request, understood.
type settings struct {
	format    format // nil: raw
	direct    bool
	perm      os.FileMode
	owner     *owner
	maxLine   int
	sync      string // syncNone, syncInterval or syncAlways
	syncEvery time.Duration
	rotation  rotation
	retention retention
	policy    policy
	queue     int      // bytes
	spillDir  string   // of its file, with policy=spill
	targets   []target // one for each stream of the request, in their order
	apart     bool     // {stream} is in the path, so that every stream has a file of its own
}

// target is where one stream goes.
type target struct {
	stream sink.Stream
	path   string // absolute and clean; it may hold {date}
}

// parseSettings changes nothing outside; it is what Check does.
func parseSettings(r *sink.Request) (settings, error) {
	s := settings{direct: r.Options.String("mode") == modeDirect}
	name := r.Options.String("format")
	switch {
	case name == "" && s.direct:
		name = formatRaw
	case name == "":
		name = formatCRI
	case s.direct && name != formatRaw:
		return s, fmt.Errorf("format=%s with mode=direct: the child writes the file itself, so nothing can stand "+
			"before its lines; use format=raw or mode=pipe", name)
	}
	s.format = formats[name]

	perm := r.Options.String("perm")
	bits, err := strconv.ParseUint(perm, 8, 32)
	if err != nil || bits > 0o777 {
		return s, fmt.Errorf("perm=%s: want octal permissions between 0 and 0777, as 0640", perm)
	}
	s.perm = os.FileMode(bits)
	if s.owner, err = parseOwner(r.Options.String("owner")); err != nil {
		return s, err
	}

	most := r.Options.Int("max-line")
	if most < 1 || most > sink.StateMost {
		return s, fmt.Errorf("max-line=%d: want a size between 1 byte and %d KiB", most, sink.StateMost>>10)
	}
	s.maxLine = int(most)

	if s.sync = r.Options.String("sync"); s.direct && s.synced() {
		return s, fmt.Errorf("sync=%s with mode=direct: the child writes the file itself; use mode=pipe", s.sync)
	}
	s.syncEvery = r.Options.Duration("sync-interval")
	if s.syncEvery <= 0 {
		return s, fmt.Errorf("sync-interval=%v: want a duration of more than 0", s.syncEvery)
	}

	if err := s.parseRotation(r); err != nil {
		return s, err
	}
	if err := s.parsePolicy(r); err != nil {
		return s, err
	}

	if !filepath.IsAbs(r.Arg) {
		return s, fmt.Errorf("path %q is relative; name the file from the root", r.Arg)
	}
	if strings.HasSuffix(r.Arg, "/") {
		return s, fmt.Errorf("path %s names a directory; name a file in it, as in %s{name}.log", r.Arg, r.Arg)
	}
	if strings.Contains(filepath.Dir(r.Arg), dateMark) {
		return s, fmt.Errorf("path %s: {date} may stand in the name of the file only, not in that of a directory", r.Arg)
	}
	for _, stream := range r.Streams {
		path, err := r.Child.Expand(r.Arg, stream, dateWord)
		if err != nil {
			return s, err
		}
		s.targets = append(s.targets, target{stream, filepath.Clean(path)})
	}
	s.apart = strings.Contains(r.Arg, "{stream}")
	return s, nil
}

// synced says whether fsync(2) is used at all.
func (s settings) synced() bool { return s.sync == syncAlways || s.sync == syncInterval }

// readable says whether what was written can be read back, so that a successor knows how much of a chunk is there.
func (s settings) readable() bool {
	for _, t := range s.targets {
		if st, err := os.Stat(pathAt(t.path, time.Now())); err == nil && !st.Mode().IsRegular() {
			return false
		}
	}
	return true
}

// location is where the bytes go, for people.
func (s settings) location() string {
	var paths []string
	for _, t := range s.targets {
		if path := pathAt(t.path, time.Now()); !slices.Contains(paths, path) {
			paths = append(paths, path)
		}
	}
	return strings.Join(paths, ", ")
}
