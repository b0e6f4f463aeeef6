package file

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"
)

// retention says which rotated files are kept.
type retention struct {
	keep  int           // so many at most; 0: any number
	total int64         // and of so many bytes at most, with the file that is written; 0: any size
	age   time.Duration // and so old at most; 0: of any age
	pack  string        // how they are compressed: packNone, packGzip or packZstd
}

// on says whether there is anything to do with rotated files.
func (r retention) on() bool { return r.keep > 0 || r.total > 0 || r.age > 0 || r.pack != packNone }

// tidy has the rotated files of a series compressed, and the superfluous ones deleted, by and by: one series at a time,
// so that it takes no more than a processor from those who write.
func (fs *files) tidy(s series, set settings) {
	if !set.retention.on() {
		return
	}
	fs.mu.Lock()
	defer fs.mu.Unlock()
	if _, waits := fs.untidy[s]; !waits {
		fs.untidyOrder = append(fs.untidyOrder, s)
	}
	fs.untidy[s] = set
	if fs.tidying {
		return
	}
	fs.tidying = true
	fs.jobs.Go(fs.tidyAll)
}

func (fs *files) tidyAll() {
	for {
		fs.mu.Lock()
		if len(fs.untidyOrder) == 0 {
			fs.tidying = false
			fs.mu.Unlock()
			return
		}
		s := fs.untidyOrder[0]
		fs.untidyOrder = fs.untidyOrder[1:]
		set := fs.untidy[s]
		delete(fs.untidy, s)
		fs.mu.Unlock()
		if err := fs.tidyOne(s, set); err != nil {
			fmt.Fprintf(os.Stderr, "sink file: rotated files of %s: %v\n", filepath.Join(s.dir, s.name), err)
		}
	}
}

// tidyOne begins with what a process left that was killed over it.
func (fs *files) tidyOne(s series, set settings) error {
	all, err := s.members()
	if err != nil {
		return err
	}
	for _, m := range all {
		if m.part {
			if err := os.Remove(filepath.Join(s.dir, m.name)); err != nil {
				return err
			}
		}
	}
	if all, err = fs.prune(s, set.retention); err != nil || set.retention.pack == packNone {
		return err
	}
	for _, m := range all {
		path := filepath.Join(s.dir, m.name)
		if m.packed != "" || !fs.former(s, m) {
			continue
		}
		if i := slices.IndexFunc(all, func(p member) bool { return p.packed != "" && p.name == m.name+"."+p.packed }); i < 0 {
			if err := fs.pack(path, set); err != nil {
				return err
			}
		}
		if err := os.Remove(path); err != nil {
			return err
		}
		fs.step(stepRemoved)
	}
	_, err = fs.prune(s, set.retention)
	return err
}

// former says whether nobody writes, or will write, to a member of the series.
func (fs *files) former(s series, m member) bool {
	if m.part || m.closed.IsZero() && (m.date == "" || m.date >= dateOf(time.Now())) {
		return false
	}
	info, err := os.Stat(filepath.Join(s.dir, m.name))
	if err != nil || !info.Mode().IsRegular() {
		return false
	}
	id := identityOf(info)
	if fs.unsettled(id, claim{}) != nil {
		return false
	}
	fs.mu.Lock()
	defer fs.mu.Unlock()
	o := fs.open[id]
	return o == nil || !m.closed.IsZero() && o.retired.Load()
}

// prune deletes what is too much, the oldest first, and returns what is left.
func (fs *files) prune(s series, r retention) ([]member, error) {
	all, err := s.members()
	if err != nil {
		return nil, err
	}
	var left []member
	var bytes int64
	count := 0
	for i := len(all) - 1; i >= 0; i-- {
		m := all[i]
		info, err := os.Stat(filepath.Join(s.dir, m.name))
		if missing(err) || m.part {
			continue
		}
		if err != nil {
			return nil, err
		}
		bytes += info.Size()
		if !fs.former(s, m) {
			left = append(left, m)
			continue
		}
		closed := m.closed
		if closed.IsZero() {
			closed = info.ModTime()
		}
		count++
		if r.keep > 0 && count > r.keep || r.total > 0 && bytes > r.total || r.age > 0 && time.Since(closed) > r.age {
			if err := os.Remove(filepath.Join(s.dir, m.name)); err != nil && !missing(err) {
				return nil, err
			}
			bytes -= info.Size()
			continue
		}
		left = append(left, m)
	}
	slices.Reverse(left)
	return left, nil
}
