package chaos

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/muxd/muxd/control"
	"github.com/muxd/muxd/control/controlpb"
)

var (
	scaleChildren = flag.Int("scale-children", 100, "how many children with two pipes there are at once")
	scaleConsoles = flag.Int("scale-consoles", 25, "how many consoles there are beside them")
)

// scaleGroup is how many children end in one moment.
const scaleGroup = 500

// descriptorsMost is how many descriptors each of muxd's processes may have.
const descriptorsMost = 20000

// TestScale has many children at once, kills each of muxd's processes under them, and then has them end, hundreds in one moment: each output
// and each exit status is right, and nothing of them is left.
func TestScale(t *testing.T) {
	m := start(t)
	before := m.warm(t)
	dir := t.TempDir()
	fifo := func(name string) string {
		path := filepath.Join(dir, name)
		if err := unix.Mkfifo(path, 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	var starts []string // what children wait for, group by group: muxd remembers a thousand that have ended
	for from := 0; from < *scaleChildren; from += scaleGroup {
		starts = append(starts, fifo(fmt.Sprint("start", from)))
	}
	startConsoles := fifo("start")
	line := filepath.Join(dir, "canary")
	m.scaleSpawn(t, "canary", "file:"+line+",format=raw", "", `exec 3<>"$0"; i=0; while :; do i=$((i+1)); echo $i; read -t 0.01 x <&3; done`, "bash", fifo("never"))

	begun := time.Now()
	wait := `read x <"$0"; echo out of $1; echo err of $1 >&2; exit $(($1 % 100))`
	m.each(*scaleChildren, func(i int) {
		out := filepath.Join(dir, fmt.Sprint(i))
		m.scaleSpawn(t, fmt.Sprint("pipes", i), "file:"+out+".out,format=raw", "file:"+out+".err,format=raw", wait, "sh", starts[i/scaleGroup], fmt.Sprint(i))
	})
	spawned := time.Since(begun)
	begun = time.Now()
	m.each(*scaleConsoles, func(i int) {
		m.scaleSpawn(t, fmt.Sprint("console", i), "pty,log=file:"+filepath.Join(dir, fmt.Sprint("console", i))+`\,format=raw`, "", wait, "sh", startConsoles, fmt.Sprint(i))
	})
	t.Logf("%d children in %v, %d consoles in %v", *scaleChildren, spawned, *scaleConsoles, time.Since(begun))
	m.few(t)

	plugins, err := m.client.API.Plugins(context.Background(), &controlpb.PluginsRequest{})
	if err != nil {
		t.Fatalf("plugins: %v", err)
	}
	for _, p := range plugins.Plugins {
		m.openings[p.Name] = int(p.Openings)
	}
	for _, who := range []string{"file", "pty", "agent", "keeper"} {
		begun, pid := time.Now(), m.pid(t, who)
		if !m.kill(t, who) {
			t.Fatalf("%s does not run", who)
		}
		served := m.served(t, who, pid)
		t.Logf("%s killed: every stream has its plugin, keeper and agent after %v", who, served.Sub(begun))
		m.settle(t, 0)
	}
	m.few(t)

	begun = time.Now()
	for k, path := range starts {
		release(t, path)
		m.each(min(scaleGroup, *scaleChildren-k*scaleGroup), func(i int) { m.checkPipes(t, dir, k*scaleGroup+i) })
	}
	release(t, startConsoles)
	m.each(*scaleConsoles, func(i int) {
		c := m.over(t, fmt.Sprint("console", i))
		b, err := os.ReadFile(filepath.Join(dir, fmt.Sprint("console", i)))
		if want := fmt.Sprintf("out of %d\r\nerr of %d\r\n", i, i); err != nil || string(b) != want || c.Status != uint32(i%100)<<8 {
			t.Errorf("console %d has put out %q (error: %v) and ended with wait status %#x, want %q", i, b, err, c.Status, want)
		}
	})
	t.Logf("all have ended after %v", time.Since(begun))

	if _, err := m.client.API.Signal(context.Background(), &controlpb.SignalRequest{Child: "canary", Signal: uint32(unix.SIGKILL)}); err != nil {
		t.Fatal(err)
	}
	m.over(t, "canary")
	b, err := os.ReadFile(line)
	var want bytes.Buffer
	for i := range bytes.Count(b, []byte{'\n'}) {
		fmt.Fprintln(&want, i+1)
	}
	if err != nil || !bytes.Equal(b, want.Bytes()) {
		t.Errorf("what wrote all the time has %d bytes, and %d are right (error: %v)", len(b), want.Len(), err)
	}
	m.nothingHeld(t, before)
	m.stop(t)
}

// release lets go of all who have opened a FIFO to read it.
func release(t *testing.T, path string) {
	t.Helper()
	w, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	w.Close()
}

// checkPipes waits for child i, and looks at what it has put out.
func (m *muxd) checkPipes(t *testing.T, dir string, i int) {
	c := m.over(t, fmt.Sprint("pipes", i))
	if c.Status != uint32(i%100)<<8 || !c.StatusKnown {
		t.Errorf("child %d ended with wait status %#x", i, c.Status)
	}
	for _, stream := range []string{"out", "err"} {
		b, err := os.ReadFile(filepath.Join(dir, fmt.Sprintf("%d.%s", i, stream)))
		if want := fmt.Sprintf("%s of %d\n", stream, i); err != nil || string(b) != want {
			t.Errorf("std%s of child %d is %q (error: %v), want %q", stream, i, b, err, want)
		}
	}
}

// served returns when the process who is another than pid, and every opening has its plugin.
func (m *muxd) served(t *testing.T, who string, pid int) time.Time {
	t.Helper()
	for deadline := time.Now().Add(2 * time.Minute); ; time.Sleep(20 * time.Millisecond) { // polling for what the deadline bounds
		plugins, err := m.client.API.Plugins(context.Background(), &controlpb.PluginsRequest{})
		wrong := ""
		switch {
		case control.Unreachable(err): // a muxd with many children may need longer than a call waits
			wrong = err.Error()
		case err != nil:
			t.Fatalf("plugins: %v", err)
		case m.pid(t, who) == pid || m.pid(t, who) <= 1:
			wrong = who + " is not replaced"
		}
		for _, p := range plugins.GetPlugins() {
			if int(p.Openings) != m.openings[p.Name] {
				wrong = fmt.Sprintf("plugin %s serves %d openings, want %d", p.Name, p.Openings, m.openings[p.Name])
			}
		}
		if wrong == "" {
			return time.Now()
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s was killed: %s", who, wrong)
		}
	}
}

// each calls f with every number below n, a few at a time.
func (m *muxd) each(n int, f func(i int)) {
	next := make(chan int)
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			for i := range next {
				f(i)
			}
		})
	}
	for i := range n {
		next <- i
	}
	close(next)
	all.Wait()
}

// scaleSpawn spawns a shell with a script, whose $0 and $1 are args. Without stderr, stdout is a sink for all streams.
func (m *muxd) scaleSpawn(t *testing.T, name, stdout, stderr, script, shell string, args ...string) {
	spec := &controlpb.ChildSpec{
		Name: name, Argv: [][]byte{[]byte(shell), []byte("-c"), []byte(script)}, Env: [][]byte{[]byte("PATH=" + os.Getenv("PATH"))},
		Sinks: []*controlpb.SinkChoice{{Spec: stdout}},
	}
	for _, a := range args {
		spec.Argv = append(spec.Argv, []byte(a))
	}
	if stderr != "" {
		spec.Sinks = []*controlpb.SinkChoice{{Stream: "stdout", Spec: stdout}, {Stream: "stderr", Spec: stderr}, {Stream: "stdin", Spec: "null"}}
	}
	if _, err := m.client.Spawn(context.Background(), spec); err != nil {
		t.Errorf("spawn %s: %v", name, err)
	}
}

// few says whether no process of muxd has more descriptors than it may.
func (m *muxd) few(t *testing.T) {
	t.Helper()
	var counts string
	for who, pid := range m.processes(t) {
		n := len(openFiles(pid))
		counts += fmt.Sprintf(" %s %d", who, n)
		if n > descriptorsMost {
			t.Errorf("%s has %d descriptors, want %d at most", who, n, descriptorsMost)
		}
	}
	t.Logf("descriptors:%s", counts)
}
