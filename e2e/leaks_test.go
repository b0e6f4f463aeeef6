package e2e

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

// counts are numbers of open files by process, and of the agent's goroutines.
type counts map[string]int

const goroutines = "goroutines of the agent"

func baseline(ts *testscript.TestScript, neg bool, args []string) {
	s := of(ts)
	if neg || len(args) > 0 || s.muxd == nil {
		ts.Fatalf("usage: baseline, while muxd is up")
	}
	// What has just been closed may still be on its way out.
	for calm, deadline := 0, time.Now().Add(soon); calm < 5; time.Sleep(interval) {
		now := s.count(ts)
		if calm++; !maps.Equal(now, s.base) {
			s.base, calm = now, 0
		}
		if time.Now().After(deadline) {
			ts.Fatalf("muxd does not come to rest: %v", now)
		}
	}
}

func leaks(ts *testscript.TestScript, neg bool, args []string) {
	s := of(ts)
	if neg || len(args) > 0 || s.muxd == nil || s.base == nil {
		ts.Fatalf("usage: leaks, after baseline, while muxd is up")
	}
	for deadline := time.Now().Add(soon / 2); ; time.Sleep(interval) {
		now := s.count(ts)
		var more []string
		for _, name := range slices.Sorted(maps.Keys(now)) {
			if now[name] > s.base[name] {
				more = append(more, fmt.Sprintf("%s: %d, and %d before", name, now[name], s.base[name]))
			}
		}
		if len(more) == 0 && len(now) == len(s.base) {
			return
		}
		if time.Now().After(deadline) {
			ts.Fatalf("leaked, of %v:\n%s\n%s", slices.Sorted(maps.Keys(s.base)), strings.Join(more, "\n"), s.files())
		}
	}
}

// count counts now.
func (s *script) count(ts *testscript.TestScript) counts {
	c := counts{}
	for name, pid := range s.parts() {
		fds, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
		ts.Check(err)
		c[name] = len(fds)
	}
	out, err := exec.Command(filepath.Join(bin, "muxctl"), "--socket", filepath.Join(s.muxd.dir, "control.sock"),
		"agent", "status", "-o", "json").Output()
	ts.Check(err)
	var st struct {
		Goroutines int `json:"goroutines"`
	}
	ts.Check(json.Unmarshal(out, &st))
	c[goroutines] = st.Goroutines
	return c
}

// parts finds the processes that muxd is made of, by what they are.
func (s *script) parts() map[string]int {
	keeper := s.muxd.cmd.Process.Pid
	out := map[string]int{"keeper": keeper}
	for _, p := range descendants(keeper) {
		exe, _ := os.Readlink(fmt.Sprintf("/proc/%d/exe", p.pid))
		argv := commandLine(p.pid)
		if p.parent != keeper || exe != filepath.Join(bin, "muxd") || len(argv) < 2 {
			continue
		}
		name := argv[1]
		if name == "plugin" && len(argv) > 2 {
			name += " " + argv[2]
		}
		out[name] = p.pid
	}
	return out
}

// files lists what every part has open, for a failure.
func (s *script) files() string {
	var b strings.Builder
	for name, pid := range s.parts() {
		links, _ := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", pid))
		fmt.Fprintf(&b, "%s:", name)
		for _, l := range links {
			to, _ := os.Readlink(l)
			fmt.Fprintf(&b, " %s→%s", filepath.Base(l), to)
		}
		b.WriteByte('\n')
	}
	return b.String()
}
