package e2e

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// process is a process as /proc shows it (proc_pid_stat(5)). Pid and start together are unique.
type process struct {
	pid, parent int
	state       string
	start       string
}

// look returns the process of that pid.
func look(pid int) (process, bool) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return process{}, false
	}
	// The command's name is in brackets and may hold anything, brackets too.
	fields := strings.Fields(string(b[bytes.LastIndexByte(b, ')')+1:]))
	if len(fields) < 20 {
		return process{}, false
	}
	parent, err := strconv.Atoi(fields[1])
	return process{pid: pid, parent: parent, state: fields[0], start: fields[19]}, err == nil
}

// alive says whether the process runs: one that waits to be reaped does not.
func (p process) alive() bool {
	now, ok := look(p.pid)
	return ok && now.start == p.start && now.state != "Z" && now.state != "X"
}

func (p process) String() string {
	return fmt.Sprintf("%d (%s, child of %d)", p.pid, strings.Join(commandLine(p.pid), " "), p.parent)
}

func commandLine(pid int) []string {
	b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	return strings.Split(strings.TrimSuffix(string(b), "\x00"), "\x00")
}

// processes lists all that there are.
func processes() map[int]process {
	all := map[int]process{}
	dirs, _ := filepath.Glob("/proc/[0-9]*")
	for _, dir := range dirs {
		if pid, err := strconv.Atoi(filepath.Base(dir)); err == nil {
			if p, ok := look(pid); ok {
				all[pid] = p
			}
		}
	}
	return all
}

// isBelow says whether p descends from the process with pid root.
func isBelow(all map[int]process, p process, root int) bool {
	for ok := true; ok && p.parent != 0; p, ok = all[p.parent] {
		if p.parent == root {
			return true
		}
	}
	return false
}

// descendants lists what descends from root.
func descendants(root int) []process {
	all := processes()
	var out []process
	for _, p := range all {
		if isBelow(all, p, root) {
			out = append(out, p)
		}
	}
	return out
}

// marked lists the processes with that entry in the environment that they were started with.
func marked(mark string) []process {
	var out []process
	for pid, p := range processes() {
		env, _ := os.ReadFile(fmt.Sprintf("/proc/%d/environ", pid))
		for e := range bytes.SplitSeq(env, []byte{0}) {
			if string(e) == mark && p.alive() {
				out = append(out, p)
				break
			}
		}
	}
	return out
}

// strangers lists those of the marked that are not this test's own commands.
func strangers(mark string) []process {
	all := processes()
	var out []process
	for _, p := range marked(mark) {
		if !isBelow(all, p, os.Getpid()) {
			out = append(out, p)
		}
	}
	return out
}
