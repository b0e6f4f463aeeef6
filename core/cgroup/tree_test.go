package cgroup

import (
	"bufio"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/muxd/muxd/internal/need"
)

// insideEnv is set for a process of these tests that was started in a cgroup which is delegated to it.
const insideEnv = "CGROUP_TEST_INSIDE"

// inside runs the test once more, in such a process, and says whether this is that one.
func inside(t *testing.T, uid int) bool {
	t.Helper()
	if os.Getenv(insideEnv) != "" {
		return true
	}
	if uid != os.Geteuid() {
		need.Root(t)
	}
	dir := need.Cgroup(t, uid)
	cmd := exec.Command("/proc/self/exe", "-test.run", "^"+t.Name()+"$", "-test.v", "-test.timeout", "1m")
	cmd.Env = append(os.Environ(), insideEnv+"=1")
	cmd.Dir = "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(uid), Gid: uint32(uid)}}
	need.InCgroup(t, cmd.SysProcAttr, dir)
	out, err := cmd.CombinedOutput()
	if err != nil || !strings.Contains(string(out), "--- PASS: "+t.Name()) {
		t.Fatalf("in cgroup %s: %v\n%s", dir, err, out)
	}
	return false
}

// claimed returns the tree of this process, which has taken possession of it.
func claimed(t *testing.T) *Tree {
	t.Helper()
	tree := Find()
	if tree == nil {
		t.Fatal("no tree is found")
	}
	if err := tree.Claim("here"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(tree.Leave)
	return tree
}

// start runs a script in a leaf, and returns when n processes have written a line.
func start(t *testing.T, tree *Tree, leaf, script string, n int) {
	t.Helper()
	if err := tree.Make(leaf); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("/bin/sh", "-c", script)
	cmd.SysProcAttr = &syscall.SysProcAttr{}
	need.InCgroup(t, cmd.SysProcAttr, tree.Path(leaf))
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	for lines := bufio.NewReader(out); n > 0; n-- {
		if _, err := lines.ReadString('\n'); err != nil {
			t.Fatal(err)
		}
	}
}

// daemons are three processes, each in a session of its own.
const daemons = `setsid sh -c 'setsid sh -c "echo one; exec sleep 1000" & echo two; exec sleep 1000' & echo three; exec sleep 1000`

func TestTree(t *testing.T) {
	testTree(t, os.Geteuid())
}

func TestTreeOfAnOrdinaryUser(t *testing.T) {
	testTree(t, 65534)
}

func testTree(t *testing.T, uid int) {
	if !inside(t, uid) {
		return
	}
	tree := claimed(t)
	if again := Find(); again == nil || again.Dir() != tree.Dir() {
		t.Errorf("from its own leaf another tree is found: %v, want %v", again, tree)
	}
	if path, err := ownPath(); err != nil || filepath.Base(path) != own {
		t.Errorf("after Claim this process is in %s, %v", path, err)
	}
	for name, kill := range map[string]func(string) error{"Kill": tree.Kill, "killEach": tree.killEach} {
		leaf := LeafOf("x" + strings.ToLower(name))
		start(t, tree, leaf, daemons, 3)
		if n := len(tree.Processes(leaf)); n != 3 || !tree.Populated(leaf) {
			t.Errorf("%s: %d processes before, want 3", name, n)
		}
		if populated, err := tree.Remove(leaf); !populated || err != nil {
			t.Errorf("%s: removed while there are processes: %v, %v", name, populated, err)
		}
		if got, err := tree.Leaves(); !slices.Equal(got, []string{leaf}) || err != nil {
			t.Errorf("%s: leaves %v, %v", name, got, err)
		}
		if tree.WaitEmpty(leaf, time.Millisecond) {
			t.Errorf("%s: empty before", name)
		}
		if err := kill(leaf); err != nil || !tree.WaitEmpty(leaf, 30*time.Second) {
			t.Errorf("%s: %v, and left are %v", name, err, tree.Processes(leaf))
		}
		if populated, err := tree.Remove(leaf); populated || err != nil || tree.Has(leaf) {
			t.Errorf("%s: removed: %v, %v", name, populated, err)
		}
	}
	const none = "child-none"
	if populated, err := tree.Remove(none); tree.Kill(none) != nil || tree.killEach(none) != nil || populated || err != nil || !tree.WaitEmpty(none, 0) {
		t.Errorf("a leaf that is not there is not gone")
	}
}

// A child may divide its leaf, as a container's runtime does.
func TestDividedLeaf(t *testing.T) {
	if !inside(t, os.Geteuid()) {
		return
	}
	tree := claimed(t)
	leaf := LeafOf("divided")
	start(t, tree, leaf, `mkdir -p `+tree.Path(leaf)+`/a/b && echo 0 >`+tree.Path(leaf)+`/a/b/cgroup.procs && echo ready && exec sleep 1000`, 1)
	if n := len(tree.Processes(leaf)); n != 1 {
		t.Errorf("%d processes, want the one two levels below", n)
	}
	if err := tree.Kill(leaf); err != nil || !tree.WaitEmpty(leaf, 30*time.Second) {
		t.Fatalf("it lives: %v", err)
	}
	if populated, err := tree.Remove(leaf); populated || err != nil || tree.Has(leaf) {
		t.Errorf("it is not removed: %v, %v", populated, err)
	}
}

// A tree has one muxd at a time.
func TestClaim(t *testing.T) {
	if !inside(t, os.Geteuid()) {
		return
	}
	tree := claimed(t)
	if err := tree.Claim("here"); err != nil {
		t.Errorf("the same once more: %v", err)
	}
	if err := tree.Claim("elsewhere"); err == nil || !strings.Contains(err.Error(), "divided by the muxd of here") {
		t.Errorf("a second muxd, beside one that lives: %v", err)
	}
	if err := enter(tree.dir); err != nil {
		t.Fatal(err)
	}
	if err := tree.Claim("elsewhere"); err != nil {
		t.Errorf("a second muxd, after the first: %v", err)
	}
}

// What nobody has marked is not divided, whatever one may write there.
func TestNotDelegated(t *testing.T) {
	if !inside(t, os.Geteuid()) {
		return
	}
	tree := Find()
	if tree == nil {
		t.Fatal("no tree is found")
	}
	if err := unix.Removexattr(tree.dir, "user.delegate"); err != nil {
		t.Fatal(err)
	}
	if again := Find(); again != nil {
		t.Errorf("%s is not delegated any more, and found all the same", again.dir)
	}
	if err := Mark(); err != nil {
		t.Errorf("whoever runs muxd says so: %v", err)
	}
	if claimed(t).dir != tree.dir {
		t.Error("another one is found")
	}
	if err := Mark(); err != nil {
		t.Errorf("once more, from muxd's own leaf: %v", err)
	}
	if again := Find(); again == nil || again.dir != tree.dir || marked(tree.Path(own)) {
		t.Error("muxd's own leaf is marked")
	}
}

func TestLocate(t *testing.T) {
	const hybrid = `24 1 0:22 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755
25 24 0:23 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,name=systemd
26 24 0:24 / /sys/fs/cgroup/unified rw,relatime shared:9 master:1 - cgroup2 cgroup2 rw
`
	const bound = `26 24 0:24 /a/b\040c /mnt/x\134y rw - cgroup2 cgroup2 rw
`
	for _, x := range []struct{ info, path, want string }{
		{hybrid, "/", "/sys/fs/cgroup/unified"},
		{hybrid, "/system.slice/muxd.service", "/sys/fs/cgroup/unified/system.slice/muxd.service"},
		{hybrid, "/../other", ""},
		{bound, "/a/b c/d", `/mnt/x\y/d`},
		{bound, "/a/b cd", ""},
		{bound, "/a", ""},
		{"", "/", ""},
		{"1 2 3\n", "/", ""},
	} {
		if got := locate([]byte(x.info), x.path); got != x.want {
			t.Errorf("%s: %q, want %q", x.path, got, x.want)
		}
	}
}
