package sink_test

import (
	"os"
	"strings"
	"testing"

	"github.com/muxd/muxd/sink/sinktest"
)

// examples are the plugins of the examples, which this test's binary serves where it is started with example=NAME.
var examples = map[string]func(){
	"journal": Example_chunks, "shout": Example_lines, "relay": Example_moved, "plain": Example_direct,
	"pump": Example_raw, "terminal": Example_console,
}

func TestMain(m *testing.M) {
	if len(os.Args) > 1 {
		if name, ok := strings.CutPrefix(os.Args[1], "example="); ok {
			examples[name]()
			os.Exit(0)
		}
	}
	os.Exit(m.Run())
}

// The examples are plugins, and do what is said of them.
func TestExamples(t *testing.T) {
	t.Parallel()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range []struct {
		name, spec, read string
		only             []string
	}{
		{"journal", "journal:{out}", "{out}", []string{"describe", "bytes.small", "kill", "metrics"}},
		{"shout", "shout:{out}", "sed 's/^[a-z]* [0-9]*: //; s/!$//' <{out} | head -c -1", []string{"bytes.small"}},
		{"relay", "relay:{listen}", "", []string{"bytes.small"}},
		{"plain", "plain:{out}", "{out}", []string{"wiring", "bytes.small"}},
		{"pump", "pump:{out}", "", []string{
			"start.shutdown", "describe", "calls.again", "wiring", "bytes.none", "bytes.small", "bytes.both", "end", "hang", "kill.unread", "kill.open", "kill.told", "move", "fds.surplus", "fds.leak",
		}},
		{"pump", "pump:{fifo}", "", []string{"end.stuck", "pressure", "hang.busy"}},
		{"terminal", "terminal", "", []string{
			"start.shutdown", "describe", "wiring", "bytes.small", "end", "pressure", "hang.stop", "kill.unread", "move.repark", "fds.leak", "console",
		}},
	} {
		t.Run(e.name, func(t *testing.T) {
			t.Parallel()
			sinktest.Run(t, sinktest.Options{
				Command: []string{self, "example=" + e.name}, Specs: []string{e.spec}, Read: e.read, Only: e.only,
			})
		})
	}
}
