package keeper

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/muxd/muxd/core/keeper/keeperpb"
	"github.com/muxd/muxd/internal/fd"
)

// watches is one epoll set of the pidfds of children, and of processes that are not the keeper's children, and of what is armed
// (arm.go), and one goroutine for all of them. The set itself stands in the runtime's netpoller, so that waiting costs no
// thread either.
type watches struct {
	set   *os.File
	raw   syscall.RawConn
	done  chan struct{}
	of    map[int]*process // by pidfd: those that run; guarded by keeper.mu, as are
	names map[int]string   // of what is armed, by descriptor
	told  []string         // names that the agent is about to be told
}

// watch takes fds[0], a pidfd. k.mu is held, here and below.
func (k *keeper) watch(w *keeperpb.Watch, fds []*fd.FD) (*keeperpb.Process, *Error) {
	if known := k.procs[w.GetKey()]; known != nil {
		return known.pb, nil
	}
	if len(fds) != 1 || w.GetKey() == "" {
		return nil, fail(syscall.EINVAL, "watch %q: %d descriptors came, want a key and 1 pidfd", w.GetKey(), len(fds))
	}
	if err := room(fds...); err != nil {
		return nil, err
	}
	pidfd := fds[0]
	pid, err := pidOf(pidfd.Int())
	if err != nil {
		return nil, fail(syscall.EINVAL, "watch %s: %v", w.GetKey(), err)
	}
	if pid > 0 && pid != int(w.GetPid()) { // -1: it has been reaped, and nobody can say what its pid was
		return nil, fail(syscall.EINVAL, "watch %s: the pidfd is of pid %d, not of %d", w.GetKey(), pid, w.GetPid())
	}
	if other := k.pids[int(w.GetPid())]; pid > 0 && other != nil {
		return nil, fail(syscall.EEXIST, "watch %s: pid %d is known as %s", w.GetKey(), pid, other.pb.GetKey())
	}
	n := pidfd.Int()
	if err := k.watches.control(unix.EPOLL_CTL_ADD, n, unix.EPOLLIN|unix.EPOLLONESHOT); err != nil {
		return nil, fail(errnoOf(err), "watch %s", w.GetKey())
	}
	p := &process{
		pb:      &keeperpb.Process{Key: w.GetKey(), Pid: w.GetPid(), Started: time.Now().UnixNano(), Note: w.GetNote()},
		pidfd:   pidfd,
		watched: true,
		group:   true,
	}
	fds[0] = nil
	k.watches.of[n] = p
	k.procs[w.GetKey()] = p
	if pid > 0 {
		k.pids[pid] = p // an orphan that comes to us is reaped under this record
	}
	return p.pb, nil
}

// pidOf returns the pid that a pidfd refers to, in this pid namespace, -1 when it has been reaped
// (pidfd_open(2), fdinfo).
func pidOf(pidfd int) (int, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/self/fdinfo/%d", pidfd))
	if err != nil {
		return 0, err
	}
	for line := range bytes.Lines(b) {
		if v, ok := bytes.CutPrefix(line, []byte("Pid:")); ok {
			return strconv.Atoi(string(bytes.TrimSpace(v)))
		}
	}
	return 0, fmt.Errorf("the descriptor is not a pidfd")
}

func (k *keeper) startWatches() error {
	n, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return err
	}
	if err := unix.SetNonblock(n, true); err != nil { // for os.NewFile: only then it uses the netpoller
		unix.Close(n)
		return err
	}
	w := &watches{set: os.NewFile(uintptr(n), "watches"), done: make(chan struct{}), of: map[int]*process{}, names: map[int]string{}}
	if w.raw, err = w.set.SyscallConn(); err != nil {
		w.set.Close()
		return err
	}
	k.watches = w
	k.later(func() { w.set.Close(); <-w.done })
	go func() {
		defer close(w.done)
		w.run(k.ready, k.tellStirred)
	}()
	return nil
}

// control changes the set. The data of an event is the descriptor's number.
func (w *watches) control(op, n int, events uint32) error {
	var err error
	if rawErr := w.raw.Control(func(set uintptr) {
		err = unix.EpollCtl(int(set), op, n, &unix.EpollEvent{Events: events, Fd: int32(n)})
	}); rawErr != nil {
		return rawErr
	}
	return err
}

// run calls ready for every event, and told after those that came together, until the set is closed.
func (w *watches) run(ready func(n int, hup bool), told func()) {
	for {
		var events [64]unix.EpollEvent
		var n int
		err := w.raw.Read(func(set uintptr) bool {
			var err error
			for n, err = unix.EpollWait(int(set), events[:], 0); err == unix.EINTR; {
				n, err = unix.EpollWait(int(set), events[:], 0)
			}
			return n > 0
		})
		if err != nil {
			return
		}
		for _, e := range events[:n] {
			ready(int(e.Fd), e.Events&unix.EPOLLHUP != 0)
		}
		told()
	}
}

// ready is called when a watched process has exited, and with hup when its own parent has reaped it besides; or when something that
// is armed can be read.
func (k *keeper) ready(pidfd int, hup bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.stirred(pidfd) {
		return
	}
	p := k.watches.of[pidfd]
	if p == nil || !readable(pidfd) { // of an earlier pidfd with this number
		return
	}
	if pid := int(p.pb.GetPid()); k.pids[pid] == p && k.take(pid) { // a child, or an orphan that came to us
		poke(k.reaped)
	}
	if p.pb.GetExited() || !p.watched { // a child that is traced by somebody else can be reaped later: see childExited
		return
	}
	ws, answered := exitInfo(pidfd)
	if ws == nil {
		ws = zombieStatus(pidfd)
	}
	if ws == nil && answered && !hup {
		// It is not reaped yet. The kernel can tell (Linux 6.15) when it is, and that is a hang-up (Linux
		// 6.9), which needs not be asked for.
		if k.watches.control(unix.EPOLL_CTL_MOD, pidfd, unix.EPOLLONESHOT) == nil {
			return
		}
	}
	k.exited(p, ws, nil)
}

func readable(n int) bool {
	fds := []unix.PollFd{{Fd: int32(n), Events: unix.POLLIN}}
	got, err := unix.Poll(fds, 0)
	return err == nil && got == 1
}

// zombieStatus reads the wait status of a process that has exited and that its parent has not reaped: the last field of
// /proc/PID/stat, which the kernel shows to those who may trace the process (proc_pid_stat(5)). nil where it is not told.
// As long as the pidfd has a pid the process keeps it, so the file is that of no other.
func zombieStatus(pidfd int) *unix.WaitStatus {
	pid, err := pidOf(pidfd)
	if err != nil || pid <= 0 {
		return nil
	}
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return nil
	}
	fields := bytes.Fields(b[bytes.LastIndexByte(b, ')')+1:])
	if again, err := pidOf(pidfd); err != nil || again != pid || len(fields) < 50 || string(fields[0]) != "Z" {
		return nil
	}
	n, err := strconv.ParseUint(string(fields[49]), 10, 32)
	if err != nil {
		return nil
	}
	if n == 0 && !mayTrace(pid) { // what is not shown is 0 too
		return nil
	}
	ws := unix.WaitStatus(n)
	return &ws
}

// mayTrace says whether the kernel shows us all of /proc/PID/stat: the same check guards /proc/PID/io.
func mayTrace(pid int) bool {
	f, err := os.Open(fmt.Sprintf("/proc/%d/io", pid))
	if err != nil {
		return false
	}
	defer f.Close()
	_, err = f.Read(make([]byte, 1))
	return err == nil
}

// exitInfo asks the kernel for the wait status of an exited process. The status is nil where it is not known;
// answered says that the kernel knows PIDFD_GET_INFO (Linux 6.13) and the process has not been reaped without
// a trace.
func exitInfo(pidfd int) (ws *unix.WaitStatus, answered bool) {
	info := unix.PidfdInfo{Mask: unix.PIDFD_INFO_EXIT}
	if err := unix.IoctlPidfdInfo(pidfd, &info); err != nil {
		return nil, false
	}
	if info.Mask&unix.PIDFD_INFO_EXIT == 0 {
		return nil, true
	}
	status := unix.WaitStatus(info.Exit_code)
	return &status, true
}

// unwatch takes p out of the set. The agent has a copy of the pidfd, so closing ours would not.
func (k *keeper) unwatch(p *process) {
	if n := p.pidfd.Int(); n >= 0 && k.watches.of[n] == p {
		delete(k.watches.of, p.pidfd.Int())
		k.watches.control(unix.EPOLL_CTL_DEL, p.pidfd.Int(), 0)
	}
}
