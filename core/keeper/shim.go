package keeper

import (
	"encoding/binary"
	"fmt"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"

	"github.com/muxd/muxd/core/keeper/keeperpb"
	"github.com/muxd/muxd/internal/fd"
)

// ShimVerb is the first argument of the executable that makes it call ShimMain.
const ShimVerb = "exec-shim"

// The shim is this executable started once more, between fork and execve, only for processes with rlimits or
// in bounds (Confine): syscall.ForkExec sets none. It inherits, right behind the child's descriptors, a memfd with the Spawn to
// execute (its path is the program found already) and a pipe on which it reports: how far it came, and the
// errno that stopped it. The pipe is close-on-exec, so after shimReady its end of file is the success of
// execve.
const (
	shimReady byte = iota + 1
	shimLimit      // setrlimit failed; the index says which
	shimIdentity
	shimConfine // the bounds could not be made
	shimExec
)

// shimReport is the size of a report: what, index, two zero bytes, errno in little-endian.
const shimReport = 8

// startShim starts p through the shim: the thread's working directory and umask are set already.
func startShim(p *program, exe string) (int, *Error) {
	for _, l := range p.rlimits {
		if l.GetResource() > unix.RLIMIT_RTTIME {
			return 0, fail(syscall.EINVAL, "limit number %d", l.GetResource())
		}
	}
	plan, err := proto.Marshal(&keeperpb.Spawn{
		Path: []byte(exe), Argv: byteStrings(p.argv), Env: byteStrings(p.env), Credential: p.credential, Rlimits: p.rlimits,
		Confine: p.confine,
	})
	if err != nil {
		return 0, fail(syscall.EINVAL, "start %q: %v", exe, err)
	}
	memfd, err := sealed("muxd spawn", plan)
	if err != nil {
		return 0, fail(syscall.E2BIG, "start %q: %v", exe, err)
	}
	defer memfd.Close()
	r, w, err := fd.Pipe()
	if err != nil {
		return 0, fail(syscall.EMFILE, "start %q: %v", exe, err)
	}
	defer r.Close()
	defer w.Close()

	shim := *p
	shim.credential = nil
	first := len(p.files)
	shim.files = append(append([]uintptr{}, p.files...), uintptr(memfd.Int()), uintptr(w.Int()))
	pid, errno := forkExec("/proc/self/exe", []string{"muxd", ShimVerb, strconv.Itoa(first)}, []string{"GOMAXPROCS=1"}, &shim)
	if errno != 0 {
		return 0, explain(errno, exe, p)
	}
	w.Close()
	if failed := shimResult(r, exe, p); failed != nil {
		// Nobody else reaps it: the reaper passes unknown processes over while a spawn is under way.
		unix.Kill(pid, unix.SIGKILL)
		for {
			if _, err := unix.Wait4(pid, nil, 0, nil); err != unix.EINTR {
				break
			}
		}
		return 0, failed
	}
	return pid, nil
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
			return fail(syscall.EIO, "start %q: the process that sets its limits and bounds died before it could", exe)
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
		case shimConfine:
			return fail(errno, "confine the process with Landlock")
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
