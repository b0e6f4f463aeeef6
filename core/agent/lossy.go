package agent

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/muxd/muxd/core/host"
	"github.com/muxd/muxd/internal/fd"
	"github.com/muxd/muxd/internal/gaps"
	"github.com/muxd/muxd/internal/nearest"
	"github.com/muxd/muxd/internal/spec"
	"github.com/muxd/muxd/sink/sinkpb"
)

// branching is what a spec says of its sink as a branch: options that are the core's and no sink's.
type branching struct {
	policy sinkpb.Policy
	spill  uint64 // how large the file is that a branch spills to, bytes
	dir    string // where it is made
}

// branchOption is the first of these options, which makes a branch of the only sink of a stream too.
const branchOption = "branch"

const (
	spillOption = "branch-queue"
	dirOption   = "branch-dir"

	spillUsual = 64 << 20
	spillLeast = 1 << 20 // what a stage of the plugin that copies holds at most
	spillMost  = 1 << 40
	spillDir   = "/var/tmp"
)

// branchOptions declare them.
var branchOptions = []*sinkpb.Option{
	{
		Name: branchOption, Type: sinkpb.Option_ENUM, Values: []string{"block", "drop-oldest", "drop-newest", "spill"},
		Help: "of a stream with several sinks: what happens when this one is slow. block: the child waits, and the others do; drop-...: output is dropped for this one, and counted; spill: a file keeps it, whose oldest is dropped when it is full",
	},
	{Name: spillOption, Type: sinkpb.Option_SIZE, Help: "with branch=spill: how large that file is, which is reserved at the start; 64MiB"},
	{Name: dirOption, Type: sinkpb.Option_PATH, Help: "with branch=spill: where it is made, without a name; " + spillDir},
}

var policies = map[string]sinkpb.Policy{
	"block": sinkpb.Policy_BLOCK, "drop-oldest": sinkpb.Policy_DROP_OLDEST, "drop-newest": sinkpb.Policy_DROP_NEWEST, "spill": sinkpb.Policy_SPILL,
}

// policyName is the value of branchOption that means p.
func policyName(p sinkpb.Policy) string {
	return strings.ReplaceAll(strings.ToLower(p.String()), "_", "-")
}

// takeBranching takes these options out of s. Relative paths are below cwd.
func takeBranching(s spec.Spec, cwd string) (b branching, err error) {
	fail := func(format string, args ...any) (branching, error) {
		return branching{}, fmt.Errorf("sink %s: %w", s.Name, fmt.Errorf(format, args...))
	}
	text, given := s.Options[branchOption]
	size, sized := s.Options[spillOption]
	dir, placed := s.Options[dirOption]
	delete(s.Options, branchOption)
	delete(s.Options, spillOption)
	delete(s.Options, dirOption)
	if given {
		var ok bool
		if b.policy, ok = policies[text]; !ok {
			names := branchOptions[0].Values
			return fail("%s=%s: want one of %s%s", branchOption, text, strings.Join(names, ", "), nearest.Hint(text, names))
		}
	}
	if b.policy != sinkpb.Policy_SPILL {
		if sized || placed {
			return fail("%s= and %s= are about the file of %s=spill, and do nothing without it", spillOption, dirOption, branchOption)
		}
		return b, nil
	}
	b.spill, b.dir = spillUsual, spillDir
	if sized {
		n, err := optionOf(branchOptions[1]).Parse(size)
		if err != nil {
			return fail("%w", err)
		}
		if b.spill = uint64(n.(int64)); b.spill < spillLeast || b.spill > spillMost {
			return fail("%s=%s: want 1MiB to 1TiB", spillOption, size)
		}
	}
	if placed {
		if b.dir = dir; !filepath.IsAbs(dir) {
			b.dir = filepath.Join("/", cwd, dir)
		}
	}
	return b, nil
}

// loses says whether a branch may lose some of its stream. Then what copies the stream and the branch's sink have a memory in common that
// says what (internal/gaps). The keeper has it too, as that of the branch and as that of the sink's opening, which may change.
func (b branching) loses() bool { return b.policy != sinkpb.Policy_BLOCK }

// Last parts of the keeper's names of what belongs to a branch.
const (
	inEnd    = "in"
	gapsEnd  = "gaps"
	spillEnd = "spill"
)

func (b branch) name(end string) string { return farPrefix(b.o.child.id()) + b.s.branch + "/" + end }

// gapsName is the keeper's name of the memory of what o, as a branch's sink, has not got.
func (o *opening) gapsName() string { return farPrefix(o.child.id()) + o.id + "/" + gapsEnd }

// ends are the last parts of the names of what whoever copies to b is given, in its order.
func (b branch) ends() []string {
	out := []string{inEnd}
	if b.s.as.loses() {
		out = append(out, gapsEnd)
	}
	if b.s.as.spill > 0 {
		out = append(out, spillEnd)
	}
	return out
}

// makeEnds makes what b has besides in, the write end of its pipe. keep gets all of it.
func (b branch) makeEnds(in *fd.FD, keep func(name string, f *fd.FD)) (ends []*fd.FD, err error) {
	for _, end := range b.ends() {
		f := in
		switch end {
		case gapsEnd:
			f, err = gaps.New()
		case spillEnd:
			f, err = b.s.as.makeSpill()
		}
		if err != nil {
			return nil, err
		}
		keep(b.name(end), f)
		ends = append(ends, f)
	}
	return ends, nil
}

// makeSpill makes the file of a branch that spills, which has no name and so goes with its last descriptor. All of its blocks are there
// from the beginning: a full disk is found out now.
func (b branching) makeSpill() (*fd.FD, error) {
	n, err := unix.Open(b.dir, unix.O_TMPFILE|unix.O_RDWR|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return nil, fmt.Errorf("make a spill file in %s: %w; choose another directory with %s=", b.dir, err, dirOption)
	}
	f := fd.New(n)
	if err := unix.Fallocate(n, 0, 0, int64(b.spill)); err != nil {
		f.Close()
		return nil, fmt.Errorf("reserve %d bytes for the spill file in %s: %w; choose another directory with %s=, or less with %s=", b.spill, b.dir, err, dirOption, spillOption)
	}
	return f, nil
}

// fetchEnds returns what b has of the keeper, owned by the caller.
func (a *Agent) fetchEnds(ctx context.Context, b branch) (ends []*fd.FD, err error) {
	for _, end := range b.ends() {
		f, fetchErr := a.keeper.Fetch(ctx, b.name(end))
		if fetchErr != nil {
			fd.CloseAll(ends)
			return nil, fetchErr
		}
		ends = append(ends, f)
	}
	return ends, nil
}

// takesGaps says whether o's sink, of plugin p, is given the memory of what it has not got.
func (o *opening) takesGaps(p *host.Plugin) bool {
	return o.choice.loses() && !o.choice.copies && p.Description().GetGaps()
}

// fetchGaps returns that memory, owned by the caller; nil where o's sink is given none.
func (a *Agent) fetchGaps(ctx context.Context, o *opening, p *host.Plugin) (*fd.FD, error) {
	if !o.takesGaps(p) {
		return nil, nil
	}
	f, err := a.keeper.Fetch(ctx, o.gapsName())
	if err != nil {
		return nil, fmt.Errorf("fetch the memory of what is dropped: %w", err)
	}
	return f, nil
}

// moveGaps has o's sink find where it begins in its branch, behind what the one of from has taken of it. Its plugin has noted that
// itself, where it knows of the memory.
func (a *Agent) moveGaps(ctx context.Context, from *opening, bytes uint64, o *opening) error {
	if !o.choice.loses() {
		return nil
	}
	f, err := a.keeper.Fetch(ctx, from.gapsName())
	if errors.Is(err, unix.ENOENT) { // an agent that died has moved it
		f, err = a.keeper.Fetch(ctx, o.gapsName())
	}
	if err != nil {
		return fmt.Errorf("fetch the memory of what is dropped: %w", err)
	}
	if err := a.keeper.Hold(ctx, o.gapsName(), nil, f.Int()); err != nil {
		f.Close()
		return err
	}
	m, err := gaps.Map(f)
	if err != nil {
		return err
	}
	if !from.takesGaps(from.plugin.Load()) {
		m.SetBegin(m.Begin() + bytes)
	}
	return m.Close()
}
