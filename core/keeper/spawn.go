package keeper

import (
	"fmt"
	"slices"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/muxd/muxd/core/keeper/keeperpb"
	"github.com/muxd/muxd/internal/fd"
	"github.com/muxd/muxd/internal/rest"
)

// maxChildFD bounds the numbers of a child's descriptors: each number below the highest costs a system call
// in the fork.
const maxChildFD = 255

// queueSpawn hands a spawn to the spawner, and takes fds. It blocks while the spawner's queue is full.
func (s *session) queueSpawn(id uint64, sp *keeperpb.Spawn, fds []*fd.FD) {
	if err := room(fds...); err != nil { // at once, so that spawns that wait cannot use the reserve up
		s.answer(err.reply(id))
		return
	}
	mine := slices.Clone(fds)
	clear(fds)
	s.k.spawner.jobs <- func() {
		defer func() { fd.CloseAll(mine) }()
		s.k.spawn(s, id, sp, mine)
	}
}

// spawn runs on the spawner's thread. It answers under the lock under which the process is recorded, so that
// the reply comes before the process's exit. Of fds it takes those to hold, if the process was started.
func (k *keeper) spawn(s *session, id uint64, sp *keeperpb.Spawn, fds []*fd.FD) {
	p, err := newProgram(sp, fds)
	k.mu.Lock()
	defer k.mu.Unlock()
	if known := k.procs[sp.GetKey()]; known != nil {
		s.answer(&keeperpb.Reply{Id: id, Process: known.pb}, known.copies()...)
		return
	}
	if err == nil && k.ending {
		err = fail(syscall.ESHUTDOWN, "muxd is stopping")
	}
	if err != nil {
		s.answer(err.reply(id))
		return
	}
	k.spawning = true
	k.mu.Unlock()
	started := time.Now()
	p.cgroup, err = k.groups.make(sp.GetCgroup())
	var c child
	if err == nil {
		c, err = k.spawner.start(p)
	}
	k.groups.made(sp.GetCgroup(), err == nil)
	k.mu.Lock()
	k.spawning = false
	rest.After()
	defer k.reapRest()
	if err != nil {
		s.answer(err.reply(id))
		return
	}
	record := &process{
		pb:    &keeperpb.Process{Key: sp.GetKey(), Pid: int32(c.pid), Started: started.UnixNano(), Note: sp.GetNote(), Detaches: sp.GetDetaches()},
		pidfd: c.pidfd,
		group: true,
	}
	k.procs[sp.GetKey()] = record
	k.pids[c.pid] = record
	k.await(record)
	k.countDetaching(record, 1)
	for i, name := range sp.GetHold() {
		n := len(sp.GetFds()) + i
		k.keep(name, nil, fds[n])
		fds[n] = nil
	}
	s.answer(&keeperpb.Reply{Id: id, Process: record.pb}, record.copies()...)
}

// copies returns a copy of p's pidfd, owned by the caller, while it runs; nothing where there is none, or none can be had.
func (p *process) copies() []*fd.FD {
	if p.pb.GetExited() || p.pidfd.Int() < 0 {
		return nil
	}
	d, err := p.pidfd.Dup()
	if err != nil || room(d) != nil {
		d.Close()
		return nil
	}
	return []*fd.FD{d}
}

// newProgram checks a Spawn and returns what to start. The descriptors stay owned by fds.
func newProgram(sp *keeperpb.Spawn, fds []*fd.FD) (*program, *Error) {
	invalid := func(format string, args ...any) (*program, *Error) {
		return nil, fail(syscall.EINVAL, "spawn %s: %s", sp.GetKey(), fmt.Sprintf(format, args...))
	}
	if sp.GetKey() == "" {
		return invalid("it has no key")
	}
	if len(sp.GetArgv()) == 0 {
		return invalid("it has no argv")
	}
	if len(fds) != len(sp.GetFds())+len(sp.GetHold()) {
		return invalid("%d descriptors came, want %d for the process and %d to hold", len(fds), len(sp.GetFds()), len(sp.GetHold()))
	}
	if slices.Contains(sp.GetHold(), "") {
		return invalid("a descriptor to hold has no name")
	}
	if n := sp.Program; n != nil && !slices.Contains(sp.GetFds(), *n) {
		return invalid("the program is descriptor %d, which the process does not get", *n)
	}
	if m := sp.Umask; m != nil && *m > 0o777 {
		return invalid("umask %#o", *m)
	}
	files, err := layout(sp, fds)
	if err != nil {
		return nil, err
	}
	p := &program{
		path:       string(sp.GetPath()),
		file:       sp.Program,
		argv:       goStrings(sp.GetArgv()),
		env:        goStrings(sp.GetEnv()),
		cwd:        string(sp.GetCwd()),
		files:      files,
		session:    true,
		terminal:   sp.GetControllingTerminal(),
		umask:      sp.Umask,
		credential: credential(sp.GetCredential()),
		rlimits:    sp.GetRlimits(),
		confine:    sp.GetConfine(),
		slack:      time.Duration(sp.GetTimerSlack()),
	}
	if hasNUL(p) {
		return invalid("a NUL byte in path, argument, environment or working directory")
	}
	return p, nil
}

// layout puts each descriptor at the number that the process shall see.
func layout(sp *keeperpb.Spawn, fds []*fd.FD) ([]uintptr, *Error) {
	var lim unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &lim); err != nil {
		return nil, fail(err.(syscall.Errno), "get RLIMIT_NOFILE")
	}
	most := min(maxChildFD, lim.Cur-1)
	var files []uintptr
	for i, number := range sp.GetFds() {
		if uint64(number) > most {
			return nil, fail(syscall.EINVAL, "spawn %s: descriptor number %d, the highest is %d", sp.GetKey(), number, most)
		}
		for len(files) <= int(number) {
			files = append(files, noFile)
		}
		if files[number] != noFile {
			return nil, fail(syscall.EINVAL, "spawn %s: descriptor number %d is given twice", sp.GetKey(), number)
		}
		files[number] = uintptr(fds[i].Int())
	}
	if len(files) < 3 || slices.Contains(files[:3], noFile) {
		return nil, fail(syscall.EINVAL, "spawn %s: descriptors 0, 1 and 2 must be given", sp.GetKey())
	}
	return files, nil
}
