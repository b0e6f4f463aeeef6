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
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/muxd/muxd/control"
	"github.com/muxd/muxd/control/controlpb"
)

var soakWanted = flag.Duration("soak", 3*time.Second, "how long children come and go")

// soakers is how many children there are at a time.
const soakers = 8

// TestSoak has children of every kind come and go, end by themselves and be killed, and viewers attach and leave. When all are gone muxd has
// what it had before: descriptors, files, processes, goroutines, and memory.
func TestSoak(t *testing.T) {
	t.Parallel()
	m := start(t)
	before := m.warm(t)
	m.churn(t, *soakWanted/2)
	m.nothingHeld(t, before)
	goroutines, memory := m.goroutines(t), m.atRest(t)
	children := m.churn(t, *soakWanted/2)
	m.nothingHeld(t, before)
	// The SDK has a few workers, which are started when they are first needed.
	for who, n := range m.goroutines(t) {
		if had := goroutines[who]; n > had+4 {
			t.Errorf("%s has %d goroutines after %d more children, and had %d", who, n, children, had)
		}
	}
	// The agent remembers some thousands of events.
	if now := m.atRest(t); now > memory+memory/4+8<<20 {
		t.Errorf("muxd has %d KiB of memory after %d more children, and had %d", now>>10, children, memory>>10)
	}
	t.Logf("%d children in the second half; goroutines %v; memory at rest %d KiB, in the middle %d KiB", children, goroutines, m.atRest(t)>>10, memory>>10)
	m.stop(t)
}

// churn has children come and go for that long, and returns how many there were.
func (m *muxd) churn(t *testing.T, d time.Duration) int64 {
	t.Helper()
	dir := t.TempDir()
	until := time.Now().Add(d)
	var count atomic.Int64
	var all sync.WaitGroup
	for i := range soakers {
		all.Go(func() {
			random := rand.New(rand.NewPCG(uint64(i), 7))
			for time.Now().Before(until) && !t.Failed() {
				n := count.Add(1)
				lives := []func(string) error{
					func(name string) error { return m.lifeOfWriter(name, filepath.Join(dir, fmt.Sprint("out", i))) },
					m.lifeOfConsole, m.lifeOfKilled, m.lifeOfCopied,
				}
				k := random.IntN(len(lives))
				if err := lives[k](fmt.Sprintf("s%d-%d", k, n)); err != nil {
					t.Error(err)
				}
			}
		})
	}
	all.Wait()
	return count.Load()
}

// live spawns a child, lets it live, and wants that wait status of it.
func (m *muxd) live(name, script string, sinks []*controlpb.SinkChoice, want syscall.WaitStatus, while func() error) error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	_, err := m.client.Spawn(ctx, &controlpb.ChildSpec{
		Name: name, Argv: [][]byte{[]byte("sh"), []byte("-c"), []byte(script)}, Env: [][]byte{[]byte("PATH=" + os.Getenv("PATH"))}, Sinks: sinks,
	})
	if err != nil {
		return fmt.Errorf("spawn %s: %w", name, err)
	}
	if while != nil {
		if err := while(); err != nil {
			return fmt.Errorf("child %s: %w", name, err)
		}
	}
	c, err := m.client.Wait(ctx, name)
	if err != nil {
		return fmt.Errorf("wait %s: %w", name, err)
	}
	if c.Error != "" || !c.StatusKnown || syscall.WaitStatus(c.Status) != want {
		return fmt.Errorf("child %s ended with wait status %#x (known: %v), want %#x: %s", name, c.Status, c.StatusKnown, want, c.Error)
	}
	_, err = m.client.API.Remove(ctx, &controlpb.RemoveRequest{Child: name})
	return err
}

func (m *muxd) lifeOfWriter(name, path string) error {
	return m.live(name, "seq 200; exit 3", []*controlpb.SinkChoice{{Stream: "stdout", Spec: "file:" + path}}, 3<<8, nil)
}

// lifeOfConsole types what ends the child, and sees it.
func (m *muxd) lifeOfConsole(name string) error {
	return m.live(name, "read x; exit $x", []*controlpb.SinkChoice{{Spec: "pty"}}, 5<<8, func() error {
		for range 2 {
			v, err := m.client.Attach(context.Background(), name, control.AttachOptions{Replay: "screen"})
			if err != nil {
				return err
			}
			if err := v.Close(); err != nil {
				return err
			}
		}
		_, err := m.client.Send(context.Background(), name, control.Text("5\r"))
		return err
	})
}

// lifeOfKilled is ended from outside, in the middle of its output.
func (m *muxd) lifeOfKilled(name string) error {
	sinks := []*controlpb.SinkChoice{{Stream: "stdout", Spec: "file:/dev/null,format=raw"}, {Stream: "stderr", Spec: "file:/dev/null,format=raw"}}
	return m.live(name, "while :; do echo some output; done", sinks, syscall.WaitStatus(unix.SIGKILL), func() error {
		_, err := m.client.API.Signal(context.Background(), &controlpb.SignalRequest{Child: name, Signal: uint32(unix.SIGKILL)})
		return err
	})
}

// lifeOfCopied has two sinks for one stream.
func (m *muxd) lifeOfCopied(name string) error {
	sinks := []*controlpb.SinkChoice{{Stream: "stdout", Spec: "file:/dev/null,format=raw"}, {Stream: "stdout", Spec: "file:/dev/null,format=raw,branch=drop-oldest"}}
	return m.live(name, "seq 1000", sinks, 0, nil)
}

var goroutineRE = regexp.MustCompile(`(?m)^goroutine \d+ `)

// goroutines counts those of each process, when muxd is at rest.
func (m *muxd) goroutines(t *testing.T) map[string]int {
	t.Helper()
	out := map[string]int{}
	for who := range m.processes(t) {
		name := regexp.MustCompile(`^plugin `).ReplaceAllString(who, "")
		resp, err := m.client.API.Profile(context.Background(), &controlpb.ProfileRequest{Process: name, Kind: "stacks"})
		if err != nil {
			t.Fatalf("goroutines of %s: %v", who, err)
		}
		out[who] = len(goroutineRE.FindAll(resp.Profile, -1))
	}
	return out
}

// atRest is the memory that is muxd's processes' own, in bytes, after each has thrown away what it does not need.
func (m *muxd) atRest(t *testing.T) (sum int64) {
	t.Helper()
	for who, pid := range m.processes(t) {
		name := regexp.MustCompile(`^plugin `).ReplaceAllString(who, "")
		if _, err := m.client.API.Profile(context.Background(), &controlpb.ProfileRequest{Process: name, Kind: "heap"}); err != nil { // collects garbage
			t.Fatalf("heap of %s: %v", who, err)
		}
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
		if err != nil {
			t.Fatal(err)
		}
		for line := range bytes.Lines(b) {
			if f := bytes.Fields(line); string(f[0]) == "Pss_Anon:" || string(f[0]) == "Pss_Shmem:" {
				n, _ := strconv.ParseInt(string(f[1]), 10, 64)
				sum += n << 10
			}
		}
	}
	return sum
}
