package cgroup

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// leaves is what the name of each child's leaf begins with.
const leaves = "child-"

// LeafOf is the name of the leaf of the child with that id, over all its runs.
func LeafOf(id string) string { return leaves + id }

// ownerMark is an extended attribute of muxd's own leaf: whose tree it is.
const ownerMark = "user.muxd"

// Claim makes the tree that of the muxd which owner tells from others, and moves this process into muxd's own leaf, with all that it will
// start. It is an error where another muxd has it.
func (t *Tree) Claim(owner string) error {
	leaf := t.Path(own)
	if err := os.Mkdir(leaf, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("make muxd's own cgroup: %w", err)
	}
	err := unix.Setxattr(leaf, ownerMark, []byte(owner), unix.XATTR_CREATE)
	if err == unix.EEXIST {
		before := make([]byte, unix.PathMax)
		n, getErr := unix.Getxattr(leaf, ownerMark, before)
		switch {
		case getErr != nil:
			return fmt.Errorf("ask whose cgroup %s is: %w", leaf, getErr)
		case string(before[:n]) == owner:
			err = nil
		case t.Populated(own):
			return fmt.Errorf("cgroup %s is divided by the muxd of %s already", t.dir, before[:n])
		default:
			err = unix.Setxattr(leaf, ownerMark, []byte(owner), unix.XATTR_REPLACE)
		}
	}
	if err != nil {
		return fmt.Errorf("make cgroup %s muxd's own: %w", leaf, err)
	}
	return enter(leaf)
}

// Leave moves this process out of muxd's own leaf, and removes that.
func (t *Tree) Leave() {
	if enter(t.dir) == nil {
		os.Remove(t.Path(own))
	}
}

// enter moves this process into a cgroup.
func enter(dir string) error {
	if err := os.WriteFile(filepath.Join(dir, "cgroup.procs"), []byte("0"), 0); err != nil {
		return fmt.Errorf("enter the cgroup: %w", err)
	}
	return nil
}

// Path is the path of a leaf.
func (t *Tree) Path(leaf string) string { return filepath.Join(t.dir, leaf) }

// Make makes a leaf, if it is not there.
func (t *Tree) Make(leaf string) error {
	if err := os.Mkdir(t.Path(leaf), 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("make a cgroup: %w", err)
	}
	return nil
}

// Leaves lists the leaves of children.
func (t *Tree) Leaves() ([]string, error) {
	entries, err := os.ReadDir(t.dir)
	if err != nil {
		return nil, err
	}
	var out []string
	for _, e := range entries {
		if e.IsDir() && strings.HasPrefix(e.Name(), leaves) {
			out = append(out, e.Name())
		}
	}
	return out, nil
}

// Has says whether a leaf is there.
func (t *Tree) Has(leaf string) bool {
	_, err := os.Stat(t.Path(leaf))
	return err == nil
}

// Populated says whether a process is in the leaf, or in a cgroup below it. One that is a zombie is not.
func (t *Tree) Populated(leaf string) bool {
	b, err := os.ReadFile(t.Events(leaf))
	return err == nil && bytes.Contains(b, []byte("populated 1\n"))
}

// Events is the file that changes when Populated does (inotify(7), poll(2)).
func (t *Tree) Events(leaf string) string { return filepath.Join(t.Path(leaf), "cgroup.events") }

// Processes lists who is in the leaf, and in cgroups below it. It is nobody where there is none.
func (t *Tree) Processes(leaf string) []int {
	var out []int
	for _, dir := range t.below(leaf) {
		b, err := os.ReadFile(filepath.Join(dir, "cgroup.procs"))
		if err != nil {
			continue
		}
		for _, word := range bytes.Fields(b) {
			if pid, err := strconv.Atoi(string(word)); err == nil && pid > 0 { // 0: it is in another pid namespace
				out = append(out, pid)
			}
		}
	}
	return out
}

// below lists the leaf and the cgroups below it, each behind what is below it.
func (t *Tree) below(leaf string) []string {
	var out []string
	filepath.WalkDir(t.Path(leaf), func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() {
			out = append([]string{path}, out...)
		}
		return nil
	})
	return out
}

// Kill has everything in the leaf killed, and all that it starts meanwhile. It is no error where there is none. Processes are gone
// a moment later: see WaitEmpty.
func (t *Tree) Kill(leaf string) error {
	err := os.WriteFile(filepath.Join(t.Path(leaf), "cgroup.kill"), []byte("1"), 0)
	if errors.Is(err, fs.ErrNotExist) {
		err = t.killEach(leaf) // before Linux 5.14, or there is no leaf
	}
	if err != nil {
		return fmt.Errorf("kill what is in a cgroup: %w", err)
	}
	return nil
}

// killEach is Kill, of processes that are frozen meanwhile: they start none, and die all the same.
func (t *Tree) killEach(leaf string) error {
	freeze := filepath.Join(t.Path(leaf), "cgroup.freeze")
	if err := os.WriteFile(freeze, []byte("1"), 0); err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return err
	}
	defer os.WriteFile(freeze, []byte("0"), 0)
	t.await(leaf, "frozen 1\n", time.Second) // one in an uninterruptible sleep is not, and starts nothing either
	for _, pid := range t.Processes(leaf) {
		unix.Kill(pid, unix.SIGKILL) // EPERM: another user's, which the kernel alone can kill here
	}
	return nil
}

// WaitEmpty blocks until nobody is in the leaf, and says whether that came in time.
func (t *Tree) WaitEmpty(leaf string, timeout time.Duration) bool {
	return t.await(leaf, "populated 0\n", timeout)
}

// await blocks until a leaf's events say something, and says whether that came in time. A leaf that is not there says everything.
func (t *Tree) await(leaf, what string, timeout time.Duration) bool {
	deadline := time.Now().Add(timeout)
	n, err := unix.Open(t.Events(leaf), unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err == unix.ENOENT
	}
	defer unix.Close(n)
	b := make([]byte, 256)
	for {
		got, err := unix.Pread(n, b, 0)
		if err == unix.ENODEV || bytes.Contains(b[:max(got, 0)], []byte(what)) {
			return true
		}
		left := time.Until(deadline)
		if left <= 0 || err != nil && err != unix.EINTR {
			return false
		}
		unix.Poll([]unix.PollFd{{Fd: int32(n), Events: unix.POLLPRI}}, int(left.Milliseconds())+1)
	}
}

// Remove removes a leaf, and says whether somebody is in it still: then it stays. It is no error where there is none.
func (t *Tree) Remove(leaf string) (populated bool, err error) {
	err = unix.Rmdir(t.Path(leaf))
	if err == unix.EBUSY && t.Populated(leaf) {
		return true, nil
	}
	if err == unix.EBUSY { // somebody who was in it has divided it
		for _, dir := range t.below(leaf) {
			err = unix.Rmdir(dir)
		}
	}
	switch err {
	case nil, unix.ENOENT:
		return false, nil
	case unix.EBUSY:
		return true, nil // somebody came meanwhile
	}
	return false, fmt.Errorf("remove cgroup %s: %w", t.Path(leaf), err)
}
