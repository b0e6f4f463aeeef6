package chaos

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/muxd/muxd/control/controlpb"
)

var (
	recoveryInto = flag.String("recovery", "", "the file into which TestRecovery writes its table, between its marks")
	rounds       = flag.Int("rounds", 20, "of TestRecovery, in which everybody dies once")
)

// Marks of the table in the file.
const (
	recoveryBegin = "<!-- make recovery -->\n"
	recoveryEnd   = "<!-- end -->\n"
)

// flow is a stream as whoever reads it sees it: when something came.
type flow struct {
	mu   sync.Mutex
	last time.Time
	most time.Duration // the longest time without anything, since reset
}

func (f *flow) came() {
	f.mu.Lock()
	defer f.mu.Unlock()
	now := time.Now()
	f.most, f.last = max(f.most, now.Sub(f.last)), now
}

func (f *flow) reset() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.most, f.last = 0, time.Now()
}

// longest waits until something has come since, and returns the longest time without anything.
func (f *flow) longest(t *testing.T, since time.Time) time.Duration {
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(time.Millisecond) { // polling for what the deadline bounds
		f.mu.Lock()
		last, most := f.last, f.most
		f.mu.Unlock()
		if last.After(since) {
			return most
		}
		if time.Now().After(deadline) {
			t.Fatal("nothing comes any more")
		}
	}
}

// grows notes in f when the files become larger all together.
func grows(f *flow, files func() []string, stop <-chan struct{}) {
	for before := int64(0); ; {
		size := int64(0)
		for _, path := range files() {
			var st unix.Stat_t
			if unix.Stat(path, &st) == nil {
				size += st.Size
			}
		}
		if size > before {
			f.came()
			before = size
		}
		select {
		case <-stop:
			return
		case <-time.After(500 * time.Microsecond): // how exact it is
		}
	}
}

// row is what was measured of one death.
type row struct {
	what            string
	without, answer []time.Duration
}

// TestRecovery measures how long a stream has no reader and clients no answer when somebody dies, and puts it into a table. It
// is for make recovery, and checks what comes out like every test here.
func TestRecovery(t *testing.T) {
	if *recoveryInto == "" {
		t.Skip("make recovery runs it")
	}
	m := start(t)
	dir := t.TempDir()
	path := func(name string) string { return filepath.Join(dir, name) }
	child := func(name, spec string) *result {
		return &result{name: name, kind: "tick", spec: spec, seed: 1, status: 3, stop: path(name + ".stop"), count: path(name + ".count")}
	}
	toFile, toSocket, toConsole := child("f", "file:"+path("f.0")+",format=raw"), child("s", "socket:unix:"+path("s")), child("c", "pty,scrollback=64MiB")
	toFile.moves = true
	moved := &mover{child: "f", stream: "stdout", files: []string{path("f.0")}}
	p := accept(t, path("s"))
	socketFlow, consoleFlow, fileFlow := &flow{}, &flow{}, &flow{}
	p.came = socketFlow.came
	for _, r := range []*result{toFile, toSocket, toConsole} {
		m.spawn(t, r)
	}
	viewer := m.viewAs(t, "c", consoleFlow.came)
	var mu sync.Mutex
	files := func() []string { mu.Lock(); defer mu.Unlock(); return slices.Clone(moved.files) }
	stop := make(chan struct{})
	var watching sync.WaitGroup
	watching.Go(func() { grows(fileFlow, files, stop) })

	table := []*row{
		{what: "nobody"}, {what: "the plugin `file`"}, {what: "the plugin `socket`"}, {what: "the plugin `pty`"}, {what: "the agent"}, {what: "the keeper"},
		{what: "keeper and agent, and muxd is started at once"}, {what: "nobody: `muxctl agent upgrade`"}, {what: "nobody: `muxctl redirect`"},
	}
	random := rand.New(rand.NewPCG(1, 5))
	for range *rounds {
		for i, r := range table {
			keeper := m.settle(t, 0)
			time.Sleep(1100 * time.Millisecond) // an agent that lived for less is started again later
			f := []*flow{fileFlow, fileFlow, socketFlow, consoleFlow, fileFlow, fileFlow, fileFlow, fileFlow, fileFlow}[i]
			if i == 7 {
				m.replace(t)
			}
			f.reset()
			time.Sleep(time.Duration(random.IntN(20)) * time.Millisecond) // when the death comes
			begun := time.Now()
			switch i {
			case 1, 2, 3:
				m.kill(t, []string{"", "file", "socket", "pty"}[i])
			case 4:
				m.kill(t, "agent")
			case 5:
				m.kill(t, "keeper")
			case 6:
				s, err := m.client.API.Status(context.Background(), &controlpb.StatusRequest{})
				if err != nil {
					t.Fatal(err)
				}
				begun = time.Now()
				killTogether(int(s.KeeperPid), int(s.AgentPid))
				m.up(t)
			case 7:
				upgraded := make(chan struct{})
				go func() {
					defer close(upgraded)
					m.goOn(t, func() {})
				}()
				most := time.Duration(0)
				for over := false; !over; { // the longest that anybody waits for an answer meanwhile
					select {
					case <-upgraded:
						over = true
					default:
					}
					asked := time.Now()
					if _, err := m.client.API.Status(context.Background(), &controlpb.StatusRequest{}); err != nil {
						t.Fatalf("status: %v", err)
					}
					most = max(most, time.Since(asked))
				}
				begun = time.Now().Add(-most)
			case 8:
				mu.Lock()
				next := path(fmt.Sprint("f.", len(moved.files)))
				moved.files = append(moved.files, next)
				mu.Unlock()
				if _, err := m.client.API.Redirect(context.Background(), &controlpb.RedirectRequest{
					Child: "f", Stream: "stdout", Spec: "file:" + next + ",format=raw", RequestId: next,
				}); err != nil {
					t.Fatalf("redirect: %v", err)
				}
			}
			for {
				s, err := m.client.API.Status(context.Background(), &controlpb.StatusRequest{})
				if err != nil {
					t.Fatalf("status: %v", err)
				}
				if k := uint32(s.KeeperPid); i == 4 && s.AgentPid != m.dead["agent"] || i != 4 && (i != 5 && i != 6 || k != keeper && k != 1) {
					break
				}
			}
			r.answer = append(r.answer, time.Since(begun))
			if i == 5 || i == 6 {
				m.settle(t, keeper)
			} else {
				m.settle(t, 0)
			}
			r.without = append(r.without, f.longest(t, time.Now()))
		}
	}
	for _, r := range []*result{toFile, toSocket, toConsole} {
		os.WriteFile(r.stop, nil, 0o600)
		if c := m.over(t, r.name); !c.StatusKnown || unix.WaitStatus(c.Status).ExitStatus() != r.status {
			t.Errorf("%s: status %#x (known %v), want exit status %d", r.name, c.Status, c.StatusKnown, r.status)
		}
	}
	close(stop)
	watching.Wait()
	shown := bytes.ReplaceAll(viewer.end(t), []byte("\r\n"), []byte("\n"))
	m.stop(t)
	out, err := moved.read()
	if err != nil {
		t.Fatal(err)
	}
	toFile.check(t, out)
	p.check(t, toSocket)
	toConsole.check(t, shown)
	if t.Failed() {
		return
	}
	text := recoveryTable(t, table)
	t.Logf("\n%s", text)
	b, err := os.ReadFile(*recoveryInto)
	if err != nil {
		t.Fatal(err)
	}
	head, rest, ok := strings.Cut(string(b), recoveryBegin)
	_, tail, alsoOK := strings.Cut(rest, recoveryEnd)
	if !ok || !alsoOK {
		t.Fatalf("%s has no marks %q and %q", *recoveryInto, recoveryBegin, recoveryEnd)
	}
	if err := os.WriteFile(*recoveryInto, []byte(head+recoveryBegin+text+recoveryEnd+tail), 0o644); err != nil {
		t.Fatal(err)
	}
}

// recoveryTable is the table, with what it was measured on.
func recoveryTable(t *testing.T, table []*row) string {
	var name unix.Utsname
	if err := unix.Uname(&name); err != nil {
		t.Fatal(err)
	}
	info, _ := os.ReadFile("/proc/cpuinfo")
	model := regexp.MustCompile(`(?m)^model name\s*: (.*)$`).FindSubmatch(info)
	if model == nil {
		model = [][]byte{nil, []byte(runtime.GOARCH)}
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%d times each, on %d CPUs (%s) and Linux %s:\n\n", *rounds, runtime.NumCPU(), model[1], unix.ByteSliceToString(name.Release[:]))
	b.WriteString("| killed | longest time without output: p50, most | until `Status` is answered: p50, most | bytes lost or doubled |\n|---|---|---|---|\n")
	for _, r := range table {
		fmt.Fprintf(&b, "| %s | %s | %s | 0 |\n", r.what, quantiles(r.without), quantiles(r.answer))
	}
	b.WriteString("\n")
	return b.String()
}

// quantiles are the median and the most.
func quantiles(d []time.Duration) string {
	slices.Sort(d)
	return fmt.Sprintf("%v, %v", d[len(d)/2].Round(100*time.Microsecond), d[len(d)-1].Round(100*time.Microsecond))
}
