package chaos

import (
	"bytes"
	"context"
	"errors"
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
func (m *muxd) stepFile(plugin string) string { return filepath.Join(m.home, "step-"+plugin) }

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

func (m *muxd) remove(t *testing.T, r *result) {
	if _, err := m.client.API.Remove(context.Background(), &controlpb.RemoveRequest{Child: r.name}); err != nil {
		t.Errorf("remove %s: %v", r.name, err)
	}
}

// heldByNobody looks for what the keeper still holds of children that are gone: a terminal, or the far end of an output, which
// is a pipe's read end that no plugin has. The pipes that a plugin has parked both have.
func (m *muxd) heldByNobody(t *testing.T) {
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(10 * time.Millisecond) { // polling for what the deadline bounds
		s, err := m.client.API.Status(context.Background(), &controlpb.StatusRequest{})
		if err != nil {
			t.Fatalf("status: %v", err)
		}
		has := map[string]bool{}
		for _, plugin := range carriers {
			for _, link := range openFiles(m.pluginPID(t, plugin)) {
				has[link] = true
			}
		}
		var left []string
		for n, link := range openFiles(int(s.KeeperPid)) {
			if strings.HasPrefix(link, "/dev/p") || strings.HasPrefix(link, "pipe:") && !has[link] && readEnd(int(s.KeeperPid), n) {
				left = append(left, link)
			}
		}
		if len(left) == 0 {
			return
		}
		if time.Now().After(deadline) {
			t.Errorf("the keeper still holds %v", left)
			return
		}
	}
}

// readEnd says whether descriptor n of a process cannot be written to (proc_pid_fdinfo(5)).
func readEnd(pid int, n string) bool {
	b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/fdinfo/%s", pid, n))
	var pos, flags int
	_, err := fmt.Sscanf(string(b), "pos:\t%d\nflags:\t%o", &pos, &flags)
	return err == nil && flags&unix.O_ACCMODE == unix.O_RDONLY
}

// openFiles tells what the descriptors of a process refer to, by their numbers.
func openFiles(pid int) map[string]string {
	out := map[string]string{}
	links, _ := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", pid))
	for _, l := range links {
		if to, err := os.Readlink(l); err == nil {
			out[filepath.Base(l)] = to
		}
	}
	return out
}

// nothingLeft looks for temporary files, and for processes whose command or environment names this muxd's directory.
func (m *muxd) nothingLeft(t *testing.T) {
	entries, err := os.ReadDir(filepath.Join(m.home, "tmp"))
	if err != nil && !errors.Is(err, os.ErrNotExist) || len(entries) > 0 {
		t.Errorf("temporary files are left: %v %v", entries, err)
	}
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(10 * time.Millisecond) { // polling for what the deadline bounds
		var left []string
		dirs, _ := filepath.Glob("/proc/[0-9]*")
		for _, dir := range dirs {
			line, _ := os.ReadFile(dir + "/cmdline")
			env, _ := os.ReadFile(dir + "/environ")
			if bytes.Contains(append(line, env...), []byte(m.home)) {
				left = append(left, filepath.Base(dir)+" "+string(bytes.ReplaceAll(line, []byte{0}, []byte{' '})))
			}
		}
		if len(left) == 0 {
			return
		}
		if time.Now().After(deadline) {
			t.Errorf("processes are left: %q", left)
			return
		}
	}
}
