package keeper

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/muxd/muxd/internal/fd"
)

// However many descriptors the keeper has, the thread that forks has a handful, and what it was given for a process it closes again: a
// fork costs what the descriptors of its thread cost.
func TestForkingThreadHasFewDescriptors(t *testing.T) {
	k, a := ready(t, setup{})
	r, w, err := fd.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	defer w.Close()
	const many = 200
	for i := range many {
		if err := a.Hold(a.ctx(), fmt.Sprint("many/", i), nil, r.Int()); err != nil {
			t.Fatal(err)
		}
	}
	few := func() int {
		t.Helper()
		tasks, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", k.pid()))
		if err != nil {
			t.Fatal(err)
		}
		fewest := many
		for _, task := range tasks {
			fds, err := os.ReadDir(fmt.Sprintf("/proc/%d/task/%s/fd", k.pid(), task.Name()))
			if err != nil {
				t.Fatal(err)
			}
			fewest = min(fewest, len(fds))
		}
		return fewest
	}
	if own := openFDs(t, k.pid()); own < many {
		t.Fatalf("/proc shows %d descriptors of the keeper, which holds %d more", own, many)
	}
	before := few()
	if before > 20 {
		t.Fatalf("every thread of the keeper has at least %d descriptors", before)
	}
	for i := range 20 {
		s := sh(fmt.Sprint("child", i), "ls /proc/self/fd; exit 3")
		s.Rlimits = nil
		out, _ := a.output(s)
		if n := len(strings.Fields(out)); n != 4 { // 0, 1, 2 and the one of ls
			t.Fatalf("the process has %d descriptors: %q", n, out)
		}
		bad := command(fmt.Sprint("bad", i), "/no/such/program")
		if _, _, err := a.launch(bad); err == nil {
			t.Fatal("a program that is not there was started")
		}
	}
	if after := few(); after != before {
		t.Errorf("the forking thread has %d descriptors, and had %d", after, before)
	}
}
