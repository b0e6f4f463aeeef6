package sinktest_test

import (
	"context"
	"flag"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/muxd/muxd/sink/sinktest"
)

// exactly has every defect looked for by every check, and not only by those of its own group.
var exactly = flag.Bool("exactly", false, "run all checks with each defect; takes half an hour")

const largeSize = 1<<20 + 1

// specs says with which spec a check finds its defect, where that is not the file.
var specs = map[string]string{
	"end.stuck": "plain:{fifo}", "pressure": "plain:{fifo}", "hang.busy": "plain:{fifo}",
	"stdin": "plain:unix:{listen}", "stdin.exit": "plain:unix:{listen}", "wiring": "plain-console",
}

// A check that nothing fails checks nothing: for each there is a plugin with a defect that it finds, and no other does.
func TestDefects(t *testing.T) {
	for _, c := range sinktest.Checks() {
		if c.ID == "fds.unclaimed" && !*exactly {
			continue // it takes 20 seconds
		}
		t.Run(c.ID, func(t *testing.T) {
			t.Parallel()
			group, _, _ := strings.Cut(c.ID, ".")
			only := []string{group}
			if *exactly {
				only = nil
			}
			found := failing(t, c.ID, only)
			if !slices.Equal(found, []string{c.ID}) {
				t.Errorf("these checks failed: %v", found)
			}
		})
	}
}

// failing lists the checks that fail with a defect; without one, those that fail with the plugin as it should be.
func failing(t *testing.T, defect string, only []string) []string {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	spec, ok := specs[defect]
	switch {
	case strings.HasPrefix(defect, "console."):
		spec = "plain-console"
	case !ok:
		spec = "plain:{out}"
	}
	name, _, _ := strings.Cut(spec, ":")
	o := sinktest.Options{
		Command: []string{self}, Env: []string{plainEnv + "=" + name, defectEnv + "=" + defect}, Specs: []string{spec}, Only: only, Size: largeSize,
		Full: defect == "fds.unclaimed",
	}
	if spec == "plain:{out}" && !strings.HasPrefix(defect, "logs.") {
		o.Read = "{out}"
	}
	var found []string
	report, err := sinktest.Check(context.Background(), o, func(r sinktest.Result) {
		if r.Outcome == sinktest.Failed {
			found = append(found, r.ID)
			t.Logf("%s: %s", r.ID, r.Detail)
		}
		if r.ID == defect && r.Outcome == sinktest.NotApplicable {
			t.Errorf("%s does not apply: %s", r.ID, r.Detail)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	_ = report
	return found
}

// The plugin without a defect passes, so that it is the defects that are found.
func TestNoDefect(t *testing.T) {
	for _, spec := range []string{"plain:{out}", "plain:{fifo}", "plain:unix:{listen}", "plain-console"} {
		t.Run(strings.ReplaceAll(spec, "/", "|"), func(t *testing.T) {
			self, err := os.Executable()
			if err != nil {
				t.Fatal(err)
			}
			name, _, _ := strings.Cut(spec, ":")
			sinktest.Run(t, sinktest.Options{
				Command: []string{self}, Env: []string{plainEnv + "=" + name}, Specs: []string{spec}, Size: largeSize,
			})
		})
	}
}
