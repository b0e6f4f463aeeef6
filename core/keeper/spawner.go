package keeper

import (
	"cmp"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strconv"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/muxd/muxd/core/keeper/keeperpb"
	"github.com/muxd/muxd/internal/fd"
	"github.com/muxd/muxd/internal/fdchan"
)

// spawner starts processes, one after another, on one thread of its own. umask, working directory and signal mask are set on it
// before a fork, since a child inherits them from the thread that forks: the thread has left the fs_struct
// that the process's threads share (unshare(2), CLONE_FS), so nobody else sees them change. Where a seccomp
// filter forbids that (containers), they change for the whole keeper for a moment: then only this thread may
// use them, and so it is, since the keeper makes no file and uses absolute paths once it runs.
//
// The thread has a table of descriptors of its own, too (CLONE_FILES), with next to nothing in it: a fork copies the table of the
// thread that forks, and execve closes what it copied, which with the descriptors of thousands of children takes many times what
// the rest of a start does. What a process is to have comes to the thread through a socket, the door, as it would to another process.
//
// An execve of a file on a file system that does not answer holds up the next.
type spawner struct {
	jobs   chan func() // run by a goroutine that may use the keeper's descriptors, as start may be used by it
	done   chan struct{}
	once   sync.Once
	door   *fd.FD // what is put in
	inside *fd.FD // of the thread: where it comes out
	cwd    *fd.FD // of the thread: the keeper's own working directory
	starts chan *program
	result chan started
}

// started is what came of a program.
type started struct {
	pid int
	err *Error
}

// spawnQueue is how many spawns may wait before the agent's next request does.
const spawnQueue = 64

func newSpawner() (*spawner, error) {
	n, err := unix.Open(".", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open the working directory: %w", err)
	}
	s := &spawner{
		jobs: make(chan func(), spawnQueue), done: make(chan struct{}), cwd: fd.New(n),
		starts: make(chan *program), result: make(chan started),
	}
	if s.door, s.inside, err = fd.Socketpair(unix.SOCK_SEQPACKET); err != nil {
		s.cwd.Close()
		return nil, err
	}
	ready := make(chan error)
	go s.run(ready, nil)
	if err := <-ready; err != nil {
		fd.CloseAll([]*fd.FD{s.cwd, s.door, s.inside})
		return nil, err
	}
	go func() {
		defer close(s.done)
		defer close(s.starts)
		for job := range s.jobs {
			job()
		}
	}()
	return s, nil
}

// run is the thread. Nothing on it may use a descriptor that was opened elsewhere after separate. It is not the process's first one,
// whose descriptors are what /proc/self/fd shows.
func (s *spawner) run(ready chan<- error, begun chan<- struct{}) {
	runtime.LockOSThread() // and never unlocked: the thread ends with the goroutine
	if unix.Gettid() == unix.Getpid() {
		begun := make(chan struct{})
		go s.run(ready, begun) // on another thread, since this one is taken until then
		<-begun
		runtime.UnlockOSThread()
		return
	}
	if begun != nil {
		close(begun)
	}
	// EPERM is a seccomp filter's, see above; the call itself needs no privilege.
	if err := unix.Unshare(unix.CLONE_FS); err != nil && err != unix.EPERM && err != unix.ENOSYS {
		ready <- os.NewSyscallError("unshare", err)
		return
	}
	if err := separate(s.inside.Int(), s.cwd.Int()); err != nil {
		ready <- err
		return
	}
	// ForkExec gives the child the mask of the forking thread.
	if err := unix.PthreadSigmask(unix.SIG_SETMASK, &unix.Sigset_t{}, nil); err != nil {
		ready <- os.NewSyscallError("rt_sigprocmask", err)
		return
	}
	close(ready)
	for p := range s.starts {
		pid, err := s.startHere(p)
		s.result <- started{pid, err}
	}
}

// separate gives the calling thread a table of descriptors of its own, without all but the standard ones, keep, and those of Go's
// netpoller, which may be woken from any thread. Where that is forbidden, the thread shares the keeper's.
func separate(keep ...int) error {
	r, w, err := os.Pipe() // the netpoller has its descriptors from now on
	if err != nil {
		return err
	}
	r.Close()
	w.Close()
	switch err := unix.Unshare(unix.CLONE_FILES); err {
	case nil:
	case unix.EPERM, unix.ENOSYS:
		return nil
	default:
		return os.NewSyscallError("unshare", err)
	}
	dir, err := unix.Open("/proc/thread-self/fd", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("look at the spawner's descriptors: %w", err)
	}
	var names []string
	buf := make([]byte, 32<<10)
	for {
		n, err := unix.ReadDirent(dir, buf)
		if err != nil {
			return fmt.Errorf("look at the spawner's descriptors: %w", err)
		}
		if n == 0 {
			break
		}
		_, _, names = unix.ParseDirent(buf[:n], -1, names)
	}
	for _, name := range names {
		n, err := strconv.Atoi(name)
		if err != nil || n < 3 || slices.Contains(keep, n) {
			continue
		}
		b := make([]byte, 64)
		if l, _ := unix.Readlink("/proc/thread-self/fd/"+name, b); slices.Contains(ofNetpoller, string(b[:max(l, 0)])) {
			continue
		}
		unix.Close(n) // dir, too
	}
	return nil
}

// ofNetpoller are the kinds of descriptors that Go's netpoller has (runtime/netpoll_epoll.go).
var ofNetpoller = []string{"anon_inode:[eventpoll]", "anon_inode:[eventfd]"}

// close lets the jobs that wait run, and waits for them, but not for ever: an execve may be stuck in the
// kernel. A second close does nothing. Nobody may send a job any more.
func (s *spawner) close() {
	s.once.Do(func() {
		close(s.jobs)
		select {
		case <-s.done:
			fd.CloseAll([]*fd.FD{s.door, s.inside, s.cwd})
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
	slack      time.Duration // of its timers; 0: the kernel's
	cgroup     string        // its path; empty: the keeper's own
	into       *fd.FD        // of the thread: that, open, or nil
}

// noFile stands in program.files for a number that the process shall not have open.
const noFile = ^uintptr(0)

// child is a process that was started.
type child struct {
	pid   int
	pidfd *fd.FD // owned by the caller; closed where the kernel gives none
}

// start starts p. It is called by jobs, and blocks until the program has been executed or could not be. Until the child is
// recorded nobody may reap processes that are not.
func (s *spawner) start(p *program) (child, *Error) {
	if err := s.putIn(p); err != nil {
		return child{}, fail(errnoOf(err), "start %q: pass its descriptors on", p.path)
	}
	s.starts <- p
	r := <-s.result
	if r.err != nil {
		return child{}, r.err
	}
	c := child{pid: r.pid, pidfd: fd.New(-1)}
	if n, err := unix.PidfdOpen(r.pid, 0); err == nil { // it may be a zombie by now, but none that was reaped
		c.pidfd = fd.New(n)
	}
	return c, nil
}

// putIn sends the descriptors of p through the door, each once, and puts their places there in their place.
func (s *spawner) putIn(p *program) error {
	var fds []int
	files := slices.Clone(p.files)
	for i, f := range files {
		if f == noFile {
			continue
		}
		at := slices.Index(fds, int(f))
		if at < 0 {
			at = len(fds)
			fds = append(fds, int(f))
		}
		files[i] = uintptr(at)
	}
	p.files = files
	for {
		if err := unix.Sendmsg(s.door.Int(), []byte{0}, unix.UnixRights(fds...), nil, 0); err != unix.EINTR {
			return err
		}
	}
}

// takeOut is the thread's half of putIn. It returns the descriptors, owned by the caller.
func (s *spawner) takeOut(p *program) ([]*fd.FD, error) {
	var b [1]byte
	oob := make([]byte, unix.CmsgSpace(4*fdchan.MaxFDs))
	var n int
	var err error
	for again := true; again; again = err == unix.EINTR {
		_, n, _, _, err = unix.Recvmsg(s.inside.Int(), b[:], oob, unix.MSG_CMSG_CLOEXEC)
	}
	if err != nil {
		return nil, err
	}
	msgs, err := unix.ParseSocketControlMessage(oob[:n])
	if err != nil || len(msgs) != 1 {
		return nil, cmp.Or(err, error(unix.EMFILE))
	}
	ns, err := unix.ParseUnixRights(&msgs[0])
	if err != nil {
		return nil, err
	}
	var fds []*fd.FD
	for _, n := range ns {
		fds = append(fds, fd.New(n))
	}
	for i, f := range p.files {
		if f == noFile {
			continue
		}
		if int(f) >= len(ns) { // cut short: no descriptors left
			fd.CloseAll(fds)
			return nil, unix.EMFILE
		}
		p.files[i] = uintptr(ns[f])
	}
	return fds, nil
}

// startHere is start, on the thread.
func (s *spawner) startHere(p *program) (int, *Error) {
	fds, err := s.takeOut(p)
	if err != nil {
		return 0, fail(errnoOf(err), "start %q: take its descriptors", p.path)
	}
	defer fd.CloseAll(fds)
	if err := unix.Fchdir(s.cwd.Int()); err != nil {
		return 0, fail(err.(syscall.Errno), "enter muxd's own working directory")
	}
	defer unix.Fchdir(s.cwd.Int())

	var exe string
	failed := asUser(p.credential, func() *Error {
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
	if failed != nil {
		return 0, failed
	}
	if p.cgroup != "" {
		n, err := unix.Open(p.cgroup, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		if err != nil {
			return 0, fail(err.(syscall.Errno), "start %q: open its cgroup %s", exe, p.cgroup)
		}
		p.into = fd.New(n)
		defer p.into.Close()
	}
	if err := setSlack(p.slack); err != nil {
		return 0, fail(errnoOf(err), "start %q: set the slack of its timers", p.path)
	}
	if p.umask != nil {
		defer unix.Umask(unix.Umask(int(*p.umask)))
	}
	if len(p.rlimits) > 0 || p.confine != nil {
		return startShim(p, exe)
	}
	pid, errno := forkExec(exe, p.argv, p.env, p)
	if errno != 0 {
		return 0, explain(errno, exe, p)
	}
	return pid, nil
}

// forkExec starts exe in the thread's working directory and umask.
func forkExec(exe string, argv, env []string, p *program) (int, syscall.Errno) {
	sys := &syscall.SysProcAttr{
		Setsid:  p.session,
		Setpgid: !p.session,
		Setctty: p.terminal,
		Ctty:    0,
	}
	if c := p.credential; c != nil {
		sys.Credential = &syscall.Credential{Uid: c.GetUid(), Gid: c.GetGid(), Groups: c.GetGroups()}
	}
	if p.into != nil {
		sys.UseCgroupFD, sys.CgroupFD = true, p.into.Int()
	}
	pid, err := syscall.ForkExec(exe, argv, &syscall.ProcAttr{Env: env, Files: p.files, Sys: sys})
	if err != nil {
		errno, ok := err.(syscall.Errno)
		if !ok {
			errno = syscall.EINVAL
		}
		return 0, errno
	}
	return pid, 0
}
