package chaos

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/muxd/muxd/control"
	"github.com/muxd/muxd/control/controlpb"
)

// What people do while muxd's processes die: they move streams, add and remove sinks, upgrade, and type.

// mover has a stream of one child go from file to file.
type mover struct {
	child, stream string
	files         []string
}

// while calls kill at some moment of change.
func while(kill func(), change func(ctx context.Context)) {
	killed := make(chan struct{})
	go func() {
		defer close(killed)
		kill()
	}()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	change(ctx)
	<-killed
}

// move has the stream go to another file, while kill is called at some moment of it.
func (v *mover) move(t *testing.T, m *muxd, dir string, kill func()) {
	t.Helper()
	path := v.next(dir)
	while(kill, func(ctx context.Context) {
		req := &controlpb.RedirectRequest{Child: v.child, Stream: v.stream, Spec: rawFile(path), RequestId: path}
		if _, err := m.client.API.Redirect(ctx, req); err != nil { // the sink, or what it goes to, was dead for too long: the stream stays where it is
			t.Logf("redirect %s of %s: %v", v.stream, v.child, err)
		}
	})
}

// next is the path of another file.
func (v *mover) next(dir string) string {
	path := filepath.Join(dir, fmt.Sprintf("%s-%s.%d", v.child, strings.ReplaceAll(v.stream, "/", "-"), len(v.files)))
	v.files = append(v.files, path)
	return path
}

func rawFile(path string) string { return "file:" + path + ",format=raw" }

// read is what is in the files, in their order.
func (v *mover) read() (all []byte, err error) {
	for i, path := range v.files {
		b, err := os.ReadFile(path)
		if err != nil && i == 0 {
			return nil, err
		}
		all = append(all, b...)
	}
	return all, nil
}

// adder gives a stream of one child another sink for a while, again and again.
type adder struct {
	mover
	has bool // it has one now: the latest file
}

// change adds one, or removes it, while kill is called at some moment of it.
func (v *adder) change(t *testing.T, m *muxd, dir string, kill func()) {
	t.Helper()
	how := controlpb.RedirectRequest_REMOVE
	if !v.has {
		how = controlpb.RedirectRequest_ADD
		v.next(dir)
	}
	spec := rawFile(v.files[len(v.files)-1])
	copiers := m.copiersOf(t, v.child)
	while(kill, func(ctx context.Context) {
		req := &controlpb.RedirectRequest{Child: v.child, Stream: v.stream, Spec: spec, How: how, RequestId: fmt.Sprint(how, spec)}
		for _, err := m.client.API.Redirect(ctx, req); err != nil; _, err = m.client.API.Redirect(ctx, req) { // a plugin was dead for too long
			if t.Logf("redirect %s of %s, %v: %v", v.stream, v.child, how, err); ctx.Err() != nil {
				t.Fatalf("it is not done, however often it is asked for")
			}
		}
	})
	v.has = !v.has
	m.openings["file"] += map[bool]int{true: 1, false: -1}[v.has]
	m.openings["fanout"] += m.copiersOf(t, v.child) - copiers // which is put between where there was one sink
}

// check looks for each file's content in the stream: they are parts of it, one behind the other.
func (v *adder) check(t *testing.T, stream []byte) {
	t.Helper()
	at := 0
	for _, path := range v.files {
		part, err := os.ReadFile(path)
		if err != nil && !os.IsNotExist(err) {
			t.Fatal(err)
		}
		n := bytes.Index(stream[at:], part)
		if n < 0 {
			t.Errorf("%s: %d bytes, %.60q..., are no part of the stream behind byte %d", path, len(part), part, at)
			return
		}
		at += n + len(part)
	}
	t.Logf("%s of %s had %d more sinks", v.stream, v.child, len(v.files))
}

// upgrade puts another file in the place of muxd's, and has muxd go on as that.
func (m *muxd) upgrade(t *testing.T, kill func()) {
	t.Helper()
	m.replace(t)
	m.goOn(t, kill)
}

// replace puts another file, which has the same program, in the place of muxd's.
func (m *muxd) replace(t *testing.T) {
	t.Helper()
	b, err := os.ReadFile(m.bin)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(m.bin+".next", b, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(m.bin+".next", m.bin); err != nil {
		t.Fatal(err)
	}
}

// goOn has muxd go on as the program that is on disk now.
func (m *muxd) goOn(t *testing.T, kill func()) {
	t.Helper()
	killed := make(chan struct{})
	go func() {
		defer close(killed)
		kill()
	}()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	resp, err := m.client.Upgrade(ctx)
	<-killed
	if err != nil && strings.Contains(err.Error(), "did not come up") { // it was that which was killed, and nothing hinders it now
		t.Logf("upgrade: %v", err)
		resp, err = m.client.Upgrade(ctx)
	}
	if err != nil {
		t.Errorf("upgrade: %v", err)
		return
	}
	for _, s := range resp.Steps {
		if s.What == "keeper" && !s.Replaced {
			t.Errorf("upgrade: the keeper goes on as the program before: %v", resp.Steps)
		}
	}
}

// keys types numbered lines into a console whose child puts what it reads into a file.
type keys struct {
	v      *control.Viewer
	out    string
	ctx    context.Context
	cancel context.CancelFunc
	done   chan struct{}
	text   []byte // what was typed
	err    error
}

func (m *muxd) typeInto(t *testing.T, dir string) *keys {
	t.Helper()
	k := &keys{out: filepath.Join(dir, "typed"), done: make(chan struct{})}
	k.ctx, k.cancel = context.WithCancel(context.Background())
	script := "stty -echo -icanon; echo ready; exec cat >" + k.out
	if _, err := m.client.Spawn(context.Background(), &controlpb.ChildSpec{
		Name: "typed", Argv: [][]byte{[]byte("sh"), []byte("-c"), []byte(script)}, Sinks: []*controlpb.SinkChoice{{Spec: "pty"}},
	}); err != nil {
		t.Fatalf("spawn typed: %v", err)
	}
	m.openings["pty"]++
	var err error
	if k.v, err = m.client.Attach(context.Background(), "typed", control.AttachOptions{Replay: "all"}); err != nil {
		t.Fatal(err)
	}
	for seen := []byte(nil); !bytes.Contains(seen, []byte("ready")); {
		ev, err := k.v.Recv()
		if err != nil {
			t.Fatalf("console typed: %v", err)
		}
		seen = append(seen, ev.Data...)
	}
	go func() {
		for {
			if _, err := k.v.Recv(); err != nil {
				return
			}
		}
	}()
	go k.run()
	return k
}

func (k *keys) run() {
	defer close(k.done)
	for n := 0; k.ctx.Err() == nil; n++ {
		line := fmt.Appendf(nil, "%d %s\n", n, strings.Repeat("key ", n%500))
		if _, k.err = k.v.Send(context.Background(), line); k.err != nil {
			return
		}
		k.text = append(k.text, line...)
		if n%10 == 0 {
			time.Sleep(5 * time.Millisecond) // it paces the test, and waits for nothing
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	k.err = k.v.Settled(ctx)
}

// end stops typing, and says whether every key was typed once.
func (k *keys) end(t *testing.T, m *muxd) {
	t.Helper()
	k.cancel()
	<-k.done
	if k.err != nil {
		t.Errorf("typed: %v", k.err)
	}
	k.v.Close()
	var got []byte
	m.within(t, "what was typed does not arrive", func() string {
		if got, _ = os.ReadFile(k.out); len(got) < len(k.text) {
			return fmt.Sprintf("%d bytes of %d", len(got), len(k.text))
		}
		return ""
	})
	if !bytes.Equal(got, k.text) {
		at := 0
		for at < min(len(got), len(k.text)) && got[at] == k.text[at] {
			at++
		}
		t.Errorf("%d bytes were typed, and %d came; from byte %d on %.80q, want %.80q", len(k.text), len(got), at, got[at:], k.text[at:])
	}
	t.Logf("typed: %d bytes", len(k.text))
	if _, err := m.client.API.Stop(context.Background(), &controlpb.StopRequest{Child: "typed", Now: true}); err != nil {
		t.Errorf("stop typed: %v", err)
	}
	m.over(t, "typed")
}
