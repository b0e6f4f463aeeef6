package keeper

import (
	"encoding/binary"
	"fmt"
	"os"
	"runtime"
	"runtime/debug"
	"strconv"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"

	"github.com/muxd/muxd/core/keeper/keeperpb"
	"github.com/muxd/muxd/internal/fd"
)

// ShimMain is the shim's main: it sets the limits as the keeper's user (a hard limit may be raised), becomes
// the child's user, goes into its bounds, and executes the child's program in its own place. It does not return.
//
// From the first limit on it asks the Go runtime for nothing: under RLIMIT_AS or RLIMIT_DATA no memory could
// be had, under RLIMIT_NPROC no thread. Hence the system calls are raw, on one locked thread: credentials and
// bounds are of the thread, and those of the one that calls execve(2) are the program's.
func ShimMain() {
	debug.SetGCPercent(-1)
	runtime.LockOSThread()
	first, err := strconv.Atoi(os.Args[len(os.Args)-1])
	if err != nil || len(os.Args) != 3 {
		fmt.Fprintf(os.Stderr, "muxd: %s is started by muxd itself\n", ShimVerb)
		os.Exit(2)
	}
	memfd, w := fd.New(first), first+1
	unix.CloseOnExec(first)
	unix.CloseOnExec(w)
	plan, err := newShimPlan(memfd)
	if err != nil {
		os.Exit(1) // the keeper says that the shim died
	}
	// The clone(2) of another thread fails while one that shares its fs_struct is in execve, and Go does not
	// bear that: leave the share. It is no harm if that is forbidden.
	unix.Unshare(unix.CLONE_FS)
	restoreFileLimit()
	if plan.ruleset, plan.rulesetFlags, err = newRuleset(plan.confine); err != nil {
		fmt.Fprintf(os.Stderr, "muxd: confine %s: %v\n", unix.BytePtrToString(plan.path), err)
		exitWith(w, shimConfine, 0, errnoOf(err))
	}
	plan.run(w)
}

// restoreFileLimit gives the process the soft RLIMIT_NOFILE again that it was born with, and that the Go
// runtime has raised. Only syscall.Exec knows it, and sets it before it tries execve; of an empty path that
// is ENOENT.
func restoreFileLimit() {
	syscall.Exec("", []string{""}, nil)
}

// shimPlan is everything in the form in which the kernel takes it.
type shimPlan struct {
	path       *byte
	argv, env  []*byte
	limits     []unix.Rlimit
	resources  []int
	credential bool
	uid, gid   uintptr
	groups     []uint32

	confine      *keeperpb.Confine
	ruleset      int // -1: no bounds, or none that this kernel knows
	rulesetFlags uint32
}

func newShimPlan(memfd *fd.FD) (*shimPlan, error) {
	b, err := readSealed(memfd)
	if err != nil {
		return nil, err
	}
	s := &keeperpb.Spawn{}
	if err := proto.Unmarshal(b, s); err != nil {
		return nil, err
	}
	p := &shimPlan{confine: s.GetConfine()}
	if p.path, err = syscall.BytePtrFromString(string(s.GetPath())); err != nil {
		return nil, err
	}
	if p.argv, err = syscall.SlicePtrFromStrings(goStrings(s.GetArgv())); err != nil {
		return nil, err
	}
	if p.env, err = syscall.SlicePtrFromStrings(goStrings(s.GetEnv())); err != nil {
		return nil, err
	}
	for _, l := range s.GetRlimits() {
		p.resources = append(p.resources, int(l.GetResource()))
		p.limits = append(p.limits, unix.Rlimit{Cur: l.GetSoft(), Max: l.GetHard()})
	}
	if c := s.GetCredential(); c != nil {
		p.credential = true
		p.uid, p.gid = uintptr(c.GetUid()), uintptr(c.GetGid())
		p.groups = append(make([]uint32, 0, len(c.GetGroups())+1), c.GetGroups()...) // never empty memory
	}
	return p, nil
}

// run does not return.
func (p *shimPlan) run(w int) {
	var report [shimReport]byte
	what, index, errno := shimReady, 0, syscall.Errno(0)
	for index = range p.limits {
		_, _, errno = unix.RawSyscall6(unix.SYS_PRLIMIT64, 0, uintptr(p.resources[index]),
			uintptr(unsafe.Pointer(&p.limits[index])), 0, 0, 0)
		if errno != 0 {
			what = shimLimit
			break
		}
	}
	if errno == 0 && p.credential {
		if errno = p.become(); errno != 0 {
			what = shimIdentity
		}
	}
	if errno == 0 && p.ruleset >= 0 {
		if errno = p.enter(); errno != 0 {
			what = shimConfine
		}
	}
	if errno == 0 {
		report[0] = shimReady
		unix.RawSyscall(unix.SYS_WRITE, uintptr(w), uintptr(unsafe.Pointer(&report[0])), shimReport)
		_, _, errno = unix.RawSyscall(unix.SYS_EXECVE, uintptr(unsafe.Pointer(p.path)),
			uintptr(unsafe.Pointer(&p.argv[0])), uintptr(unsafe.Pointer(&p.env[0])))
		what = shimExec
	}
	exitWith(w, what, index, errno)
}

// exitWith reports on w what stopped the shim, and does not return.
func exitWith(w int, what byte, index int, errno syscall.Errno) {
	report := [shimReport]byte{what, byte(index)}
	binary.LittleEndian.PutUint32(report[4:], uint32(errno))
	unix.RawSyscall(unix.SYS_WRITE, uintptr(w), uintptr(unsafe.Pointer(&report[0])), shimReport)
	for {
		unix.RawSyscall(unix.SYS_EXIT_GROUP, 253, 0, 0)
	}
}

// become sets groups, gid and uid of the thread.
func (p *shimPlan) become() syscall.Errno {
	groups := p.groups[:cap(p.groups)]
	if _, _, errno := unix.RawSyscall(sysSetgroups, uintptr(len(p.groups)), uintptr(unsafe.Pointer(&groups[0])), 0); errno != 0 {
		return errno
	}
	if _, _, errno := unix.RawSyscall(sysSetresgid, p.gid, p.gid, p.gid); errno != 0 {
		return errno
	}
	_, _, errno := unix.RawSyscall(sysSetresuid, p.uid, p.uid, p.uid)
	return errno
}

// enter puts the thread into its bounds.
func (p *shimPlan) enter() syscall.Errno {
	if _, _, errno := unix.RawSyscall6(unix.SYS_PRCTL, unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0, 0); errno != 0 {
		return errno
	}
	_, _, errno := unix.RawSyscall(unix.SYS_LANDLOCK_RESTRICT_SELF, uintptr(p.ruleset), uintptr(p.rulesetFlags), 0)
	return errno
}
