package chaos

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/muxd/muxd/control/controlpb"
)

// census is what a muxd without children has: for each process, what its descriptors are, and the files of its directory, each with
// how often it is there.
type census map[string]int

// warm has a child on every sink, and returns what muxd has when they are gone: so much may be there in the end, and no more.
func (m *muxd) warm(t *testing.T) census {
	t.Helper()
	dir := t.TempDir()
	specs := []*controlpb.SinkChoice{
		{Stream: "stdout", Spec: "file:" + dir + "/one,format=raw"}, {Stream: "stdout", Spec: "file:" + dir + "/two,format=raw"},
		{Stream: "stderr", Spec: "socket:listen=unix:" + dir + "/s,policy=drop-oldest"},
	}
	for i, sinks := range [][]*controlpb.SinkChoice{specs, {{Spec: "pty"}}} {
		name := fmt.Sprint("warm", i)
		if _, err := m.client.Spawn(context.Background(), &controlpb.ChildSpec{Name: name, Argv: [][]byte{[]byte("true")}, Sinks: sinks}); err != nil {
			t.Fatalf("spawn %s: %v", name, err)
		}
		m.over(t, name)
	}
	var c census
	m.within(t, "muxd does not come to rest", func() (wrong string) {
		c, wrong = m.census(t)
		return wrong
	})
	c["file /run/agent-events.old"] = 1   // when there have been many
	c["file /run/agent-upgrade.json"] = 1 // what became of the latest upgrade, for whoever asks again
	return c
}

// over waits until a child has finished, and removes it.
func (m *muxd) over(t *testing.T, name string) *controlpb.Child {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
	defer cancel()
	c, err := m.client.Wait(ctx, name)
	if err != nil {
		t.Fatalf("wait %s: %v", name, err)
	}
	if _, err := m.client.API.Remove(context.Background(), &controlpb.RemoveRequest{Child: name}); err != nil {
		t.Errorf("remove %s: %v", name, err)
	}
	return c
}

// within calls f until nothing is wrong any more, and says what is after 10 seconds.
func (m *muxd) within(t *testing.T, what string, f func() (wrong string)) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(10 * time.Millisecond) { // polling for what the deadline bounds
		wrong := f()
		if wrong == "" {
			return
		}
		if time.Now().After(deadline) {
			t.Errorf("%s: %s", what, wrong)
			return
		}
	}
}

// nothingHeld says what muxd has more than it had before its children.
func (m *muxd) nothingHeld(t *testing.T, before census) {
	t.Helper()
	m.within(t, "muxd has something left of children that are gone", func() string {
		now, wrong := m.census(t)
		if wrong != "" {
			return wrong
		}
		var more []string
		for _, what := range slices.Sorted(maps.Keys(now)) {
			if n := now[what]; n > before[what] {
				more = append(more, fmt.Sprintf("%s: %d, before %d", what, n, before[what]))
			}
		}
		return strings.Join(more, "\n")
	})
}

// processes are keeper, agent, and the plugins that run, by what they are.
func (m *muxd) processes(t *testing.T) map[string]int {
	s, err := m.client.API.Status(context.Background(), &controlpb.StatusRequest{})
	if err != nil {
		t.Fatalf("status: %v", err)
	}
	resp, err := m.client.API.Plugins(context.Background(), &controlpb.PluginsRequest{})
	if err != nil {
		t.Fatalf("plugins: %v", err)
	}
	all := map[string]int{"keeper": int(s.KeeperPid), "agent": int(s.AgentPid)}
	for _, p := range resp.Plugins {
		if p.State == "running" {
			all["plugin "+p.Name] = int(p.Pid)
		}
	}
	return all
}

var (
	unique  = regexp.MustCompile(`[0-9a-f]{16}|[0-9]+`)
	inodeOf = regexp.MustCompile(`^(pipe|socket):\[\d+\]$`)
)

// census counts. What the keeper has of a pipe or of memory, exactly one plugin has as well, and the same of it: these are the stages
// and the state of the SDK, of which a plugin makes as many as it once needs, so that they are not counted. wrong says where that is not
// so, whatever there was before.
func (m *muxd) census(t *testing.T) (c census, wrong string) {
	c = census{}
	shared := map[string]map[string]int{} // by object: who has it, and how often
	names := map[string]string{}
	logs := map[string]bool{} // what plugins have as their stderr, of which keeper and agent have the other end
	all := m.processes(t)
	inherited := slices.Collect(maps.Values(openFiles(os.Getpid()))) // what this test was started with, and muxd with it
	for who, pid := range all {
		for n, link := range openFiles(pid) {
			var st unix.Stat_t
			path := fmt.Sprintf("/proc/%d/fd/%s", pid, n)
			if n == "2" && strings.HasPrefix(who, "plugin ") && unix.Stat(path, &st) == nil {
				logs[fmt.Sprintf("pipe %d, read end", st.Ino)] = true
			}
			if n == "0" || n == "1" || n == "2" || inodeOf.MatchString(link) && slices.Contains(inherited, link) || unix.Stat(path, &st) != nil {
				continue
			}
			if kind := inodeOf.ReplaceAllString(link, "$1"); kind == "pipe" || strings.HasPrefix(kind, "/memfd:") {
				what := fmt.Sprintf("%s %d%s", kind, st.Ino, endOf(pid, n))
				note(shared, what, who)
				names[what] = kind
			} else {
				c[who+" has "+unique.ReplaceAllString(kind, "N")]++
			}
		}
	}
	for what, by := range shared {
		switch {
		case by["keeper"] == 0, logs[what] && by["keeper"] == 1 && by["agent"] == 1 && len(by) == 2: // a plugin's own, or the ends of its standard output and its log
			for who, n := range by {
				c[who+" has "+names[what]] += n
			}
		case by["keeper"] != 1 || len(by) != 2 || by["agent"] > 0 || strings.HasPrefix(what, "/memfd:muxd-opening"):
			wrong += fmt.Sprintf("%s is held by %v; ", what, by)
		}
	}
	filepath.WalkDir(m.home, func(path string, _ fs.DirEntry, err error) error {
		if err == nil {
			c["file "+unique.ReplaceAllString(strings.TrimPrefix(path, m.home), "N")]++
		}
		return nil
	})
	for _, p := range m.ours() {
		if !slices.Contains(slices.Collect(maps.Values(all)), p.pid) {
			wrong += fmt.Sprintf("process %d (%s) is none of its own; ", p.pid, p.line)
		}
	}
	return c, wrong
}

func note(m map[string]map[string]int, what, who string) {
	if m[what] == nil {
		m[what] = map[string]int{}
	}
	m[what][who]++
}

// endOf says which end of a pipe descriptor n of a process is (proc_pid_fdinfo(5)); nothing where it can be read and written.
func endOf(pid int, n string) string {
	b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/fdinfo/%s", pid, n))
	var pos, flags int
	_, err := fmt.Sscanf(string(b), "pos:\t%d\nflags:\t%o", &pos, &flags)
	switch {
	case err == nil && flags&unix.O_ACCMODE == unix.O_RDONLY:
		return ", read end"
	case err == nil && flags&unix.O_ACCMODE == unix.O_WRONLY:
		return ", write end"
	}
	return ""
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

type process struct {
	pid  int
	line string
}

// ours are the processes whose command or environment names this muxd's directory.
func (m *muxd) ours() (out []process) {
	dirs, _ := filepath.Glob("/proc/[0-9]*")
	for _, dir := range dirs {
		line, _ := os.ReadFile(dir + "/cmdline")
		env, _ := os.ReadFile(dir + "/environ")
		if pid, err := strconv.Atoi(filepath.Base(dir)); err == nil && bytes.Contains(append(line, env...), []byte(m.home)) {
			out = append(out, process{pid, string(bytes.ReplaceAll(line, []byte{0}, []byte{' '}))})
		}
	}
	return out
}

// nothingLeft looks for temporary files and for processes, of a muxd that has ended.
func (m *muxd) nothingLeft(t *testing.T) {
	entries, err := os.ReadDir(filepath.Join(m.home, "tmp"))
	if err != nil && !errors.Is(err, os.ErrNotExist) || len(entries) > 0 {
		t.Errorf("temporary files are left: %v %v", entries, err)
	}
	m.within(t, "processes are left", func() string {
		if left := m.ours(); len(left) > 0 {
			return fmt.Sprint(left)
		}
		return ""
	})
}
