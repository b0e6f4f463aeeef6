// Package cgroup divides the cgroup (version 2) that was delegated to muxd: muxd's own processes are in one leaf of it, and each child in
// one of its own, so that whatever a child has started can be counted, and killed, by one write, however often it forked and in
// whatever session it is.
package cgroup

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Tree is a cgroup that is muxd's to divide. Its methods may be called from several goroutines, and from several processes.
type Tree struct{ dir string }

// own is the leaf of muxd's own processes.
const own = "muxd"

// marks are the extended attributes by which a cgroup is known to be delegated: systemd sets them on a service with Delegate=yes,
// and Mark does. Being
// allowed to write there is not enough, since root always is, and so is a user in what their service manager has divided.
var marks = []string{"user.delegate", "trusted.delegate"}

// Find returns the tree that this process is in. nil: it is in none that was delegated, or the kernel cannot start a process in a
// cgroup (clone3(2)).
func Find() *Tree {
	dir, err := ownDir()
	if err != nil || !canClone() {
		return nil
	}
	for _, d := range []string{strings.TrimSuffix(dir, "/"+own), dir} {
		if marked(d) {
			return &Tree{dir: d}
		}
	}
	return nil
}

// Mark marks the cgroup of this process as delegated, as systemd's user managers do not. In muxd's own leaf it does nothing: the tree has
// its mark.
func Mark() error {
	dir, err := ownDir()
	if err != nil {
		return err
	}
	if !canClone() {
		return fmt.Errorf("start processes in cgroups: clone3: %w", unix.ENOSYS)
	}
	if filepath.Base(dir) == own && Find() != nil {
		return nil
	}
	if err := unix.Setxattr(dir, marks[0], []byte("1"), 0); err != nil {
		return fmt.Errorf("mark cgroup %s as delegated to muxd: %w; it has to be muxd's user's, as with Delegate=yes", dir, err)
	}
	return nil
}

// ownDir is the directory of the cgroup of this process.
func ownDir() (string, error) {
	path, err := ownPath()
	if err != nil {
		return "", fmt.Errorf("find muxd's cgroup: %w", err)
	}
	b, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return "", fmt.Errorf("find where cgroups are: %w", err)
	}
	dir := locate(b, path)
	if dir == "" {
		return "", fmt.Errorf("cgroup %s of version 2 is not mounted", path)
	}
	return dir, nil
}

// Dir is its path.
func (t *Tree) Dir() string { return t.dir }

func marked(dir string) bool {
	for _, name := range marks {
		var b [8]byte
		if n, err := unix.Getxattr(dir, name, b[:]); err == nil && string(b[:n]) == "1" {
			return true
		}
	}
	return false
}

// ownPath is the path of this process's cgroup, below the root of its cgroup namespace.
func ownPath() (string, error) {
	b, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return "", err
	}
	for line := range bytes.Lines(b) {
		if path, ok := bytes.CutPrefix(bytes.TrimSuffix(line, []byte{'\n'}), []byte("0::")); ok {
			return string(path), nil
		}
	}
	return "", fmt.Errorf("no cgroup of version 2: %w", os.ErrNotExist)
}

// locate returns where the cgroup of that path is in the file system; empty where it is nowhere.
func locate(mountinfo []byte, path string) string {
	if strings.HasPrefix(path, "/..") { // outside the namespace
		return ""
	}
	for line := range bytes.Lines(mountinfo) {
		// ID PARENT DEVICE ROOT MOUNTPOINT OPTIONS [FIELD...] - TYPE ... (proc_pid_mountinfo(5))
		fields := strings.Fields(string(line))
		sep := 6
		for sep < len(fields) && fields[sep] != "-" {
			sep++
		}
		if sep+1 >= len(fields) || fields[sep+1] != "cgroup2" {
			continue
		}
		root, at := unescape(fields[3]), unescape(fields[4])
		below, err := filepath.Rel(root, path)
		if err != nil || below == ".." || strings.HasPrefix(below, "../") {
			continue
		}
		return filepath.Join(at, below)
	}
	return ""
}

// unescape replaces what the kernel writes for spaces and the like, a backslash and three octal digits.
func unescape(s string) string {
	var out []byte
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+3 < len(s) {
			if n, err := strconv.ParseUint(s[i+1:i+4], 8, 8); err == nil {
				out = append(out, byte(n))
				i += 3
				continue
			}
		}
		out = append(out, s[i])
	}
	return string(out)
}

// canClone says whether the kernel has clone3(2), and nothing forbids it: without arguments it is EINVAL.
func canClone() bool {
	_, _, errno := unix.Syscall(unix.SYS_CLONE3, 0, 0, 0)
	return errno == unix.EINVAL
}
