package sinktest_test

import (
	"context"
	"flag"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/muxd/muxd/sink/sinktest"
)

// exactly has every defect looked for by every check, and not only by those of the group that has to find it.
var exactly = flag.Bool("exactly", false, "run all checks with each defect; takes a long time")

// slow are the checks that take seconds, or look at how long something takes: without -exactly each has only its own defect, and its
// own defect has only it.
var slow = []string{"start.slow", "bytes.large", "end.stuck", "pressure", "hang.stop", "hang.busy", "kill.random", "fds.unclaimed", "fds.leak", "streams", "log"}

// largeSize is what bytes.large writes to the plugin of plain, which knows it.
const largeSize = 1<<20 + 1

// specs says with which spec a check finds its defect, where that is not the file.
var specs = map[string]string{
	"end.stuck": "plain:{fifo}", "pressure": "plain:{fifo}", "hang.busy": "plain:{fifo}",
	"stdin": "plain:unix:{listen}", "stdin.exit": "plain:unix:{listen}",
	"wiring": "plain-console", "console.keys": "plain-console", "console.size": "plain-console",
	"console.frames": "plain-console", "console.reopen": "plain-console", "console.branch": "plain-console",
}

// A check that nothing fails checks nothing: for each there is a defect that it finds, and no other does.
func TestDefects(t *testing.T) {
	t.Parallel()
	dir := build(t)
	var allChecks []string // by name: fds.unclaimed is only done where it is asked for
	for _, c := range sinktest.Checks() {
		allChecks = append(allChecks, c.ID)
	}
	for _, c := range sinktest.Checks() {
		t.Run(c.ID, func(t *testing.T) {
			t.Parallel()
			spec, ok := specs[c.ID]
			if !ok {
				spec = "plain:{out}"
			}
			o := options(dir, spec, c.ID)
			if *exactly {
				o.Only = allChecks
			} else {
				group, _, _ := strings.Cut(c.ID, ".")
				o.Only, o.Skip, o.Timeout = []string{group}, slices.Clone(slow), 10*time.Second // what never comes is waited for
				if slices.Contains(slow, c.ID) {
					o.Only, o.Skip = []string{c.ID}, nil
				}
			}
			if !strings.HasPrefix(c.ID, "logs.") && spec == "plain:{out}" {
				o.Read = "{out}"
			}
			var found []string
			_, err := sinktest.Check(context.Background(), o, func(r sinktest.Result) {
				if r.Outcome == sinktest.Failed {
					found = append(found, r.ID)
					t.Logf("%s: %s", r.ID, r.Detail)
				}
			})
			if err != nil {
				t.Fatal(err)
			}
			if !slices.Equal(found, []string{c.ID}) {
				t.Errorf("these checks failed: %v", found)
			}
		})
	}
}

// options are those for the plugin plain, with the arguments behind its name.
func options(dir, spec string, args ...string) sinktest.Options {
	name, _, _ := strings.Cut(spec, ":")
	return sinktest.Options{
		Command: append([]string{dir + "/plain", name}, args...), Specs: []string{spec}, Size: largeSize,
	}
}

// The plugin without a defect passes, so that it is the defects that are found.
func TestNoDefect(t *testing.T) {
	t.Parallel()
	dir := build(t)
	for _, spec := range []string{"plain:{out}", "plain-console"} {
		t.Run(spec, func(t *testing.T) {
			t.Parallel()
			sinktest.Run(t, options(dir, spec))
		})
	}
}
