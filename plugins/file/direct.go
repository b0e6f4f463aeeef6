package file

import (
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// openDirect opens what the children shall have as their output, one for each target. Streams that name one file
// share one open file description, as with "cmd >>file 2>&1". They are opened with O_APPEND, so that what several
// children write to a file stands behind each other, and they block, as a program expects of its output. The files
// are returned, owned by the caller.
func openDirect(open *files, s settings) (opened []*os.File, err error) {
	defer func() {
		if err != nil {
			for _, f := range opened {
				f.Close()
			}
			opened = nil
		}
	}()
	first, now := map[string]*os.File{}, time.Now()
	for _, t := range s.targets {
		var f *os.File
		path := pathAt(t.path, now)
		if twin := first[path]; twin != nil {
			f, err = duplicate(twin)
		} else {
			f, err = openBlocking(open, path, s)
			first[path] = f
		}
		if err != nil {
			return opened, err
		}
		opened = append(opened, f)
	}
	return opened, nil
}

// openBlocking is openAppend without O_NONBLOCK on what it returns, owned by the caller. The open file description is
// new and nobody else's yet, so its flags may be changed.
func openBlocking(open *files, path string, s settings) (*os.File, error) {
	f, err := open.openAppend(path, s)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	d, err := duplicate(f)
	if err != nil {
		return nil, err
	}
	return d, nil
}

// duplicate returns a copy of f that is in blocking mode, as f then is too, owned by the caller.
func duplicate(f *os.File) (*os.File, error) {
	raw, err := f.SyscallConn()
	if err != nil {
		return nil, err
	}
	n := -1
	var dupErr error
	err = raw.Control(func(fd uintptr) {
		if dupErr = unix.SetNonblock(int(fd), false); dupErr != nil {
			return
		}
		n, dupErr = unix.FcntlInt(fd, unix.F_DUPFD_CLOEXEC, 3)
	})
	if err == nil {
		err = dupErr
	}
	if err != nil {
		return nil, fmt.Errorf("copy descriptor of %s: %w", f.Name(), err)
	}
	return os.NewFile(uintptr(n), f.Name()), nil
}
