package need

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// Cgroup returns the path of a new cgroup of version 2 that is delegated to a user, as systemd does it. At the test's end what is in it is
// killed, and it is removed. Where none can be made the test is skipped: it is the machine's to say, whoever checks on it.
func Cgroup(t testing.TB, uid int) string {
	t.Helper()
	parent, err := ownCgroup()
	if err != nil {
		t.Skipf("this process is in no cgroup of version 2: %v", err)
	}
	dir, err := os.MkdirTemp(parent, "muxd-test-")
	if err != nil {
		t.Skipf("no cgroup can be made on this machine: %v", err)
	}
	t.Cleanup(func() { removeCgroup(t, dir) })
	if err := unix.Setxattr(dir, "user.delegate", []byte("1"), 0); err != nil {
		t.Skipf("no cgroup can be marked as delegated on this machine: %v", err)
	}
	if _, err := os.Stat(filepath.Join(dir, "cgroup.kill")); err != nil {
		t.Skipf("cgroups cannot be killed on this machine: %v", err)
	}
	for _, name := range []string{"", "cgroup.procs", "cgroup.threads", "cgroup.subtree_control"} {
		if err := os.Chown(filepath.Join(dir, name), uid, uid); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// InCgroup has a command that is not started yet be started in a cgroup.
func InCgroup(t testing.TB, attr *syscall.SysProcAttr, dir string) {
	t.Helper()
	n, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(n) })
	attr.UseCgroupFD, attr.CgroupFD = true, n
}

// ownCgroup is where the cgroup of this process is, if its hierarchy is mounted as a whole.
func ownCgroup() (string, error) {
	b, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return "", err
	}
	_, path, found := strings.Cut("\n"+string(b), "\n0::")
	if !found {
		return "", errors.New("/proc/self/cgroup names none")
	}
	path, _, _ = strings.Cut(path, "\n")
	for _, mount := range []string{"/sys/fs/cgroup", "/sys/fs/cgroup/unified"} {
		if _, err := os.Stat(filepath.Join(mount, path, "cgroup.procs")); err == nil {
			var st unix.Statfs_t
			if unix.Statfs(mount, &st) == nil && st.Type == unix.CGROUP2_SUPER_MAGIC {
				return filepath.Join(mount, path), nil
			}
		}
	}
	return "", errors.New("it is mounted neither at /sys/fs/cgroup nor at /sys/fs/cgroup/unified")
}

func removeCgroup(t testing.TB, dir string) {
	t.Helper()
	os.WriteFile(filepath.Join(dir, "cgroup.kill"), []byte("1"), 0)
	events, err := unix.Open(filepath.Join(dir, "cgroup.events"), unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Errorf("remove cgroup %s: %v", dir, err)
		return
	}
	defer unix.Close(events)
	for deadline := time.Now().Add(30 * time.Second); ; {
		b := make([]byte, 100)
		n, _ := unix.Pread(events, b, 0)
		if bytes.Contains(b[:max(n, 0)], []byte("populated 0")) {
			break
		}
		if time.Now().After(deadline) {
			t.Errorf("cgroup %s is not empty 30 seconds after it was killed", dir)
			return
		}
		unix.Poll([]unix.PollFd{{Fd: int32(events), Events: unix.POLLPRI}}, 1000)
	}
	var all []string
	filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() {
			all = append(all, path)
		}
		return nil
	})
	for i := len(all) - 1; i >= 0; i-- {
		if err := unix.Rmdir(all[i]); err != nil {
			t.Errorf("remove cgroup %s: %v", all[i], err)
		}
	}
}
