package file

import (
	"cmp"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"
)

// A log is a series of files in one directory: the one that is written, and before it those that it was rotated to.
//
//	web.log                                          is written
//	web.log.20260504T120000.000000123Z.done          was rotated then, in UTC
//	web.log.20260503T120000.000000000Z.torn.zst      so was this, after a machine had gone down over it; it is compressed
//	web.log.20260503T120000.000000000Z.torn.zst.part is not complete, and will be made again
//
// The names sort by time; none is given twice, and none earlier than the ones before it. With {date} in the path there
// are such files for every day, and those of former days need not have been rotated.
type series struct {
	dir  string
	name string // may hold {date}
}

const (
	dateWord   = "date" // the placeholder that is replaced when something is written
	dateMark   = "{" + dateWord + "}"
	dateLayout = "2006-01-02"

	closedLayout = "20060102T150405.000000000Z"
	suffixDone   = "done" // it ends with a whole record
	suffixTorn   = "torn" // it was found torn, so that its last records may be missing
	suffixPart   = ".part"
)

// member is a file of a series.
type member struct {
	name   string
	date   string    // where the series has {date}
	closed time.Time // zero: it was not rotated
	torn   bool
	packed string // how it is compressed: packZstd, packGzip or ""
	part   bool   // half-written
}

// seriesOf is the series of a path, which may hold {date}.
func seriesOf(path string) series {
	if !strings.Contains(path, dateMark) {
		path = resolve(path)
	}
	return series{filepath.Dir(path), filepath.Base(path)}
}

// pathAt is the file to which a path leads at a time. Where it is a symbolic link it is what that points to, whether
// that exists or not: the file is rotated, and not the link.
func pathAt(path string, at time.Time) string {
	if !strings.Contains(path, dateMark) {
		return resolve(path)
	}
	return resolve(strings.ReplaceAll(path, dateMark, dateOf(at)))
}

// dateOf is what {date} becomes.
func dateOf(at time.Time) string { return at.Local().Format(dateLayout) }

// resolve follows symbolic links, but not for ever.
func resolve(path string) string {
	for range 40 {
		to, err := os.Readlink(path)
		if err != nil {
			break
		}
		if !filepath.IsAbs(to) {
			to = filepath.Join(filepath.Dir(path), to)
		}
		path = to
	}
	return path
}

// rotatedName is what a file called name becomes.
func rotatedName(name string, closed time.Time, torn bool) string {
	suffix := suffixDone
	if torn {
		suffix = suffixTorn
	}
	return name + "." + closed.UTC().Format(closedLayout) + "." + suffix
}

// pattern matches the names of the members.
func (s series) pattern() *regexp.Regexp {
	before, after, dated := strings.Cut(s.name, dateMark)
	name := regexp.QuoteMeta(before) + `()` + regexp.QuoteMeta(after)
	if dated {
		name = regexp.QuoteMeta(before) + `(\d{4}-\d\d-\d\d)` + regexp.QuoteMeta(after)
	}
	return regexp.MustCompile(`^` + name + `(?:\.(\d{8}T\d{6}\.\d{9}Z)\.(done|torn))?(?:\.(zst|gz)(\.part)?)?$`)
}

// members lists the series from the oldest to the one that is written. A directory that does not exist has none.
//
// One reading of a directory is not enough. A name that comes and one that goes while it is read may both be passed over
// (readdir(3)), and a file that is being compressed has first the one and then the other: a member would be missed, and its
// name given again. So it is read until two readings agree: the second began when the new name was there.
func (s series) members() ([]member, error) {
	pattern := s.pattern()
	var before []member
	for first := true; ; first = false {
		now, err := s.read(pattern)
		if err != nil || !first && slices.Equal(before, now) {
			return now, err
		}
		before = now
	}
}

// read is one reading.
func (s series) read(pattern *regexp.Regexp) ([]member, error) {
	entries, err := os.ReadDir(s.dir)
	if missing(err) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var out []member
	for _, e := range entries {
		m := pattern.FindStringSubmatch(e.Name())
		if m == nil {
			continue
		}
		f := member{name: e.Name(), date: m[1], torn: m[3] == suffixTorn, packed: m[4], part: m[5] != ""}
		if m[2] != "" {
			if f.closed, err = time.Parse(closedLayout, m[2]); err != nil {
				continue
			}
		}
		if f.packed != "" && f.closed.IsZero() && f.date == "" {
			continue // somebody else's
		}
		out = append(out, f)
	}
	slices.SortFunc(out, func(a, b member) int {
		return cmp.Or(cmp.Compare(a.date, b.date), compareClosed(a.closed, b.closed), cmp.Compare(a.name, b.name))
	})
	return out, nil
}

// compareClosed puts what was not closed last.
func compareClosed(a, b time.Time) int {
	switch {
	case a.IsZero() && b.IsZero():
		return 0
	case a.IsZero():
		return 1
	case b.IsZero():
		return -1
	}
	return a.Compare(b)
}

// whole are the members that can be read, each once: half-written ones are left out, and so is what is there compressed
// and uncompressed.
func whole(all []member) []member {
	var out []member
	for _, m := range all {
		switch last := len(out) - 1; {
		case m.part:
		case last >= 0 && m.packed != "" && m.name == out[last].name+"."+m.packed:
		default:
			out = append(out, m)
		}
	}
	return out
}

// newest is when the latest of the members was closed; zero: none was.
func newest(all []member) time.Time {
	var at time.Time
	for _, m := range all {
		if m.closed.After(at) {
			at = m.closed
		}
	}
	return at
}
