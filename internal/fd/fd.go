// Package fd owns file descriptors.
//
// Ownership is said in four phrases everywhere in muxd: a function "takes ownership" of a descriptor (it will
// close it, whatever happens), "does not take ownership", "returns" one "owned by the caller", or
// "relinquishes" one (whoever called must close it now). Close closes, Release gives away, Dup copies.
package fd

import (
	"fmt"
	"os"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// FD owns one file descriptor. The zero value owns nothing. Its methods may be called from several goroutines,
// but Int is only meaningful as long as nobody closes.
type FD struct {
	n atomic.Int64 // descriptor + 1, so that the zero value is closed
}

// New takes ownership of descriptor n.
func New(n int) *FD {
	f := &FD{}
	if n >= 0 {
		f.n.Store(int64(n) + 1)
	}
	return f
}

// FromFile takes ownership of f's descriptor: it copies it (with close-on-exec) and closes f.
func FromFile(f *os.File) (*FD, error) {
	defer f.Close()
	return DupFile(f)
}

// DupFile returns a copy of f's descriptor, owned by the caller. It does not take ownership of f, and unlike
// os.File.Fd it leaves f's blocking mode as it is.
func DupFile(f *os.File) (*FD, error) {
	raw, err := f.SyscallConn()
	if err != nil {
		return nil, err
	}
	var out *FD
	var dupErr error
	if err := raw.Control(func(n uintptr) { out, dupErr = Dup(int(n)) }); err != nil {
		return nil, err
	}
	return out, dupErr
}

// Dup returns a copy of descriptor n with close-on-exec set, owned by the caller.
func Dup(n int) (*FD, error) {
	d, err := unix.FcntlInt(uintptr(n), unix.F_DUPFD_CLOEXEC, 3)
	if err != nil {
		return nil, fmt.Errorf("copy descriptor: %w", err)
	}
	return New(d), nil
}

// Int is the descriptor, or -1 after Close or Release. The FD keeps owning it.
func (f *FD) Int() int {
	if f == nil {
		return -1
	}
	return int(f.n.Load()) - 1
}

// Close closes the descriptor. A second Close does nothing.
func (f *FD) Close() error {
	if n := f.Release(); n >= 0 {
		return unix.Close(n)
	}
	return nil
}

// Release relinquishes the descriptor and returns it; -1 where there is none any more.
func (f *FD) Release() int {
	if f == nil {
		return -1
	}
	return int(f.n.Swap(0)) - 1
}

// Dup returns a copy, owned by the caller.
func (f *FD) Dup() (*FD, error) {
	return Dup(f.Int())
}

// File relinquishes the descriptor to an os.File of that name.
func (f *FD) File(name string) *os.File {
	return os.NewFile(uintptr(f.Release()), name)
}

// CloseAll closes every one of fds; nil entries are passed over.
func CloseAll(fds []*FD) {
	for _, f := range fds {
		f.Close()
	}
}

// Ints returns the descriptors of fds, which stay owned by them.
func Ints(fds []*FD) []int {
	out := make([]int, len(fds))
	for i, f := range fds {
		out[i] = f.Int()
	}
	return out
}

// Pipe returns the read and the write end of a new pipe, owned by the caller, both blocking and close-on-exec.
func Pipe() (r, w *FD, err error) {
	var p [2]int
	if err := unix.Pipe2(p[:], unix.O_CLOEXEC); err != nil {
		return nil, nil, fmt.Errorf("make a pipe: %w", err)
	}
	return New(p[0]), New(p[1]), nil
}

// Socketpair returns both ends of a Unix socket pair of the given type (unix.SOCK_SEQPACKET, …), owned by the
// caller, both blocking and close-on-exec.
func Socketpair(typ int) (a, b *FD, err error) {
	p, err := unix.Socketpair(unix.AF_UNIX, typ|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("make a socket pair: %w", err)
	}
	return New(p[0]), New(p[1]), nil
}

// Count is the number of descriptors that this process has open.
func Count() (int, error) {
	d, err := os.Open("/proc/self/fd")
	if err != nil {
		return 0, err
	}
	defer d.Close()
	names, err := d.Readdirnames(-1)
	return len(names) - 1, err // less the one of the directory
}
