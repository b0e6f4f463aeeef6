package chaos

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/muxd/muxd/control"
	"github.com/muxd/muxd/control/controlpb"
)

var (
	killsWanted = flag.Int("kills", 60, "how many processes to kill")
	seedWanted  = flag.Uint64("seed", 0, "of everything random; 0: by the clock")
)

// writerEnv makes this binary a child that writes: its kind, the seed of its data, and the file whose appearance ends it.
const writerEnv = "CHAOS_WRITER"

func TestMain(m *testing.M) {
	if spec := os.Getenv(writerEnv); spec != "" {
		os.Exit(writer(spec))
	}
	flag.Parse()
	var err error
	if bin, err = os.MkdirTemp("/tmp", "mxb"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	code := m.Run()
	os.RemoveAll(bin)
	os.Exit(code)
}

// bin is where the muxd of these tests is built. TestMain sets it before any test runs.
var bin string

// built is the path of the muxd that these tests run, which ends at steps on request.
var built = sync.OnceValues(func() (path string, err error) {
	path = filepath.Join(bin, "muxd")
	build := exec.Command("go", "build", "-tags", "muxd_chaos", "-o", path, "github.com/muxd/muxd/cmd/muxd")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build muxd: %w\n%s", err, out)
	}
	return path, nil
})

// result is what a child has to come out as.
type result struct {
	name, kind, spec string
	seed             uint64
	status           int
	also             string    // a second sink of its stdout, where there is one
	moves            bool      // its stdout goes from sink to sink
	stop             string    // the file that ends the child
	count            string    // where the child says how many records it has written
	started          *exec.Cmd // by the test itself, and adopted; nil: muxd has spawned it
}

// TestChaos kills keeper, agent and plugins at random, also keeper and agent together, and plugins at chosen steps of the staging protocol,
// or stops them there, under children of every kind, sink and format. Afterwards every record is there once and in order, every
// exit status is right, and nothing is left.
func TestChaos(t *testing.T) {
	t.Parallel()
	seed := *seedWanted
	if seed == 0 {
		seed = uint64(time.Now().UnixNano())
	}
	t.Logf("seed %d: go test ./chaos -seed %d -kills %d", seed, seed, *killsWanted)
	random := rand.New(rand.NewPCG(seed, 1))
	m := start(t)
	before := m.warm(t)
	dir := t.TempDir()
	var all []*result
	add := func(kind, spec string) {
		r := &result{
			name: fmt.Sprintf("c%d", len(all)), kind: kind, seed: random.Uint64(), status: random.IntN(100),
		}
		r.stop, r.count = filepath.Join(dir, r.name+".stop"), filepath.Join(dir, r.name+".count")
		r.spec = strings.ReplaceAll(spec, "OUT", filepath.Join(dir, r.name))
		all = append(all, r)
	}
	for _, kind := range []string{"small", "big", "burst", "binary"} {
		add(kind, "file:OUT,format=raw")
	}
	for _, kind := range []string{"small", "big", "burst"} {
		add(kind, "file:OUT,format=cri")
	}
	add("small", "file:OUT,format=cri,sync=always")
	add("burst", "file:OUT,format=json-file")
	add("small", "file:OUT,format=tai64n")
	add("small", "file:OUT,format=iso")
	add("burst", "file:OUT,format=raw,max-size=64KiB,compress=gzip")
	add("burst", "file:OUT,format=raw")
	all[len(all)-1].also = "file:" + filepath.Join(dir, "branch") + ",format=cri,branch=spill"
	copied := all[len(all)-1]
	added := &adder{mover: mover{child: copied.name, stream: "stdout"}}
	moved := &mover{child: fmt.Sprint("c", len(all)), stream: "stdout"}
	add("small", rawFile(moved.next(dir)))
	all[len(all)-1].moves = true
	add("small", "file:OUT,format=raw")
	adopted := all[len(all)-1]
	for i, kind := range []string{"small", "burst", "small", "big"} {
		add(kind, "socket:unix:OUT,framing="+[]string{"raw", "lines", "docker", "json"}[i])
	}
	add("small", "socket:listen=unix:OUT")
	hurry := make(chan struct{})
	add("burst", "socket:unix:OUT,framing=lines,policy=drop-oldest,queue=128KiB")
	slow := all[len(all)-1]
	full := newDisk(t, filepath.Join(dir, "disk"), 64<<20+*killsWanted<<20)
	var cramped *result
	if full != nil {
		add("tick", "file:"+full.dir+"/log,format=cri,policy=drop-oldest,queue=256KiB")
		cramped = all[len(all)-1]
		m.ails[cramped.name] = true
	}
	m.ails[slow.name] = true
	logged := &mover{child: fmt.Sprint("c", len(all)), stream: "console/1"}
	add("burst", "pty,scrollback=64MiB,log="+strings.ReplaceAll(rawFile(logged.next(dir)), ",", `\,`))
	console := all[len(all)-1]
	m.openings["file"]++ // its log
	alsoShown := &adder{mover: mover{child: console.name, stream: "console"}}
	peers := map[*result]*peer{}
	for _, r := range all {
		if path, ok := strings.CutPrefix(r.spec, "socket:unix:"); ok {
			path, _, _ = strings.Cut(path, ",")
			if r == slow {
				peers[r] = acceptSlowly(t, path, hurry)
			} else {
				peers[r] = accept(t, path)
			}
		}
		if r == adopted {
			m.adopt(t, r)
		} else {
			m.spawn(t, r)
		}
		if path, ok := strings.CutPrefix(r.spec, "socket:listen=unix:"); ok {
			peers[r] = connect(path)
		}
	}
	viewer := m.view(t, console.name)
	typed := m.typeInto(t, dir)

	var deck []string // deaths, shuffled: each comes
	kills := 0
	spent := map[string]time.Duration{}
	for kills < *killsWanted {
		begun := time.Now()
		time.Sleep(time.Duration(random.IntN(60)) * time.Millisecond) // when the kill comes, not a wait for anything
		if len(deck) == 0 {
			deck = slices.Clone(deaths)
			random.Shuffle(len(deck), func(i, j int) { deck[i], deck[j] = deck[j], deck[i] })
		}
		who := deck[0]
		deck = deck[1:]
		before := uint32(0)
		if who == "keeper" || who == "both" { // the plugins are well, and this death is over before the next
			before = m.settle(t, 0)
		}
		later := func() { // kills somebody while something else goes on
			victim, wait := []string{"agent", "file", "fanout"}[random.IntN(3)], time.Duration(random.IntN(40))*time.Millisecond
			pid := m.pid(t, victim)
			time.Sleep(wait) // when the kill comes, not a wait for anything
			if pid > 1 && unix.Kill(pid, unix.SIGKILL) == nil {
				kills++
			}
		}
		switch {
		case who == "move":
			[]*mover{moved, logged}[random.IntN(2)].move(t, m, dir, later)
		case who == "branch":
			[]*adder{added, alsoShown}[random.IntN(2)].change(t, m, dir, later)
		case who == "full":
			if full != nil {
				full.toggle(t)
			}
		case who == "upgrade":
			m.settle(t, 0)
			m.upgrade(t, later)
		case who == "step":
			if m.killAt(t, carriers[random.IntN(len(carriers))], stageSteps[random.IntN(len(stageSteps))], random.IntN(8) == 0) {
				kills++
			}
		case who == "both":
			m.killBoth(t, random)
			kills += 2
		case m.kill(t, who):
			kills++
		}
		if who == "keeper" || who == "both" {
			m.settle(t, before)
		}
		spent[who] += time.Since(begun)
	}
	t.Logf("time spent: %v", spent)
	for _, plugin := range append(carriers, "fanout") { // whatever died too often waits for a person
		if _, err := m.client.API.RestartPlugin(context.Background(), &controlpb.RestartPluginRequest{Name: plugin}); err != nil {
			t.Fatalf("restart plugin %s: %v", plugin, err)
		}
	}
	if full != nil && full.full {
		full.toggle(t)
	}
	close(hurry)
	for _, r := range all {
		if err := os.WriteFile(r.stop, nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	typed.end(t, m)
	dropped := map[*result]uint64{}
	for _, r := range all {
		c := m.over(t, r.name)
		dropped[r] = droppedOf(c)
		if r == adopted {
			r.started.Wait()
			if got := r.started.ProcessState.ExitCode(); got != r.status {
				t.Errorf("%s: status %d, want %d", r.name, got, r.status)
			}
		} else if ws := unix.WaitStatus(c.Status); !c.StatusKnown || ws.ExitStatus() != r.status {
			t.Errorf("%s: status %v (known %v), want %d", r.name, ws, c.StatusKnown, r.status)
		}
	}
	raw := viewer.end(t)
	m.nothingHeld(t, before)
	m.stop(t)
	for _, r := range all { // now nothing is compressed any more
		var out []byte
		var err error
		switch r {
		case slow:
			select {
			case <-peers[r].done:
			case <-time.After(60 * time.Second):
				t.Errorf("%s: the connection does not end", r.name)
				continue
			}
			r.checkGaps(t, bytes.Join(peers[r].conns, nil), dropped[r])
			continue
		case cramped:
			out, err = os.ReadFile(full.dir + "/log")
			r.checkGaps(t, fromCRI(t, out), dropped[r])
		case console:
			r.check(t, plainNewlines(raw))
			out, err = logged.read()
			r.check(t, plainNewlines(out))
			alsoShown.check(t, raw)
		case copied:
			if out, err = r.read(dir); err == nil {
				added.check(t, out)
			}
			r.check(t, out)
		default:
			if peers[r] != nil {
				peers[r].check(t, r)
				continue
			}
			if r.name == moved.child {
				out, err = moved.read()
			} else {
				out, err = r.read(dir)
			}
			r.check(t, decode(t, r.spec, out))
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	branch, err := os.ReadFile(filepath.Join(dir, "branch"))
	if err != nil {
		t.Fatal(err)
	}
	copied.check(t, fromCRI(t, branch))
	t.Logf("%d kills, %d and %d files of streams that moved", kills, len(moved.files), len(logged.files))
}

// plainNewlines is what was written to a terminal that has shown out.
func plainNewlines(out []byte) []byte { return bytes.ReplaceAll(out, []byte("\r\n"), []byte("\n")) }

// deaths are who may die, and what is done while somebody does.
var deaths = []string{
	"agent", "file", "pty", "socket", "fanout", "step", "step", "step", "agent", "file", "pty", "step",
	"move", "branch", "move", "branch", "full", "keeper", "both", "upgrade",
}

// read reads what a file has, with those that it was rotated to before it.
func (r *result) read(dir string) ([]byte, error) {
	older, err := filepath.Glob(filepath.Join(dir, r.name+".20*"))
	if err != nil {
		return nil, err
	}
	var out []byte
	for _, path := range older { // in the order of their names, as Glob has them
		if strings.HasSuffix(path, ".part") || slices.Contains(older, strings.TrimSuffix(path, ".gz")) && strings.HasSuffix(path, ".gz") {
			continue
		}
		b, err := os.ReadFile(path)
		if err == nil && strings.HasSuffix(path, ".gz") {
			b, err = exec.Command("gzip", "-dc", path).Output()
		}
		if err != nil {
			return nil, err
		}
		out = append(out, b...)
	}
	b, err := os.ReadFile(filepath.Join(dir, r.name))
	return append(out, b...), err
}

// muxd is a muxd of the test's own.
type muxd struct {
	bin, dir string
	home     string            // all that is this muxd's
	steps    string            // where it reads at which step to end
	ended    []<-chan struct{} // one for each process that was started here: closed when it is reaped
	log      *os.File
	client   *control.Client
	dead     map[string]int32 // the process of each plugin that was killed last
	openings map[string]int   // of each plugin
	ails     map[string]bool  // children whose sinks have trouble that is none of muxd's
}

func start(t *testing.T) *muxd {
	dir, err := os.MkdirTemp("/tmp", "mxc")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	own := filepath.Join(dir, "muxd")
	if path, err := built(); err != nil {
		t.Fatal(err)
	} else if err := os.Link(path, own); err != nil {
		t.Fatal(err)
	}
	m := &muxd{dead: map[string]int32{}, openings: map[string]int{}, ails: map[string]bool{}, bin: own, home: dir, steps: t.TempDir(), dir: filepath.Join(dir, "run")}
	config := "[agent]\nplugin_hang = \"1s\"\n"
	for _, plugin := range carriers {
		config += fmt.Sprintf("[plugins.%s]\nenv = { MUXD_CHAOS_STEPS = %q }\n", plugin, m.stepFile(plugin))
	}
	if err := os.WriteFile(filepath.Join(dir, "config.toml"), []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(dir, "tmp"), 0o700); err != nil {
		t.Fatal(err)
	}
	if m.log, err = os.Create(filepath.Join(dir, "log")); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { m.log.Close() })
	if m.client, err = control.Dial(filepath.Join(m.dir, "control.sock")); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			b, _ := os.ReadFile(m.log.Name())
			t.Logf("the log of muxd:\n%s", b[max(0, len(b)-8000):])
		}
		m.client.API.Shutdown(context.Background(), &controlpb.ShutdownRequest{Now: true}) // where the test has not done it
		m.client.Close()
		for _, ended := range m.ended {
			<-ended
		}
	})
	m.up(t)
	for deadline := time.Now().Add(20 * time.Second); ; {
		_, err := m.client.API.Status(context.Background(), &controlpb.StatusRequest{})
		if err == nil {
			return m
		}
		if time.Now().After(deadline) {
			t.Fatalf("muxd does not answer: %v", err)
		}
		time.Sleep(10 * time.Millisecond) // polling for what the deadline bounds
	}
}

// up starts a muxd, and returns its pid, and what is closed when it has ended.
func (m *muxd) up(t *testing.T) (pid int, ended <-chan struct{}) {
	cmd := exec.Command(m.bin, "--runtime-dir", m.dir, "--config", filepath.Join(m.home, "config.toml"))
	cmd.Env = append(os.Environ(), "TMPDIR="+filepath.Join(m.home, "tmp"))
	cmd.Stderr = m.log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		cmd.Wait()
	}()
	m.ended = append(m.ended, done)
	return cmd.Process.Pid, done
}

// killBoth kills keeper and agent in one moment, and starts another muxd, which it may kill in the same way while that takes over.
func (m *muxd) killBoth(t *testing.T, random *rand.Rand) {
	s, err := m.client.API.Status(context.Background(), &controlpb.StatusRequest{})
	if err != nil {
		t.Fatalf("status: %v", err)
	}
	killTogether(int(s.KeeperPid), int(s.AgentPid))
	for random.IntN(2) == 0 {
		keeper, ended := m.up(t)
		time.Sleep(time.Duration(random.IntN(40)) * time.Millisecond) // when the kill comes, not a wait for anything
		unix.Kill(keeper, unix.SIGSTOP)                               // so that it starts no other agent
		killTogether(keeper, agentOf(keeper))
		<-ended
	}
	keeper, ended := m.up(t)
	for deadline := time.Now().Add(20 * time.Second); ; {
		ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
		s, err := m.client.API.Status(ctx, &controlpb.StatusRequest{})
		cancel()
		if err == nil && int(s.KeeperPid) == keeper {
			return
		}
		select {
		case <-ended: // the one before was not quite gone: a supervisor tries again too
			keeper, ended = m.up(t)
		default:
		}
		if time.Now().After(deadline) {
			t.Fatalf("no other muxd answers: %v", err)
		}
	}
}

// killTogether kills keeper and agent, neither of which sees the other die.
func killTogether(keeper, agent int) {
	for _, sig := range []unix.Signal{unix.SIGSTOP, unix.SIGKILL} {
		for _, pid := range []int{keeper, agent} {
			if pid > 1 {
				unix.Kill(pid, sig)
			}
		}
	}
}

// agentOf returns the pid of the agent of a keeper that is stopped, 0 where there is none.
func agentOf(keeper int) int {
	stats, _ := filepath.Glob("/proc/[0-9]*/stat")
	for _, path := range stats {
		b, err := os.ReadFile(path)
		if err != nil {
			continue
		}
		var state string
		var parent int
		fmt.Sscan(string(b[bytes.LastIndexByte(b, ')')+1:]), &state, &parent) // proc_pid_stat(5)
		line, _ := os.ReadFile(filepath.Join(filepath.Dir(path), "cmdline"))
		if parent == keeper && bytes.Contains(line, []byte("\x00agent\x00")) {
			pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(path)))
			return pid
		}
	}
	return 0
}

// environment is what makes this binary r's child.
func (r *result) environment(t *testing.T) string {
	deadline, ok := t.Deadline() // a child whose test was killed does not go on for ever
	if !ok {
		deadline = time.Now().Add(time.Hour)
	}
	return fmt.Sprintf("%s=%s %d %d %d %s %s", writerEnv, r.kind, r.seed, r.status, deadline.Unix(), r.stop, r.count)
}

func (m *muxd) spawn(t *testing.T, r *result) {
	cs := &controlpb.ChildSpec{
		Name: r.name, Argv: [][]byte{[]byte(os.Args[0])}, Cwd: []byte("/"),
		Env:   [][]byte{[]byte(r.environment(t))},
		Sinks: []*controlpb.SinkChoice{{Spec: r.spec}},
	}
	if r.moves {
		cs.Sinks = []*controlpb.SinkChoice{{Stream: "stdout", Spec: r.spec}, {Stream: "stderr", Spec: "null"}}
	}
	if r.also != "" {
		cs.Sinks = []*controlpb.SinkChoice{{Stream: "stdout", Spec: r.spec}, {Stream: "stdout", Spec: r.also}, {Stream: "stderr", Spec: "null"}}
		m.openings["fanout"]++
		m.openings["file"]++
	}
	if _, err := m.client.Spawn(context.Background(), cs); err != nil {
		t.Fatalf("spawn %s: %v", r.name, err)
	}
	plugin, _, _ := strings.Cut(strings.ReplaceAll(r.spec, ",", ":"), ":")
	m.openings[plugin]++
}

// settle waits until every plugin runs, every stream is served, and the keeper is another than the one before. It returns
// the keeper's pid.
func (m *muxd) settle(t *testing.T, before uint32) uint32 {
	for deadline := time.Now().Add(20 * time.Second); ; {
		wrong := ""
		s, err := m.client.API.Status(context.Background(), &controlpb.StatusRequest{})
		if err != nil {
			t.Fatalf("status: %v", err)
		}
		keeper := uint32(s.KeeperPid)
		if keeper == before || keeper == 1 { // the agent has not noticed that it has no parent any more
			wrong = "the keeper is gone"
		}
		plugins, err := m.client.API.Plugins(context.Background(), &controlpb.PluginsRequest{})
		if err != nil {
			t.Fatalf("plugins: %v", err)
		}
		for _, p := range plugins.Plugins {
			if m.openings[p.Name] > 0 && (p.State != "running" || p.Pid == m.dead[p.Name] || int(p.Openings) != m.openings[p.Name]) {
				wrong = fmt.Sprintf("%s, pid %d, is %s, and serves %d openings of %d", p.Name, p.Pid, p.State, p.Openings, m.openings[p.Name])
			}
			if strings.Contains(p.Error, "muxctl plugin restart") {
				m.client.API.RestartPlugin(context.Background(), &controlpb.RestartPluginRequest{Name: p.Name})
			}
		}
		children, err := m.client.API.List(context.Background(), &controlpb.ListRequest{})
		if err != nil {
			t.Fatalf("list: %v", err)
		}
		for _, c := range children.Children {
			for _, s := range c.Sinks {
				if s.Error != "" && !m.ails[c.Name] {
					wrong = c.Name + ", " + s.Spec + ": " + s.Error
				}
			}
		}
		if wrong == "" {
			return keeper
		}
		if time.Now().After(deadline) {
			for _, c := range children.Children {
				for _, s := range c.Sinks {
					t.Logf("%s: %s/%d at %s is %s, %d bytes", c.Name, s.Stream, s.Branch, s.Spec, s.State, s.Bytes)
				}
			}
			t.Fatalf("muxd does not settle: %s", wrong)
		}
		time.Sleep(5 * time.Millisecond) // polling for what the deadline bounds
	}
}

// kill sends SIGKILL to the keeper, the agent, or a plugin that runs.
func (m *muxd) kill(t *testing.T, who string) bool {
	pid := m.pid(t, who)
	m.dead[who] = int32(pid)
	return pid > 1 && unix.Kill(pid, unix.SIGKILL) == nil
}

// pid is the process of the keeper, the agent or a plugin; 0 where none runs. A plugin that died too often is started again.
func (m *muxd) pid(t *testing.T, who string) int {
	if who == "agent" || who == "keeper" {
		s, err := m.client.API.Status(context.Background(), &controlpb.StatusRequest{})
		if err != nil {
			t.Fatalf("status: %v", err)
		}
		if who == "keeper" {
			return int(s.KeeperPid)
		}
		return int(s.AgentPid)
	}
	return m.pluginPID(t, who)
}

// stop ends muxd, and says whether it left anything.
func (m *muxd) stop(t *testing.T) {
	if _, err := m.client.API.Shutdown(context.Background(), &controlpb.ShutdownRequest{}); err != nil {
		t.Errorf("stop muxd: %v", err)
	}
	for deadline := time.Now().Add(10 * time.Second); ; {
		_, err := os.Stat(m.dir)
		if errors.Is(err, os.ErrNotExist) {
			break
		}
		if time.Now().After(deadline) {
			t.Errorf("the runtime directory is still there: %v", err)
			return
		}
		time.Sleep(10 * time.Millisecond) // polling for what the deadline bounds
	}
	m.nothingLeft(t)
}

// watcher collects what a viewer of a console sees.
type watcher struct {
	v    *control.Viewer
	came func()
	mu   sync.Mutex
	out  []byte
	bad  string
	done chan struct{}
}

func (m *muxd) view(t *testing.T, child string) *watcher { return m.viewAs(t, child, func() {}) }

// viewAs is view, and tells of all that comes.
func (m *muxd) viewAs(t *testing.T, child string, came func()) *watcher {
	v, err := m.client.Attach(context.Background(), child, control.AttachOptions{Replay: "all"})
	if err != nil {
		t.Fatal(err)
	}
	w := &watcher{v: v, came: came, done: make(chan struct{})}
	go w.run()
	return w
}

func (w *watcher) run() {
	defer close(w.done)
	for {
		ev, err := w.v.Recv()
		w.came()
		w.mu.Lock()
		switch {
		case err != nil:
			if !errors.Is(err, io.EOF) {
				w.bad = err.Error()
			}
			w.mu.Unlock()
			return
		case ev.Kind == control.ViewerOutput && ev.Offset != uint64(len(w.out)) && len(ev.Data) > 0:
			w.bad = fmt.Sprintf("output at %d, and %d bytes have come", ev.Offset, len(w.out))
		case ev.Kind == control.ViewerOutput, ev.Kind == control.ViewerRedraw:
			w.out = append(w.out, ev.Data...)
		}
		w.mu.Unlock()
	}
}

// end waits until the console has ended, and returns what was seen.
func (w *watcher) end(t *testing.T) []byte {
	select {
	case <-w.done:
	case <-time.After(30 * time.Second):
		t.Error("the viewer does not end")
	}
	w.v.Close()
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.bad != "" {
		t.Errorf("viewer: %s", w.bad)
	}
	return w.out
}
