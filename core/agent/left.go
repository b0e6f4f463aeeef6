package agent

import (
	"context"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/muxd/muxd/control/controlpb"
	"github.com/muxd/muxd/core/cgroup"
)

// Where muxd has a cgroup to divide, a child is all that is in its leaf: the process, and whatever that has started in whatever session.
// stop has all of it killed in the end. What a child that ends by itself leaves behind, as one that makes a daemon of itself does, goes on
// until somebody stops the child. The keeper makes, kills and removes leaves; the agent looks at them.

// leafOf is the name of c's leaf.
func leafOf(c *child) string { return cgroup.LeafOf(c.id()) }

// kill has all of c killed that can be found: everything in its leaf, or else its process group.
func (a *Agent) kill(ctx context.Context, c *child) {
	a.mu.Lock()
	key := c.key
	a.mu.Unlock()
	if err := a.keeper.Kill(ctx, key, leafOf(c)); err != nil {
		a.log.Error("child is not killed", "child", c.id(), "error", err)
	}
}

// goneMost bounds the wait for processes that were killed: one in an uninterruptible sleep does not die of it.
const goneMost = 2 * time.Second

// awaitNobody blocks until all of c is gone, after kill.
func (a *Agent) awaitNobody(c *child) {
	if a.groups != nil {
		a.groups.WaitEmpty(leafOf(c), goneMost)
	}
}

// processesMost is how many processes of a child are told.
const processesMost = 1000

// processes are those in c's leaf.
func (a *Agent) processes(c *child) []int {
	if a.groups == nil {
		return nil
	}
	pids := a.groups.Processes(leafOf(c))
	return pids[:min(len(pids), processesMost)]
}

// describe adds to a child's record what its leaf says.
func (a *Agent) describe(c *child, r *controlpb.Child) {
	if a.groups == nil || !a.groups.Has(leafOf(c)) {
		return
	}
	r.Cgroup = a.groups.Path(leafOf(c))
	for _, pid := range a.processes(c) {
		r.Processes = append(r.Processes, int32(pid))
	}
}

// left says in words which processes go on without c; empty where there are none.
func (a *Agent) left(c *child) string {
	pids := a.processes(c)
	if len(pids) == 0 {
		return ""
	}
	var names []string
	for _, pid := range pids[:min(len(pids), 3)] {
		comm, _ := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid))
		names = append(names, fmt.Sprintf("%d (%s)", pid, strings.TrimSuffix(string(comm), "\n")))
	}
	if len(pids) == 1 {
		return "process " + names[0] + ", which it has started, goes on"
	}
	if len(names) < len(pids) {
		names = append(names, "…")
	}
	return fmt.Sprintf("%d processes that it has started go on: %s", len(pids), strings.Join(names, ", "))
}
