package host

import (
	"testing"
	"time"
)

func TestSilent(t *testing.T) {
	const part = time.Second
	for _, c := range []struct {
		name           string
		passed, waited time.Duration
		want           time.Duration
	}{
		{"silent", part, 0, part},
		{"a little late", part + part/4, 0, part},
		{"this process was not on time", 2 * part, 0, 0},
		{"it waited for a CPU", part, part / 4, part - part/4},
		{"it had no CPU at all", part, 2 * part, 0},
	} {
		if got := silent(part, c.passed, c.waited); got != c.want {
			t.Errorf("%s: %v of silence, want %v", c.name, got, c.want)
		}
	}
}

func TestLongestWait(t *testing.T) {
	before := map[string]time.Duration{"1": 100, "2": 50}
	after := map[string]time.Duration{"1": 110, "2": 90, "3": 5}
	if got := longestWait(before, after); got != 40 {
		t.Errorf("longest wait %v, want 40", got)
	}
	if got := longestWait(after, nil); got != 0 {
		t.Errorf("longest wait of a process that has ended: %v", got)
	}
}
