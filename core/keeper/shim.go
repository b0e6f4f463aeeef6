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

// ShimVerb is the first argument of the executable that makes it call ShimMain.
const ShimVerb = "exec-shim"

// The shim is this executable started once more, between fork and execve, only for children with rlimits: syscall.ForkExec
// sets none. It inherits, right behind the child's descriptors, a memfd with the Spawn to execute (its path is
// the program found already) and a pipe on which it reports: how far it came, and the errno that
// stopped it. The pipe is close-on-exec, so after shimReady its end of file is the success of execve.
const (
	shimReady byte = iota + 1
	shimLimit      // setrlimit failed; the index says which
	shimIdentity
	shimExec
)

// shimReport is the size of a report: what, index, two zero bytes, errno in little-endian.
const shimReport = 8

// startShim starts p through the shim: the thread's working directory and umask are set already.
func startShim(p *program, exe string) (child, *Error) {
	for _, l := range p.rlimits {
		if l.GetResource() > unix.RLIMIT_RTTIME {
			return child{}, fail(syscall.EINVAL, "limit number %d", l.GetResource())
		}
	}
	plan, err := proto.Marshal(&keeperpb.Spawn{
		Path: []byte(exe), Argv: byteStrings(p.argv), Env: byteStrings(p.env), Credential: p.credential, Rlimits: p.rlimits,
	})
	if err != nil {
		return child{}, fail(syscall.EINVAL, "start %q: %v", exe, err)
	}
	memfd, err := sealed("muxd spawn", plan)
	if err != nil {
		return child{}, fail(syscall.E2BIG, "start %q: %v", exe, err)
	}
	defer memfd.Close()
	r, w, err := fd.Pipe()
	if err != nil {
		return child{}, fail(syscall.EMFILE, "start %q: %v", exe, err)
	}
	defer r.Close()
	defer w.Close()

	shim := *p
	shim.credential = nil
	first := len(p.files)
	shim.files = append(append([]uintptr{}, p.files...), uintptr(memfd.Int()), uintptr(w.Int()))
	c, errno := forkExec("/proc/self/exe", []string{"muxd", ShimVerb, strconv.Itoa(first)}, []string{"GOMAXPROCS=1"}, &shim)
	if errno != 0 {
		return child{}, explain(errno, exe, p)
	}
	w.Close()
	if failed := shimResult(r, exe, p); failed != nil {
		// Nobody else reaps it: the reaper passes unknown processes over while a spawn is under way.
		unix.Kill(c.pid, unix.SIGKILL)
		for {
			if _, err := unix.Wait4(c.pid, nil, 0, nil); err != unix.EINTR {
				break
			}
		}
		c.pidfd.Close()
		return child{}, failed
	}
	return c, nil
}

// shimResult reads the shim's reports up to the end of file that execve makes.
func shimResult(r *fd.FD, exe string, p *program) *Error {
	ready := false
	for {
		var b [shimReport]byte
		n, err := unix.Read(r.Int(), b[:]) // whole: writes up to PIPE_BUF are (pipe(7))
		if err == unix.EINTR {
			continue
		}
		if err != nil || n != len(b) {
			if ready && n == 0 {
				return nil
			}
			return fail(syscall.EIO, "start %q: the process that sets its limits died before it could", exe)
		}
		errno := syscall.Errno(binary.LittleEndian.Uint32(b[4:]))
		switch b[0] {
		case shimReady:
			ready = true
		case shimLimit:
			l := p.rlimits[b[1]]
			return fail(errno, "set limit %s of the process to %d:%d", limitName(l.GetResource()), l.GetSoft(), l.GetHard())
		case shimIdentity:
			return mayNot(p.credential, errno)
		default:
			return explain(errno, exe, p)
		}
	}
}

var limitNames = [...]string{"CPU", "FSIZE", "DATA", "STACK", "CORE", "RSS", "NPROC", "NOFILE", "MEMLOCK", "AS", "LOCKS",
	"SIGPENDING", "MSGQUEUE", "NICE", "RTPRIO", "RTTIME"}

func limitName(resource uint32) string {
	if int(resource) < len(limitNames) {
		return "RLIMIT_" + limitNames[resource]
	}
	return fmt.Sprint(resource)
}

// ShimMain is the shim's main: it sets the limits as the keeper's user (a hard limit may be raised), becomes the child's
// user, and executes the child's program in its own place. It does not return.
//
// From the first limit on it asks the Go runtime for nothing: under RLIMIT_AS or RLIMIT_DATA no memory could be had, under
// RLIMIT_NPROC no thread. Hence the system calls are raw, on one locked thread: credentials are of the
// thread, and those of the one that calls execve(2) are the program's.
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
	// The clone(2) of another thread fails while one that shares its fs_struct is in execve, and Go does not bear that:
	// leave the share. It is no harm if that is forbidden.
	unix.Unshare(unix.CLONE_FS)
	restoreFileLimit()
	plan.run(w)
}

// restoreFileLimit gives the process the soft RLIMIT_NOFILE again that it was born with, and that the Go runtime has
// raised. Only syscall.Exec knows it, and sets it before it tries execve; of an empty path that is ENOENT.
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
	p := &shimPlan{}
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
	if errno == 0 {
		report[0] = shimReady
		unix.RawSyscall(unix.SYS_WRITE, uintptr(w), uintptr(unsafe.Pointer(&report[0])), shimReport)
		_, _, errno = unix.RawSyscall(unix.SYS_EXECVE, uintptr(unsafe.Pointer(p.path)),
			uintptr(unsafe.Pointer(&p.argv[0])), uintptr(unsafe.Pointer(&p.env[0])))
		what = shimExec
	}
	report[0], report[1] = what, byte(index)
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

func byteStrings(in []string) [][]byte {
	out := make([][]byte, len(in))
	for i, s := range in {
		out[i] = []byte(s)
	}
	return out
}

func goStrings(in [][]byte) []string {
	out := make([]string, len(in))
	for i, b := range in {
		out[i] = string(b)
	}
	return out
}
