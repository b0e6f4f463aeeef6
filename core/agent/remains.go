package agent

import (
	"context"
	"encoding/binary"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/muxd/muxd/sink/sinkpb"
)

// remainsMost bounds what consoles of children that have ended leave behind, all together; beyond it the oldest are dropped.
const remainsMost = 32 << 20

// remains are what consoles have left, one of a child, that of its latest run that has ended: each a file of the runtime directory with
// the number of the run, u32, and what the plugin told. They are in the file before the stream counts as flushed. Agent.mu is held for
// all of this but load.
type remains struct {
	dir   string
	order []remain // the oldest first
	bytes int64
	log   *slog.Logger
}

type remain struct {
	child string
	bytes int64
}

// newRemains takes what an agent before this one has kept.
func newRemains(journal string, log *slog.Logger) *remains {
	r := &remains{dir: filepath.Join(journal, "consoles"), log: log}
	entries, _ := os.ReadDir(r.dir) // by and by it is made
	var left []fs.FileInfo
	for _, e := range entries {
		if st, err := e.Info(); err == nil {
			left = append(left, st)
		}
	}
	slices.SortStableFunc(left, func(x, y fs.FileInfo) int { return x.ModTime().Compare(y.ModTime()) })
	for _, st := range left {
		r.order = append(r.order, remain{st.Name(), st.Size()})
		r.bytes += st.Size()
	}
	return r
}

// keep has b be what the console of a child's run has left. Where that cannot be written nothing is left.
func (r *remains) keep(child string, run uint32, b []byte) {
	r.drop(child)
	n := remain{child, int64(len(b) + 4)}
	path := filepath.Join(r.dir, child)
	err := os.MkdirAll(r.dir, 0o700)
	if err == nil {
		err = os.WriteFile(path+partOfFile, append(binary.BigEndian.AppendUint32(nil, run), b...), 0o600)
	}
	if err == nil {
		err = os.Rename(path+partOfFile, path)
	}
	if err != nil {
		os.Remove(path + partOfFile)
		r.log.Warn("what a console showed last is not kept", "child", child, "error", err)
		return
	}
	r.order = append(r.order, n)
	for r.bytes += n.bytes; r.bytes > remainsMost; {
		r.drop(r.order[0].child)
	}
}

const partOfFile = ".part"

// drop forgets what the console of a child has left.
func (r *remains) drop(child string) {
	i := slices.IndexFunc(r.order, func(n remain) bool { return n.child == child })
	if i < 0 {
		return
	}
	r.bytes -= r.order[i].bytes
	r.order = slices.Delete(r.order, i, i+1)
	os.Remove(filepath.Join(r.dir, child))
}

// dropOthers forgets what is of children that keep does not know.
func (r *remains) dropOthers(known func(child string) bool) {
	for _, n := range slices.Clone(r.order) {
		if !known(n.child) {
			r.drop(n.child)
		}
	}
}

// load returns what the console of a child has left, and of which run; ok is false where there is nothing.
func (r *remains) load(child string) (run uint32, b []byte, ok bool) {
	b, err := os.ReadFile(filepath.Join(r.dir, child))
	if err != nil || len(b) < 4 {
		return 0, nil, false
	}
	return binary.BigEndian.Uint32(b), b[4:], true
}

// view calls f with the opening of c's console, or after its end with one of no stream and with what it has left.
func (a *Agent) view(ctx context.Context, c *child, f func(o *opening, remains []byte) error) error {
	o, err := a.console(c)
	if err == nil {
		if err = f(o, nil); status.Code(err) != codes.NotFound {
			return err
		}
		// the plugin has been told to forget it
		err = status.Errorf(codes.FailedPrecondition, "the console of child %s has ended", c.rec.Name)
	}
	run, b, ok := a.remains.load(c.id())
	if !ok {
		return err
	}
	a.mu.Lock()
	var of *choice
	for _, ch := range c.sinks {
		if slices.Contains(ch.streams, sinkpb.Stream_CONSOLE) && ch.from == nil {
			of = ch
		}
	}
	a.mu.Unlock()
	if of == nil {
		return err
	}
	p, perr := a.host.Get(ctx, of.spec.Name)
	if perr != nil {
		return invalid(fmt.Errorf("what is left of the console of child %s: %w", c.rec.Name, perr))
	}
	past := &opening{run: run, child: c, choice: of}
	past.plugin.Store(p)
	return f(past, b)
}
