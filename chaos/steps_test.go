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

	"golang.org/x/sys/unix"

	"github.com/muxd/muxd/control/controlpb"
)

// carriers are the plugins whose processes are killed.
var carriers = []string{"file", "pty", "socket"}

// stageSteps are the steps of the staging protocol, by internal/stage's names of them.
var stageSteps = []string{"bound", "filled", "looked", "taken", "put", "written", "consumed", "committed"}

// stepFile is where a plugin of the binary that this test builds reads at which step to end (internal/stage/steps_chaos.go).
func (m *muxd) stepFile(plugin string) string { return filepath.Join(m.steps, plugin) }

// killAt has a plugin kill itself the next time that it comes to a step of the staging protocol; or, with hang, stop itself there, so that muxd
// has to find out. One that does not come there soon is killed where it is. It says whether there was one to kill.
func (m *muxd) killAt(t *testing.T, plugin, step string, hang bool) bool {
	pid := m.pluginPID(t, plugin)
	if pid <= 1 {
		return false
	}
	sig := unix.SIGKILL
	if hang {
		sig = unix.SIGSTOP
	}
	if err := os.WriteFile(m.stepFile(plugin), fmt.Appendf(nil, "%s %d", step, sig), 0o600); err != nil {
		t.Fatal(err)
	}
	m.dead[plugin] = int32(pid)
	if unix.Kill(pid, unix.SIGUSR1) != nil {
		return false
	}
	stopped := false
	for begun := time.Now(); ; time.Sleep(time.Millisecond) { // polling for what this loop bounds
		switch state := stateOf(pid); {
		case state == "" || state == "Z" || state == "X":
			return true
		case state == "T":
			stopped = true
		case time.Since(begun) > 200*time.Millisecond && !stopped:
			return unix.Kill(pid, unix.SIGKILL) == nil
		}
		if time.Since(begun) > 30*time.Second {
			t.Fatalf("plugin %s (pid %d) was stopped at %q, and nobody has noticed", plugin, pid, step)
		}
	}
}

// pluginPID is the process of a plugin that runs. One that died too often is started again.
func (m *muxd) pluginPID(t *testing.T, name string) int {
	resp, err := m.client.API.Plugins(context.Background(), &controlpb.PluginsRequest{})
	if err != nil {
		t.Fatalf("plugins: %v", err)
	}
	for _, p := range resp.Plugins {
		if p.Name != name {
			continue
		}
		if strings.Contains(p.Error, "muxctl plugin restart") {
			if _, err := m.client.API.RestartPlugin(context.Background(), &controlpb.RestartPluginRequest{Name: name}); err != nil {
				t.Fatalf("restart plugin %s: %v", name, err)
			}
		}
		return int(p.Pid)
	}
	return 0
}

// stateOf is a process's state as proc_pid_stat(5) has it, "" where there is none.
func stateOf(pid int) string {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return ""
	}
	return string(bytes.Fields(b[bytes.LastIndexByte(b, ')')+1:])[0])
}
