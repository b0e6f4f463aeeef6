package host

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	plugin "github.com/hashicorp/go-plugin"
	"golang.org/x/sys/unix"

	"github.com/muxd/muxd/core/keeper"
	"github.com/muxd/muxd/core/keeper/keeperpb"
	"github.com/muxd/muxd/internal/fd"
)

// This file is what keeps a plugin from more than the streams that it is given: who may have written its executable,
// whose process it becomes, and what that may reach.

// programFD is the number at which a plugin whose executable is pinned by its checksum has that very file.
const programFD = 5

// coverDir names the variable whose directory Go's coverage is written to.
const coverDir = "GOCOVERDIR"

// executable looks at the file to execute. Of one that is pinned by its checksum it returns a descriptor, owned by the caller, of the very
// file whose content was checked, whatever the name points to by then; otherwise nil.
func (r *keeperRunner) executable() (*fd.FD, error) {
	c := r.p.command
	var err error
	if r.p.file, err = c.file(); err != nil {
		return nil, err
	}
	if !c.Self {
		if err := trusted(c.Path); err != nil {
			return nil, err
		}
	}
	if c.SHA256 == "" {
		return nil, nil
	}
	f, err := os.Open(c.path())
	if err != nil {
		return nil, err
	}
	defer f.Close()
	sum := sha256.New()
	if _, err := io.Copy(sum, f); err != nil {
		return nil, fmt.Errorf("read it for its checksum: %w", err)
	}
	if got := hex.EncodeToString(sum.Sum(nil)); !strings.EqualFold(got, c.SHA256) {
		return nil, fmt.Errorf("its SHA-256 is %s, and the config wants %s", got, strings.ToLower(c.SHA256))
	}
	return fd.DupFile(f)
}

// trusted refuses an executable that somebody else than root and muxd's own user could have written, or put there.
func trusted(path string) error {
	real, err := filepath.EvalSymlinks(path)
	if err != nil {
		return err
	}
	for _, name := range []string{real, filepath.Dir(real)} {
		var st unix.Stat_t
		if err := unix.Stat(name, &st); err != nil {
			return &os.PathError{Op: "stat", Path: name, Err: err}
		}
		// In a directory with the sticky bit everybody may make files, and only their owners may replace them (inode(7)).
		sticky := st.Mode&unix.S_IFMT == unix.S_IFDIR && st.Mode&unix.S_ISVTX != 0
		switch me := os.Geteuid(); {
		case st.Uid != 0 && int(st.Uid) != me:
			return fmt.Errorf("%s belongs to user %d, who could run anything as a plugin of user %d: chown it to root or that user", name, st.Uid, me)
		case st.Mode&0o022 != 0 && !sticky:
			return fmt.Errorf("%s has mode %04o, so that others could run anything as a plugin: chmod go-w %s", name, st.Mode&0o7777, name)
		}
	}
	return nil
}

// systemPaths are what programs and their interpreters need. Of /etc it is what tells about the machine, not what is kept from anybody;
// of /proc it is the process itself, which a rule for "self" is for, since the process that makes the rule becomes the plugin.
var systemPaths = []string{
	"/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32",
	"/etc/alternatives", "/etc/ca-certificates", "/etc/gai.conf", "/etc/group", "/etc/host.conf", "/etc/hosts", "/etc/ld.so.cache",
	"/etc/ld.so.conf", "/etc/ld.so.conf.d", "/etc/ld.so.preload", "/etc/localtime", "/etc/nsswitch.conf", "/etc/passwd", "/etc/pki",
	"/etc/protocols", "/etc/resolv.conf", "/etc/services", "/etc/ssl", "/etc/timezone", "/run/systemd/resolve",
	"/proc/self", "/proc/cpuinfo", "/proc/filesystems", "/proc/meminfo", "/proc/stat", "/proc/sys", "/sys",
}

// systemDevices may be read and written by everybody, and say nothing.
var systemDevices = []string{"/dev/full", "/dev/null", "/dev/random", "/dev/urandom", "/dev/zero"}

// admit lets the process that is about to be started reach the socket directory that go-plugin has made for it, and returns its bounds;
// nil where it has none.
func (r *keeperRunner) admit() (*keeperpb.Confine, error) {
	c := r.p.command
	const socketDirEnv = plugin.EnvUnixSocketDir + "="
	i := slices.IndexFunc(r.env, func(e string) bool { return strings.HasPrefix(e, socketDirEnv) })
	if i < 0 {
		return nil, errors.New("go-plugin has made no directory for its socket")
	}
	sockets := strings.TrimPrefix(r.env[i], socketDirEnv)
	if c.User != nil {
		if me := os.Geteuid(); me != 0 {
			return nil, fmt.Errorf("muxd runs as user %d, and only root's can start it as user %d: see user in [plugins.%s]", me, c.User.Uid, r.p.name)
		}
		if err := mayReach(c.User, r.p.host.o.Dir); err != nil {
			return nil, err
		}
		if err := os.Chown(sockets, int(c.User.Uid), int(c.User.Gid)); err != nil {
			return nil, fmt.Errorf("give its socket directory to user %d: %w", c.User.Uid, err)
		}
	}
	if c.Bounds == nil {
		return nil, nil
	}
	if keeper.LandlockABI() == 0 {
		r.p.host.o.Log.Warn("plugin is not confined: this kernel has no Landlock (Linux 5.13, and lsm= of its command line)", "plugin", r.p.name)
	}
	program := c.path() // what runs as itself again may have no name any more
	if !c.Self {
		real, err := filepath.EvalSymlinks(program)
		if err != nil {
			return nil, err
		}
		program = filepath.Dir(real) // with what lies beside it, as a script's modules
	}
	bounds := &keeperpb.Confine{
		Read:  slices.Concat(systemPaths, []string{program}, c.Bounds.Read),
		Write: slices.Concat(systemDevices, []string{sockets}, c.Bounds.Write),
	}
	if dir, ok := os.LookupEnv(coverDir); ok {
		bounds.Write = append(bounds.Write, dir)
	}
	return bounds, nil
}

// mayReach says which directory on the way to dir, or dir itself, a plugin of user u cannot pass, to its socket in there.
func mayReach(u *keeperpb.Credential, dir string) error {
	for ; ; dir = filepath.Dir(dir) {
		var st unix.Stat_t
		if err := unix.Stat(dir, &st); err != nil {
			return &os.PathError{Op: "stat", Path: dir, Err: err}
		}
		search := st.Mode & 0o001
		switch {
		case u.Uid == 0:
			search = 1
		case st.Uid == u.Uid:
			search = st.Mode & 0o100
		case st.Gid == u.Gid || slices.Contains(u.Groups, st.Gid):
			search = st.Mode & 0o010
		}
		if search == 0 {
			return fmt.Errorf("%s has mode %04o, and user %d cannot reach its socket below it: chmod o+x %s", dir, st.Mode&0o7777, u.Uid, dir)
		}
		if dir == "/" {
			return nil
		}
	}
}
