package e2e

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/muxd/muxd/control"
	"github.com/muxd/muxd/control/controlpb"
)

// consoleMost is what an idle console may cost the plugin, and pluginMost what the plugin costs without any, in bytes.
const (
	consoleMost = 64 << 10
	pluginMost  = 48 << 20
)

// consoles spawns children that do nothing, each on a console, named idle0 and so on, and holds the plugin's memory to its bound.
func consoles(ts *testscript.TestScript, neg bool, args []string) {
	n, err := 0, error(nil)
	if len(args) == 1 {
		n, err = strconv.Atoi(args[0])
	}
	if neg || n <= 0 || err != nil {
		ts.Fatalf("usage: consoles N")
	}
	if free := terminalsLeft(ts); free < n+100 {
		of(ts).t.Skipf("this machine has %d terminals left (kernel.pty.max), and %d are wanted", free, n)
	}
	c, err := control.Dial(ts.Getenv("MUXD_SOCKET"))
	ts.Check(err)
	defer c.Close()
	work := make(chan int)
	errs := make(chan error, n)
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for i := range work {
				_, err := c.Spawn(context.Background(), &controlpb.ChildSpec{
					Name: fmt.Sprint("idle", i), Argv: [][]byte{[]byte("sleep"), []byte("1000")}, Env: [][]byte{[]byte("PATH=/usr/bin:/bin")},
					Sinks: []*controlpb.SinkChoice{{Spec: "pty"}}, Grace: 1,
				})
				errs <- err
			}
		})
	}
	for i := range n {
		work <- i
	}
	close(work)
	wg.Wait()
	for range n {
		ts.Check(<-errs)
	}
	plugins, err := c.API.Plugins(context.Background(), &controlpb.PluginsRequest{})
	ts.Check(err)
	for _, p := range plugins.Plugins {
		if p.Name != "pty" || race { // the race detector's own memory is a multiple of that
			continue
		}
		most := uint64(n)*consoleMost + pluginMost
		if used := memoryOf(ts, int(p.Pid)); used > most {
			ts.Fatalf("the plugin has %d bytes of memory with %d idle consoles, want at most %d", used, n, most)
		} else {
			ts.Logf("the plugin has %d bytes of memory with %d idle consoles", used, n)
		}
	}
}

// memoryOf is what a process has of its own, and its part of what it shares (proc_pid_smaps(5)).
func memoryOf(ts *testscript.TestScript, pid int) uint64 {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
	ts.Check(err)
	for line := range strings.Lines(string(b)) {
		if f := strings.Fields(line); f[0] == "Pss:" {
			kib, err := strconv.ParseUint(f[1], 10, 64)
			ts.Check(err)
			return kib << 10
		}
	}
	ts.Fatalf("process %d: no memory is told", pid)
	return 0
}

// terminalsLeft is how many terminals the kernel still makes.
func terminalsLeft(ts *testscript.TestScript) int {
	var n [2]int
	for i, name := range []string{"max", "nr"} {
		b, err := os.ReadFile("/proc/sys/kernel/pty/" + name)
		ts.Check(err)
		n[i], err = strconv.Atoi(strings.TrimSpace(string(b)))
		ts.Check(err)
	}
	return n[0] - n[1]
}
