package sinktest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/muxd/muxd/sink/sinkpb"
)

// Options say what to check, and how much of it. Command is required.
type Options struct {
	Command []string // the plugin's executable, by its path, and its arguments
	Env     []string // NAME=VALUE, in addition to what every plugin gets

	// Specs are the sink specs to check with, with the placeholders of the package's comment. Empty: those that are known for a
	// built-in sink, or what can be guessed from the plugin's description.
	Specs []string

	// Read says how what came out is found: one of the placeholders, "logs" (the plugin's own Logs), "none", or a shell
	// command that prints it, in which placeholders are replaced. Empty: as the placeholders of the spec say.
	Read string

	Only, Skip []string // the checks to run, or to leave out: an id, or what it begins with, up to a dot

	// Full does everything at its full size: 1 GiB at once, 10,000 openings, 1,000 streams, 100 kills. Otherwise a run takes seconds.
	Full bool

	Size         int64         // bytes of bytes.large; 0: 16 MiB, or 1 GiB with Full
	StartTimeout time.Duration // from the start to the handshake; 0: 10 s, as muxd's default
	Timeout      time.Duration // of anything else that is waited for; 0: 30 s
	Parallel     int           // checks at once; 0: as many as there are processors, and one more

	Seed int64 // of the random moments; 0: another every time

	reaper *reaper
}

// Outcome is what became of a check.
type Outcome string

const (
	Passed        Outcome = "passed"
	Failed        Outcome = "failed"
	NotApplicable Outcome = "not applicable"
)

// Result is a check of a plugin, or of a plugin with a spec.
type Result struct {
	ID      string        `json:"id"` // stable
	Spec    string        `json:"spec,omitempty"`
	Outcome Outcome       `json:"outcome"`
	Expect  string        `json:"expect"`           // what is expected of the plugin
	Detail  string        `json:"detail,omitempty"` // what was found instead, or why the check does not apply
	Took    time.Duration `json:"nanoseconds"`
}

// Report is all that a run found.
type Report struct {
	Plugin  string   `json:"plugin"` // the name it gives itself; empty where it could not be started
	Version string   `json:"version,omitempty"`
	Command []string `json:"command"`
	Results []Result `json:"results"`
}

// Count is how many of the results are of that outcome.
func (r *Report) Count(o Outcome) int {
	n := 0
	for _, x := range r.Results {
		if x.Outcome == o {
			n++
		}
	}
	return n
}

// Info describes a check.
type Info struct {
	ID      string `json:"id"`
	Expect  string `json:"expect"`
	PerSpec bool   `json:"per_spec"` // it is done with each spec
}

// Checks lists all checks, in their order.
func Checks() []Info {
	var out []Info
	for _, c := range allChecks() {
		out = append(out, Info{c.id, c.expect, c.about != aPlugin})
	}
	return out
}

// Known says whether id is a check's, or the group's of several.
func Known(id string) bool {
	return slices.ContainsFunc(allChecks(), func(c *check) bool { return matches(c.id, id) })
}

// check is one thing that muxd relies on.
type check struct {
	id     string
	expect string
	about  about
	run    func(s *session) error
}

// T is what Run needs of a *testing.T, which is one.
type T[Self any] interface {
	Helper()
	Fatal(args ...any)
	Skip(args ...any)
	Parallel()
	Cleanup(func())
	Run(name string, f func(Self)) bool
}

// Run checks a plugin in a Go test: each check is a subtest, which runs in parallel with others, and one that does not apply is
// skipped.
func Run[Self T[Self]](t Self, o Options) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	t.Cleanup(cancel)
	k, err := newKit(ctx, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(k.close)
	for _, j := range k.jobs {
		name := j.check.id
		if j.target != nil {
			name += "/" + strings.ReplaceAll(j.target.text, "/", "|")
		}
		t.Run(name, func(t Self) {
			t.Helper()
			t.Parallel()
			switch r := k.do(ctx, j); r.Outcome {
			case Failed:
				t.Fatal(fmt.Sprintf("%s\nwant: %s", r.Detail, r.Expect))
			case NotApplicable:
				t.Skip(r.Detail)
			}
		})
	}
}

// notApplicable is the error of a check that does not apply.
type notApplicable string

func (n notApplicable) Error() string { return string(n) }

// session is one run of one check.
type session struct {
	context.Context
	o      *Options
	dir    string
	desc   *sinkpb.Description
	target *target // nil for checks of the plugin as a whole
	hosts  []*host
	places int
}

// Check checks a plugin and reports what it found. It blocks until everything is done, or ctx is. The error says why nothing could be checked;
// that a plugin fails is no error. report, which may be nil, is called with the results in their order, each as soon as it and
// those before it stand, by one goroutine at a time.
func Check(ctx context.Context, o Options, report func(Result)) (*Report, error) {
	k, err := newKit(ctx, o)
	if err != nil {
		return nil, err
	}
	defer k.close()
	rep := &Report{Command: o.Command}
	if k.desc != nil {
		rep.Plugin, rep.Version = k.desc.Name, k.desc.Version
	}
	rep.Results = make([]Result, len(k.jobs))
	stands := make([]bool, len(k.jobs))
	var mu sync.Mutex
	next, reported := 0, 0
	var work sync.WaitGroup
	for range k.o.Parallel {
		work.Go(func() {
			for {
				mu.Lock()
				i := next
				next++
				mu.Unlock()
				if i >= len(k.jobs) || ctx.Err() != nil {
					return
				}
				r := k.do(ctx, k.jobs[i])
				mu.Lock()
				rep.Results[i], stands[i] = r, true
				for report != nil && reported < len(stands) && stands[reported] {
					report(rep.Results[reported])
					reported++
				}
				mu.Unlock()
			}
		})
	}
	work.Wait()
	return rep, ctx.Err()
}

// kit is one run of the checks.
type kit struct {
	o    *Options
	dir  string
	desc *sinkpb.Description // nil where the plugin could not be started
	jobs []job
	mu   sync.Mutex
	done int
}

// job is a check with a target, or without one.
type job struct {
	check  *check
	target *target
}

// newKit starts the plugin once, to know what to check it with. A plugin that cannot be started is no error: the checks say why.
func newKit(ctx context.Context, o Options) (*kit, error) {
	if err := o.complete(); err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", "sinktest-")
	if err != nil {
		return nil, err
	}
	if o.reaper, err = startReaper(dir); err != nil {
		os.RemoveAll(dir)
		return nil, err
	}
	k := &kit{o: &o, dir: dir}
	var all []*target
	if k.desc, err = k.look(ctx); err == nil {
		if all, err = targets(&o, k.desc); err == nil {
			err = k.ask(ctx, all)
		}
		if err != nil {
			k.close()
			return nil, err
		}
	}
	for _, c := range allChecks() {
		switch {
		case !o.wants(c.id):
		case c.about == aPlugin:
			k.jobs = append(k.jobs, job{check: c})
		default:
			for _, t := range all {
				k.jobs = append(k.jobs, job{c, t})
			}
		}
	}
	if len(k.jobs) == 0 {
		k.close()
		return nil, errors.New("no check is left: see which there are, and what was asked for")
	}
	return k, nil
}

// complete fills in what the options leave open.
func (o *Options) complete() error {
	if len(o.Command) == 0 {
		return errors.New("no plugin was named")
	}
	path, err := filepath.Abs(o.Command[0])
	if err != nil {
		return err
	}
	st, err := os.Stat(path)
	switch {
	case err != nil:
		return err
	case st.IsDir():
		return fmt.Errorf("%s is a directory; name the plugin's executable", path)
	case st.Mode()&0o111 == 0:
		return fmt.Errorf("%s is not executable", path)
	}
	o.Command = append([]string{path}, o.Command[1:]...)
	if o.Size == 0 {
		o.Size = 16 << 20
		if o.Full {
			o.Size = 1 << 30
		}
	}
	o.StartTimeout = orElse(o.StartTimeout, 10*time.Second)
	o.Timeout = orElse(o.Timeout, 30*time.Second)
	o.Parallel = orElse(o.Parallel, runtime.GOMAXPROCS(0)+1)
	o.Seed = orElse(o.Seed, time.Now().UnixNano())
	for _, id := range slices.Concat(o.Only, o.Skip) {
		if !Known(id) {
			return fmt.Errorf("there is no check %q", id)
		}
	}
	return nil
}

func orElse[T comparable](v, other T) T {
	var zero T
	if v == zero {
		return other
	}
	return v
}

// wants says whether a check is to be run.
func (o *Options) wants(id string) bool {
	in := func(list []string) bool {
		return slices.ContainsFunc(list, func(want string) bool { return matches(id, want) })
	}
	return (len(o.Only) == 0 || in(o.Only)) && !in(o.Skip)
}

// matches says whether the check id is meant by want.
func matches(id, want string) bool { return id == want || strings.HasPrefix(id, want+".") }

// look starts the plugin and asks it what it is.
func (k *kit) look(ctx context.Context) (*sinkpb.Description, error) {
	ctx, cancel := context.WithTimeout(ctx, k.o.Timeout)
	defer cancel()
	s := k.session(ctx, nil)
	defer s.close()
	h, err := s.host()
	if err != nil {
		return nil, err
	}
	return h.describe(ctx)
}

// ask has the plugin judge every target.
func (k *kit) ask(ctx context.Context, all []*target) error {
	ctx, cancel := context.WithTimeout(ctx, k.o.Timeout)
	defer cancel()
	s := k.session(ctx, nil)
	defer s.close()
	h, err := s.host()
	if err != nil {
		return err
	}
	for _, t := range all {
		p, err := s.place(t)
		if err != nil {
			return err
		}
		resp, err := h.p.sinks.Check(ctx, &sinkpb.CheckRequest{Spec: t.wire(p), Child: child("check"), Streams: t.streams()})
		if err != nil {
			return fmt.Errorf("the plugin refuses the spec %s: %w; give one that works with --spec", t.text, err)
		}
		t.wiring, t.exact, t.drops = resp.Wiring, resp.Exact, resp.Drops
	}
	return nil
}

// streams are those that most checks open.
func (t *target) streams() []sinkpb.Stream { return []sinkpb.Stream{t.out} }

// session begins a run of a check.
func (k *kit) session(ctx context.Context, t *target) *session {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.done++
	return &session{Context: ctx, o: k.o, dir: filepath.Join(k.dir, fmt.Sprint(k.done)), desc: k.desc, target: t}
}

// do does a check.
func (k *kit) do(ctx context.Context, j job) Result {
	r := Result{ID: j.check.id, Expect: j.check.expect, Outcome: Passed}
	if j.target != nil {
		r.Spec = j.target.text
	}
	begun := time.Now()
	limit := 4 * k.o.Timeout // what is waited for inside has the limit, each
	if k.o.Full {
		limit *= 10
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	s := k.session(ctx, j.target)
	err := j.check.about.of(s)
	if err == nil {
		err = j.check.run(s)
	}
	if err != nil {
		r.Outcome, r.Detail = Failed, err.Error()
		var na notApplicable
		if errors.As(err, &na) {
			r.Outcome, r.Detail = NotApplicable, string(na)
		} else {
			r.Detail += s.logs()
		}
	}
	s.close()
	r.Took = time.Since(begun)
	return r
}

func (k *kit) close() { k.o.reaper.close() }

// host starts a plugin as muxd does.
func (s *session) host() (*host, error) {
	h := s.unstarted()
	return h, h.start(s, startAs{})
}

// unstarted is a host whose plugin has not been started.
func (s *session) unstarted() *host {
	dir := filepath.Join(s.dir, fmt.Sprintf("h%d", len(s.hosts)))
	os.MkdirAll(dir, 0o700)
	h := newHost(s.o, dir)
	s.hosts = append(s.hosts, h)
	return h
}

// place makes the place of another opening.
func (s *session) place(t *target) (*place, error) {
	s.places++
	return newPlace(filepath.Join(s.dir, fmt.Sprintf("o%d", s.places)), t)
}

// soon is a context for one thing that is waited for.
func (s *session) soon() (context.Context, context.CancelFunc) { return s.within(s.o.Timeout) }

func (s *session) within(d time.Duration) (context.Context, context.CancelFunc) {
	return context.WithTimeoutCause(s, d, fmt.Errorf("not within %v", d))
}

// logs is what the processes of the session have logged last, for an error.
func (s *session) logs() string {
	for _, h := range slices.Backward(s.hosts) {
		if h.p != nil {
			if text := h.p.log.String(); text != "" {
				return "; its log says " + fmt.Sprintf("%.300q", text)
			}
		}
	}
	return ""
}

// close ends what the session has started.
func (s *session) close() {
	for _, h := range s.hosts {
		h.end()
	}
	os.RemoveAll(s.dir)
}
