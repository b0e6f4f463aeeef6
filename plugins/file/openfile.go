package file

import (
	"errors"
	"fmt"
	iofs "io/fs"
	"os"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"
)

// dirPerm is for parent directories that do not exist.
const dirPerm = 0o750

// identity is what makes two names the same file.
type identity struct {
	dev, ino uint64
}

func identityOf(info iofs.FileInfo) identity {
	st := info.Sys().(*syscall.Stat_t)
	return identity{st.Dev, st.Ino}
}

// birthOf is when f was made; 0 where the file system does not tell. The number of a file that is deleted is given to
// another one soon.
func birthOf(f *os.File) (uint64, error) {
	raw, err := f.SyscallConn()
	if err != nil {
		return 0, err
	}
	var st unix.Statx_t
	var statErr error
	err = raw.Control(func(n uintptr) {
		statErr = unix.Statx(int(n), "", unix.AT_EMPTY_PATH|unix.AT_STATX_DONT_SYNC, unix.STATX_BTIME, &st)
	})
	if err = errors.Join(err, statErr); err != nil || st.Mask&unix.STATX_BTIME == 0 {
		return 0, err
	}
	return uint64(st.Btime.Sec)*1e9 + uint64(st.Btime.Nsec), nil
}

// openAppend opens path for appending, and makes it and its parents where they do not exist, on the disk too where s
// wants it synced. The file is returned, owned by the caller.
//
// O_NONBLOCK keeps the open of a FIFO that nobody reads from waiting for a reader (fifo(7): it is ENXIO then).
func (fs *files) openAppend(path string, s settings) (*os.File, error) {
	const flags = unix.O_WRONLY | unix.O_APPEND | unix.O_NONBLOCK | unix.O_NOCTTY | unix.O_CLOEXEC
	made, top := false, ""
	for {
		n, err := openRetry(path, flags, 0)
		if errors.Is(err, unix.ENOENT) {
			top = existing(filepath.Dir(path))
			if err = os.MkdirAll(filepath.Dir(path), dirPerm); err == nil {
				err = s.owner.giveDirs(filepath.Dir(path), top)
			}
			if err != nil {
				return nil, explain(err, path)
			}
			n, err = s.create(path, flags)
			if errors.Is(err, unix.EEXIST) && !dangling(path) {
				continue // somebody else made it in between
			}
			made = err == nil
		}
		if err != nil {
			return nil, explain(&iofs.PathError{Op: "open", Path: path, Err: err}, path)
		}
		f := os.NewFile(uintptr(n), path)
		if err := judge(f, path); err != nil {
			f.Close()
			return nil, err
		}
		if made && s.synced() {
			if err := fs.syncDirs(path, top); err != nil {
				f.Close()
				return nil, explain(err, path)
			}
		}
		return f, nil
	}
}

// create makes the file, which has owner and mode before it has its name: whoever is killed over it leaves none with others. Where the
// file system has no files without a name (open(2), O_TMPFILE), it is made first.
func (s settings) create(path string, flags int) (int, error) {
	n, err := openRetry(filepath.Dir(path), flags|unix.O_TMPFILE, uint32(s.perm))
	nameless := err == nil
	if err == unix.EOPNOTSUPP || err == unix.EISDIR {
		n, err = openRetry(path, flags|unix.O_CREAT|unix.O_EXCL, uint32(s.perm))
	}
	if err != nil {
		return -1, err
	}
	if err = s.owner.give(n); err == nil {
		err = unix.Fchmod(n, uint32(s.perm)) // open(2) took the umask from it
	}
	if err == nil && nameless {
		err = unix.Linkat(unix.AT_FDCWD, fmt.Sprintf("/proc/self/fd/%d", n), unix.AT_FDCWD, path, unix.AT_SYMLINK_FOLLOW)
	}
	if err != nil {
		unix.Close(n)
		return -1, err
	}
	if nameless { // /proc/PID/fd would call it "(deleted)" for ever, of children that have the file itself too
		if again, err := openRetry(path, flags, 0); err == nil {
			unix.Close(n)
			return again, nil
		} // it may be made such that it cannot be opened again
	}
	return n, nil
}

// existing is the nearest parent of dir, or dir, that there is.
func existing(dir string) string {
	for {
		if _, err := os.Stat(dir); err == nil || dir == filepath.Dir(dir) {
			return dir
		}
		dir = filepath.Dir(dir)
	}
}

func openRetry(path string, flags int, perm uint32) (int, error) {
	for {
		n, err := unix.Open(path, flags, perm)
		if err != unix.EINTR {
			return n, err
		}
	}
}

// dangling says whether path is a symbolic link to nothing, which O_EXCL does not follow.
func dangling(path string) bool {
	_, err := os.Stat(path)
	info, linkErr := os.Lstat(path)
	return errors.Is(err, iofs.ErrNotExist) && linkErr == nil && info.Mode()&iofs.ModeSymlink != 0
}

// judge refuses what output cannot be appended to.
func judge(f *os.File, path string) error {
	info, err := f.Stat()
	if err != nil {
		return err
	}
	switch m := info.Mode(); {
	case m.IsRegular(), m&iofs.ModeNamedPipe != 0, m&iofs.ModeCharDevice != 0:
		return nil
	default:
		return fmt.Errorf("open %s: it is neither a file, a FIFO nor a character device (%s)", path, m)
	}
}

// explain adds a way out to the error of opening path.
func explain(err error, path string) error {
	hint := ""
	switch {
	case errors.Is(err, unix.EISDIR):
		hint = "name a file in it, as in " + filepath.Join(path, "{name}.log")
	case errors.Is(err, unix.EEXIST) && dangling(path):
		hint = "it is a symbolic link to nothing; make what it points to, or remove it"
	case errors.Is(err, unix.ENXIO):
		hint = "it is a FIFO that nobody reads; start its reader first"
		if info, statErr := os.Stat(path); statErr == nil && info.Mode()&iofs.ModeSocket != 0 {
			hint = "it is a socket; use the sink socket:unix:" + path
		}
	case errors.Is(err, iofs.ErrPermission):
		hint = fmt.Sprintf("let user id %d write there, or choose another path", os.Geteuid())
	case errors.Is(err, unix.ENOTDIR):
		hint = "one of its parents is a file"
	case errors.Is(err, unix.EROFS):
		hint = "the file system is mounted read-only; choose another path"
	case errors.Is(err, unix.ENOSPC), errors.Is(err, unix.EDQUOT):
		hint = "free some space, or choose another path"
	case errors.Is(err, unix.EIO):
		hint = "the disk or its file system fails (see the kernel's log); mend that, or choose another path"
	case errors.Is(err, unix.EMFILE), errors.Is(err, unix.ENFILE):
		hint = "raise the limit of open files"
	}
	if hint == "" {
		return err
	}
	return fmt.Errorf("%w; %s", err, hint)
}
