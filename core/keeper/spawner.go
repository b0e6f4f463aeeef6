package keeper

import (
	"fmt"
	"os"
	"runtime"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/muxd/muxd/core/keeper/keeperpb"
	"github.com/muxd/muxd/internal/fd"
)

// spawner is the one thread that starts processes. umask, working directory and signal mask are set on it
// before a fork, since a child inherits them from the thread that forks: the thread has left the fs_struct
// that the process's threads share (unshare(2), CLONE_FS), so nobody else sees them change. Where a seccomp
// filter forbids that (containers), they change for the whole keeper for a moment: then only this thread may
// use them, and so it is, since the keeper makes no file and uses absolute paths once it runs.
//
// Jobs run one after another. An execve of a file on a file system that does not answer holds up the next.
type spawner struct {
	jobs chan func()
	done chan struct{}
	cwd  *fd.FD // the keeper's own working directory
	once sync.Once
}

// spawnQueue is how many spawns may wait before the agent's next request does.
const spawnQueue = 64

func newSpawner() (*spawner, error) {
	n, err := unix.Open(".", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open the working directory: %w", err)
	}
	s := &spawner{jobs: make(chan func(), spawnQueue), done: make(chan struct{}), cwd: fd.New(n)}
	ready := make(chan error)
	go s.run(ready)
	if err := <-ready; err != nil {
		<-s.done
		s.cwd.Close()
		return nil, err
	}
	return s, nil
}

func (s *spawner) run(ready chan<- error) {
	defer close(s.done)
	runtime.LockOSThread() // and never unlocked: the thread ends with the goroutine
	// EPERM is a seccomp filter's, see above; the call itself needs no privilege.
	if err := unix.Unshare(unix.CLONE_FS); err != nil && err != unix.EPERM && err != unix.ENOSYS {
		ready <- os.NewSyscallError("unshare", err)
		return
	}
	// ForkExec gives the child the mask of the forking thread.
	if err := unix.PthreadSigmask(unix.SIG_SETMASK, &unix.Sigset_t{}, nil); err != nil {
		ready <- os.NewSyscallError("rt_sigprocmask", err)
		return
	}
	close(ready)
	for job := range s.jobs {
		job()
	}
}

// close lets the jobs that wait run, and waits for them, but not for ever: an execve may be stuck in the
// kernel. A second close does nothing. Nobody may send a job any more.
func (s *spawner) close() {
	s.once.Do(func() {
		close(s.jobs)
		select {
		case <-s.done:
			s.cwd.Close()
		case <-time.After(killGrace):
		}
	})
}

// program is what to start. It owns nothing.
type program struct {
	path       string  // looked up in env's PATH where it has no slash
	file       *uint32 // the process's descriptor of the file to execute; nil: path says which
	argv, env  []string
	cwd        string // empty: the keeper's own
	files      []uintptr
	session    bool // a session of its own; otherwise a process group of its own
	terminal   bool // fd 0 becomes the session's controlling terminal
	umask      *uint32
	credential *keeperpb.Credential
	rlimits    []*keeperpb.Rlimit
	confine    *keeperpb.Confine
}

// noFile stands in program.files for a number that the process shall not have open.
const noFile = ^uintptr(0)

// child is a process that was started.
type child struct {
	pid   int
	pidfd *fd.FD // owned by the caller; closed where the kernel gives none
}

// start starts p. It is called on the spawner's thread, and blocks until the program has been executed or
// could not be.
func (s *spawner) start(p *program) (child, *Error) {
	if err := unix.Fchdir(s.cwd.Int()); err != nil {
		return child{}, fail(err.(syscall.Errno), "enter muxd's own working directory")
	}
	defer unix.Fchdir(s.cwd.Int())

	var exe string
	err := asUser(p.credential, func() *Error {
		if p.cwd != "" {
			if err := unix.Chdir(p.cwd); err != nil {
				return fail(err.(syscall.Errno), "working directory %q", p.cwd)
			}
		}
		if p.file != nil { // execve(2) says what is wrong with it
			exe = fmt.Sprintf("/proc/self/fd/%d", *p.file)
			return nil
		}
		var err *Error
		exe, err = lookPath(p.path, p.env)
		return err
	})
	if err != nil {
		return child{}, err
	}
	if p.umask != nil {
		defer unix.Umask(unix.Umask(int(*p.umask)))
	}
	if len(p.rlimits) > 0 || p.confine != nil {
		return startShim(p, exe)
	}
	c, errno := forkExec(exe, p.argv, p.env, p)
	if errno != 0 {
		return child{}, explain(errno, exe, p)
	}
	return c, nil
}

// forkExec starts exe in the thread's working directory and umask.
func forkExec(exe string, argv, env []string, p *program) (child, syscall.Errno) {
	pidfd := -1
	sys := &syscall.SysProcAttr{
		Setsid:  p.session,
		Setpgid: !p.session,
		Setctty: p.terminal,
		Ctty:    0,
		PidFD:   &pidfd,
	}
	if c := p.credential; c != nil {
		sys.Credential = &syscall.Credential{Uid: c.GetUid(), Gid: c.GetGid(), Groups: c.GetGroups()}
	}
	pid, err := syscall.ForkExec(exe, argv, &syscall.ProcAttr{Env: env, Files: p.files, Sys: sys})
	if err != nil {
		errno, ok := err.(syscall.Errno)
		if !ok {
			errno = syscall.EINVAL
		}
		return child{}, errno
	}
	return child{pid: pid, pidfd: fd.New(pidfd)}, 0
}
