package pty

import "slices"

// The values of the option size: which of the viewers that may type decides the window size.
const (
	sizeLatest   = "latest"   // who typed, came or resized last
	sizeSmallest = "smallest" // all together: what fits on every terminal
	sizeLeader   = "leader"   // who has been attached longest
	sizeFixed    = "fixed"    // nobody
)

// sizing knows which viewer's size counts. Viewers without a size, as programs are, do not count. consoleSink.mu is for
// all of it. The zero value is that of sizeLatest.
type sizing struct {
	policy string
	came   []*attached // those with a size, in their order
	latest *attached
}

// sized says that a has a terminal of that size, since it came or since now. The sizes returned are the console's from now on; 0 where it
// keeps the one that it has.
func (s *sizing) sized(a *attached, rows, cols int) (int, int) {
	if rows <= 0 || cols <= 0 {
		return 0, 0
	}
	a.rows, a.cols, s.latest = rows, cols, a
	if !slices.Contains(s.came, a) {
		s.came = append(s.came, a)
	}
	return s.size()
}

// typed says that a has typed.
func (s *sizing) typed(a *attached) (rows, cols int) {
	if s.latest == a || a.rows == 0 {
		return 0, 0
	}
	s.latest = a
	if s.policy != sizeLatest && s.policy != "" {
		return 0, 0
	}
	return s.size()
}

// left says that a has left.
func (s *sizing) left(a *attached) (rows, cols int) {
	i := slices.Index(s.came, a)
	if i < 0 {
		return 0, 0
	}
	s.came = slices.Delete(s.came, i, i+1)
	if s.latest == a {
		s.latest = nil
	}
	return s.size()
}

// size is what the policy makes of the viewers that there are.
func (s *sizing) size() (rows, cols int) {
	switch {
	case len(s.came) == 0 || s.policy == sizeFixed:
		return 0, 0
	case s.policy == sizeLeader:
		return s.came[0].rows, s.came[0].cols
	case s.policy == sizeSmallest:
		rows, cols = s.came[0].rows, s.came[0].cols
		for _, a := range s.came[1:] {
			rows, cols = min(rows, a.rows), min(cols, a.cols)
		}
		return rows, cols
	case s.latest == nil:
		return 0, 0
	}
	return s.latest.rows, s.latest.cols
}
