package chaos

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/muxd/muxd/control"
	"github.com/muxd/muxd/control/controlpb"
)

// adopt starts r's child below this test, and hands its stdout over.
func (m *muxd) adopt(t *testing.T, r *result) {
	read, write, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer read.Close()
	defer write.Close()
	r.started = exec.Command(os.Args[0])
	r.started.Env, r.started.Stdout, r.started.Stderr = []string{r.environment(t)}, write, os.Stderr
	if err := r.started.Start(); err != nil {
		t.Fatal(err)
	}
	m.handOver(t, r.name, r.spec, read)
	m.openings["file"]++
}

// handOver adopts read as a child's stdout, and returns when muxd has it.
func (m *muxd) handOver(t *testing.T, name, spec string, read *os.File) {
	t.Helper()
	_, err := m.client.Adopt(context.Background(), control.Adoption{
		Name: name, Far: map[string]*os.File{"stdout": read},
		Sinks: []*controlpb.SinkChoice{{Stream: "stdout", Spec: spec}},
	})
	if err != nil {
		t.Fatalf("adopt %s: %v", name, err)
	}
}

// TestAdopt hands pipes over while one of those who take them is killed. Whoever it is and whenever it dies, Adopt succeeds, and
// every byte comes out once and in order, those from before as well as those from after it.
func TestAdopt(t *testing.T) {
	t.Parallel()
	m := start(t)
	dir := t.TempDir()
	m.spawn(t, &result{name: "console", spec: "pty", kind: "small", stop: filepath.Join(dir, "stop"), count: filepath.Join(dir, "count")})
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 3))
	for n := range 24 {
		who := []string{"agent", "keeper", "file"}[n%3]
		name := fmt.Sprint("a", n)
		out := filepath.Join(dir, name)
		read, write, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		want := ""
		say := func(lines int) {
			text := ""
			for range lines {
				text += fmt.Sprintf("%s line %d\n", name, len(want)+len(text))
			}
			if _, err := write.WriteString(text); err != nil {
				t.Fatalf("%s: write: %v", name, err)
			}
			want += text
		}
		say(300)
		pid := m.pid(t, who)
		killed := time.AfterFunc(time.Duration(random.IntN(6000))*time.Microsecond, func() {
			if pid > 1 { // a plugin that does not run yet cannot be killed
				unix.Kill(pid, unix.SIGKILL)
			}
		})
		m.handOver(t, name, "file:"+out+",format=raw", read)
		read.Close()
		m.openings["file"] = 1
		before := uint32(0)
		if !killed.Stop() { // it was quicker
			m.dead[who] = int32(pid)
			if who == "keeper" {
				before = uint32(pid)
			}
		}
		say(300)
		m.settle(t, before)
		say(300)
		write.Close()
		ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
		if _, err := m.client.Wait(ctx, name); err != nil {
			t.Fatalf("wait %s: %v", name, err)
		}
		cancel()
		if got, err := os.ReadFile(out); string(got) != want {
			t.Errorf("%s, over which %s was killed: %d bytes came out, want %d (%v)", name, who, len(got), len(want), err)
		}
		m.openings["file"] = 0
	}
	os.WriteFile(filepath.Join(dir, "stop"), nil, 0o600)
	m.stop(t)
}
