package keeper

import (
	"bufio"
	"bytes"
	"debug/elf"
	"fmt"
	"os"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// defaultPath is where programs are looked up when the child's environment has no PATH.
const defaultPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// lookPath returns the program of that name as execvp(3) would find it, for the identity and in the working
// directory of the calling thread: directories and what may not be executed are passed over.
func lookPath(name string, env []string) (string, *Error) {
	if name == "" {
		return "", fail(syscall.ENOENT, "the program's name is empty")
	}
	if strings.Contains(name, "/") {
		if errno := executable(name); errno != 0 {
			return "", fail(errno, "%s", unusable(name, errno))
		}
		return name, nil
	}
	path := defaultPath
	for _, kv := range env {
		if v, ok := strings.CutPrefix(kv, "PATH="); ok {
			path = v // the first one, as getenv(3) finds it
			break
		}
	}
	denied := ""
	for _, dir := range strings.Split(path, ":") {
		candidate := dir + "/" + name
		if dir == "" { // an empty entry is the working directory
			candidate = "./" + name
		}
		switch errno := executable(candidate); errno {
		case 0:
			return candidate, nil
		case syscall.EACCES:
			denied = candidate
		}
	}
	if denied != "" {
		return "", fail(syscall.EACCES, "%s, the only %q in PATH (%s)", unusable(denied, syscall.EACCES), name, path)
	}
	return "", fail(syscall.ENOENT, "program %q was not found in PATH (%s)", name, path)
}

// executable says why the calling thread may not execute path; 0 where it may. Directories are EACCES, as
// with execve(2).
func executable(path string) syscall.Errno {
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return err.(syscall.Errno)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG {
		return syscall.EACCES
	}
	if err := unix.Faccessat(unix.AT_FDCWD, path, unix.X_OK, unix.AT_EACCESS); err != nil {
		return err.(syscall.Errno)
	}
	return 0
}

// unusable says in words what executable found.
func unusable(path string, errno syscall.Errno) string {
	var st unix.Stat_t
	switch err := unix.Stat(path, &st); {
	case errno != syscall.EACCES || err != nil:
		return fmt.Sprintf("program %q", path)
	case st.Mode&unix.S_IFMT == unix.S_IFDIR:
		return fmt.Sprintf("program %q is a directory", path)
	case st.Mode&unix.S_IFMT != unix.S_IFREG:
		return fmt.Sprintf("program %q is not a regular file", path)
	}
	return fmt.Sprintf("program %q (mode %04o) is not executable for this user, or lies on a noexec file system", path, st.Mode&0o7777)
}

// explain says in words why exe, which is there and may be executed, could not be started.
func explain(errno syscall.Errno, exe string, p *program) *Error {
	if p.file != nil {
		exe = p.path
	}
	switch errno {
	case syscall.ENOENT:
		if in := interpreter(exe); in != "" {
			return fail(errno, "program %q needs the interpreter %q, which is not there", exe, in)
		}
	case syscall.EACCES:
		if in := interpreter(exe); in != "" {
			return fail(errno, "program %q or its interpreter %q may not be executed", exe, in)
		}
	case syscall.ENOEXEC:
		return fail(errno, "program %q is no binary for this machine and no script that begins with #!", exe)
	case syscall.E2BIG:
		return fail(errno, "program %q: %s", exe, weight(p))
	case syscall.EAGAIN:
		return fail(errno, "start %q: the user's limit of processes (RLIMIT_NPROC) or the cgroup's (pids.max) is reached", exe)
	case syscall.EMFILE, syscall.ENFILE:
		return fail(errno, "start %q: no descriptors left", exe)
	case syscall.ENOTTY:
		return fail(errno, "start %q: fd 0 shall be its controlling terminal, and is no terminal", exe)
	case syscall.EPERM:
		if c := p.credential; c != nil {
			return mayNot(c, errno)
		}
	case syscall.EINVAL:
		if hasNUL(p) {
			return fail(errno, "program %q: a NUL byte in an argument or in the environment", exe)
		}
	}
	return fail(errno, "start %q", exe)
}

// weight says what makes execve(2) answer E2BIG: one string of 128 KiB, or all together over a quarter of
// RLIMIT_STACK.
func weight(p *program) string {
	const longest = 128 << 10
	total, count := 0, 0
	for _, list := range [][]string{p.argv, p.env} {
		for _, s := range list {
			if len(s) >= longest {
				return fmt.Sprintf("one argument or variable has %d bytes, and the kernel takes %d", len(s), longest-1)
			}
			total += len(s) + 1
			count++
		}
	}
	return fmt.Sprintf("arguments and environment have %d bytes in %d strings, more than a quarter of RLIMIT_STACK", total, count)
}

func hasNUL(p *program) bool {
	for _, list := range [][]string{{p.path, p.cwd}, p.argv, p.env} {
		for _, s := range list {
			if strings.IndexByte(s, 0) >= 0 {
				return true
			}
		}
	}
	return false
}

// interpreter returns the interpreter that a #! script or a dynamic binary names, or "".
func interpreter(exe string) string {
	f, err := os.Open(exe)
	if err != nil {
		return ""
	}
	defer f.Close()
	head, _ := bufio.NewReaderSize(f, 256).Peek(256) // the kernel looks at no more (BINPRM_BUF_SIZE)
	if script, ok := bytes.CutPrefix(head, []byte("#!")); ok {
		line, _, _ := bytes.Cut(script, []byte("\n"))
		if words := strings.Fields(string(line)); len(words) > 0 {
			return words[0]
		}
		return ""
	}
	e, err := elf.NewFile(f)
	if err != nil {
		return ""
	}
	for _, part := range e.Progs {
		if part.Type == elf.PT_INTERP && part.Filesz < 4096 {
			b := make([]byte, part.Filesz)
			if _, err := part.ReadAt(b, 0); err == nil {
				return strings.TrimRight(string(b), "\x00")
			}
		}
	}
	return ""
}
