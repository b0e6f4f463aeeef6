package agent

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/muxd/muxd/control/controlpb"
	"github.com/muxd/muxd/core/agent/agentpb"
	"github.com/muxd/muxd/core/keeper"
	"github.com/muxd/muxd/internal/spec"
	"github.com/muxd/muxd/sink/sinkpb"
)

// journal is a directory with the name of the keeper that it is of, and a log of what a successor of this agent must know of each
// child and neither keeper nor plugins tell (journallog.go).
type journal struct {
	dir string
	log *journalLog
}

// keeperFile names the keeper that a journal is of.
const (
	keeperFile = "keeper"
	logFile    = "log"
)

// origin says whose a journal is that an agent finds.
type origin int

const (
	ownFirst origin = iota // there was none: this agent is the first
	ownAgain               // an agent of the same keeper died
	others                 // the keeper died, and its agent became this one or died with it
)

// openJournal makes the directory where it is not there, and says whose it was. A journal of another keeper stays that one's until
// claim. keeper is keeperName's. lost is how many children a journal had that is of an earlier run of the machine: nothing of them
// is left but names, and it is cleared.
func openJournal(runtimeDir, keeper string) (j *journal, from origin, lost int, err error) {
	j = &journal{dir: filepath.Join(runtimeDir, "journal")}
	old, err := os.ReadFile(filepath.Join(j.dir, keeperFile))
	boot, _, _ := strings.Cut(keeper, " ")
	switch {
	case err == nil && string(old) == keeper:
		from = ownAgain
	case err == nil && strings.HasPrefix(string(old), boot+" "):
		from = others
	case err == nil:
		if j.log, err = openJournalLog(filepath.Join(j.dir, logFile)); err == nil {
			lost = len(j.log.of)
			j.log.close()
		}
	case !errors.Is(err, fs.ErrNotExist):
		return nil, 0, 0, fmt.Errorf("open the journal: %w", err)
	}
	if from == ownFirst {
		if err := os.RemoveAll(j.dir); err != nil {
			return nil, 0, 0, fmt.Errorf("clear the journal: %w", err)
		}
		if err := os.Mkdir(j.dir, 0o700); err != nil {
			return nil, 0, 0, fmt.Errorf("make the journal: %w", err)
		}
	}
	if j.log, err = openJournalLog(filepath.Join(j.dir, logFile)); err != nil {
		return nil, 0, 0, fmt.Errorf("open the journal: %w", err)
	}
	if from == ownFirst {
		err = j.claim(keeper)
	}
	return j, from, lost, err
}

// claim makes the journal this keeper's, for the agents that come after this one.
func (j *journal) claim(keeper string) error {
	if err := j.replace(keeperFile, []byte(keeper)); err != nil {
		return fmt.Errorf("make the journal this keeper's: %w", err)
	}
	return nil
}

// keeperName tells this process's parent, the keeper, from every other process there has been: the run of the machine, its pid,
// and when it was started.
func keeperName() (string, error) {
	boot, err := keeper.BootID()
	if err != nil {
		return "", err
	}
	started, err := keeper.StartTime(os.Getppid())
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("%s %d %d", boot, os.Getppid(), started), nil
}

// replace makes b the content of the file, in one step: a process that is killed leaves the old or the new one.
func (j *journal) replace(name string, b []byte) error {
	path := filepath.Join(j.dir, name)
	if err := os.WriteFile(path+".new", b, 0o600); err != nil {
		return err
	}
	return os.Rename(path+".new", path)
}

// close ends the writing.
func (j *journal) close() { j.log.close() }

// write puts down one child.
func (j *journal) write(id string, c *agentpb.Child) error {
	return j.log.add(&agentpb.Entry{Id: id, What: &agentpb.Entry_Child{Child: c}})
}

// keep puts down the environment of a child's runs.
func (j *journal) keep(id string, env [][]byte) error {
	return j.log.add(&agentpb.Entry{Id: id, What: &agentpb.Entry_Environment{Environment: &agentpb.Environment{Variables: env}}})
}

// environment is what keep put down for a child; nothing where it did not.
func (j *journal) environment(id string) ([][]byte, error) {
	e, err := j.log.environment(id)
	return e.GetEnvironment().GetVariables(), err
}

// remove forgets one child.
func (j *journal) remove(id string) error {
	if _, ok := j.log.of[id]; !ok {
		return nil
	}
	return j.log.add(&agentpb.Entry{Id: id, What: &agentpb.Entry_Removed{Removed: true}})
}

// read returns every child that was put down, the oldest first.
func (j *journal) read() ([]*agentpb.Child, error) {
	out, err := j.log.children()
	if err != nil {
		return nil, fmt.Errorf("read the journal: %w", err)
	}
	slices.SortFunc(out, func(x, y *agentpb.Child) int { return int(x.Record.Created - y.Record.Created) })
	return out, nil
}

// save puts c down. Agent.mu is held. An error is told and not fatal: the child goes on, and only a successor of this
// agent would miss it. The environment is put down once, if there may be another run, and is not needed here from then on.
func (a *Agent) save(c *child) {
	var err error
	if c.env != nil && c.spec.Restart != controlpb.Restart_NO {
		if err = a.journal.keep(c.id(), c.env); err == nil {
			c.env = nil
		}
	}
	if err == nil {
		err = a.journal.write(c.id(), c.message())
	}
	if err != nil {
		a.log.Error("child is not in the journal", "child", c.id(), "error", err)
	}
}

// environment is what c's next run gets. Agent.mu is held.
func (a *Agent) environment(c *child) ([][]byte, error) {
	if c.env != nil {
		return c.env, nil
	}
	env, err := a.journal.environment(c.id())
	if err != nil {
		return nil, fmt.Errorf("environment of child %s: %w", c.rec.Name, err)
	}
	return env, nil
}

// message is c as the journal has it.
func (c *child) message() *agentpb.Child {
	m := &agentpb.Child{
		Spec: c.spec, Record: c.rec, Key: c.key, Stopping: c.stopping, Waited: c.waited, Cut: c.cut, Forks: c.forks,
		Attached: c.attached, RequestId: c.request, Move: c.move, Moved: c.moved, ProcessStarted: c.started,
		Backoff: int64(c.backoff), BackoffFirst: int64(c.backoffFirst), BackoffMax: int64(c.backoffMax),
	}
	for _, ch := range c.sinks {
		w := ch.message()
		if ch.from != nil {
			w.Behind = uint32(slices.Index(c.sinks, ch.from) + 1)
			w.Spill, w.SpillDir = ch.spill, ch.dir
		}
		m.Choices = append(m.Choices, w)
	}
	for _, o := range c.openings {
		w := &agentpb.Opening{Id: o.id, Run: o.run}
		w.Choice = uint32(max(slices.Index(c.sinks, o.choice), 0))
		for _, s := range o.streams {
			w.Streams = append(w.Streams, &agentpb.Stream{
				Kind: int32(s.kind), Sink: uint32(slices.Index(c.rec.Sinks, s.rec)), Done: s.done,
				Dev: s.holder.dev, Ino: s.holder.ino, Rdev: s.holder.rdev,
				Branch: s.branch, Next: s.next,
			})
			if s.as != o.choice {
				w.Streams[len(w.Streams)-1].Of = uint32(slices.Index(c.sinks, s.as) + 1)
			}
		}
		m.Openings = append(m.Openings, w)
	}
	return m
}

// message is ch as the journal has it, without what it stands behind.
func (ch *choice) message() *agentpb.Choice {
	w := &agentpb.Choice{Text: ch.text, Name: ch.spec.Name, Arg: ch.spec.Arg, Options: ch.spec.Options, Wiring: ch.wiring, Policy: int32(ch.policy), Removed: ch.removed}
	for _, s := range ch.streams {
		w.Streams = append(w.Streams, int32(s))
	}
	return w
}

// choiceFrom makes a choice of what the journal has, which stands behind none yet.
func choiceFrom(w *agentpb.Choice) *choice {
	ch := &choice{text: w.Text, spec: spec.Spec{Name: w.Name, Arg: w.Arg, Options: w.Options}, wiring: w.Wiring, removed: w.Removed, copies: w.Name == copier}
	for _, s := range w.Streams {
		ch.streams = append(ch.streams, sinkpb.Stream(s))
	}
	return ch
}

// childFrom makes a child of what the journal has.
func childFrom(m *agentpb.Child) (*child, error) {
	c := &child{
		spec: m.Spec, runtime: runtimeOf(m.Spec.Argv), rec: m.Record, key: m.Key, stopping: m.Stopping, waited: m.Waited, cut: m.Cut, forks: m.Forks, adopted: m.Record.GetAdopted(),
		attached: m.Attached, request: m.RequestId, move: m.Move, moving: m.Move != nil, moved: m.Moved,
		started: m.ProcessStarted,
		backoff: time.Duration(m.Backoff), backoffFirst: time.Duration(m.BackoffFirst), backoffMax: time.Duration(m.BackoffMax),
	}
	c.ready.Close()
	var err error
	if c.user, err = lookupUser(c.spec.User); err != nil {
		return nil, err
	}
	for _, w := range m.Choices {
		c.sinks = append(c.sinks, choiceFrom(w))
	}
	for i, w := range m.Choices {
		if w.Behind > uint32(len(c.sinks)) {
			return nil, fmt.Errorf("sink %s stands behind one that there is not", w.Text)
		}
		if w.Behind > 0 {
			c.sinks[i].branching = branching{sinkpb.Policy(w.Policy), w.Spill, w.SpillDir}
			c.sinks[i].from = c.sinks[w.Behind-1]
		}
	}
	for _, w := range m.Openings {
		if int(w.Choice) >= len(c.sinks) {
			return nil, fmt.Errorf("opening %s has no sink", w.Id)
		}
		o := &opening{id: w.Id, run: w.Run, child: c, choice: c.sinks[w.Choice]}
		for _, s := range w.Streams {
			if int(s.Sink) >= len(c.rec.Sinks) {
				return nil, fmt.Errorf("opening %s has a stream without a record", w.Id)
			}
			as := o.choice
			if s.Of > 0 && int(s.Of) <= len(c.sinks) {
				as = c.sinks[s.Of-1]
			}
			o.streams = append(o.streams, &stream{
				as: as, branch: s.Branch, next: s.Next,
				kind: sinkpb.Stream(s.Kind), rec: c.rec.Sinks[s.Sink], done: s.Done,
				moving: m.Move != nil && m.Move.How == "" && partOf(c.rec.Sinks[s.Sink]) == m.Move.Stream && !s.Done,
				left:   m.GetMove().GetLeft() && partOf(c.rec.Sinks[s.Sink]) == m.Move.Stream && !s.Done,
				holder: holderID{dev: s.Dev, ino: s.Ino, rdev: s.Rdev},
			})
		}
		c.openings = append(c.openings, o)
	}
	return c, nil
}
