package agent

import (
	"net"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/muxd/muxd/internal/fd"
	"github.com/muxd/muxd/sink/sinkpb"
)

// far makes a descriptor for TestCheckFar.
func far(t *testing.T, n int, err error) *fd.FD {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	f := fd.New(n)
	t.Cleanup(func() { f.Close() })
	return f
}

func openPath(t *testing.T, path string, flags int) *fd.FD {
	t.Helper()
	n, err := unix.Open(path, flags|unix.O_CLOEXEC, 0)
	return far(t, n, err)
}

func TestCheckFar(t *testing.T) {
	r, w, err := fd.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	defer w.Close()
	fifo := t.TempDir() + "/fifo"
	if err := unix.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	stream, _, err := fd.Socketpair(unix.SOCK_STREAM)
	if err != nil {
		t.Fatal(err)
	}
	packet, _, err := fd.Socketpair(unix.SOCK_SEQPACKET)
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	c, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	listener, tcp := copyOf(t, l.(*net.TCPListener).File), copyOf(t, c.(*net.TCPConn).File)
	memory, err := unix.MemfdCreate("test", unix.MFD_CLOEXEC)
	master := openPath(t, "/dev/ptmx", unix.O_RDWR|unix.O_NOCTTY)
	if err := unix.IoctlSetPointerInt(master.Int(), unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	tty, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(master.Int()), unix.TIOCGPTPEER, unix.O_RDWR|unix.O_NOCTTY)
	if errno != 0 {
		t.Fatal(errno)
	}
	unconnected, socketErr := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	for name, x := range map[string]struct {
		f    *fd.FD
		s    sinkpb.Stream
		want string // in the error; empty: none
	}{
		"read end":                  {r, sinkpb.Stream_STDOUT, ""},
		"read end as stdin":         {r, sinkpb.Stream_STDIN, "cannot be written"},
		"write end":                 {w, sinkpb.Stream_STDERR, "cannot be read"},
		"write end as stdin":        {w, sinkpb.Stream_STDIN, ""},
		"FIFO opened for both":      {openPath(t, fifo, unix.O_RDWR), sinkpb.Stream_STDOUT, ""},
		"path":                      {openPath(t, fifo, unix.O_PATH), sinkpb.Stream_STDOUT, "O_PATH"},
		"stream socket":             {stream, sinkpb.Stream_STDOUT, ""},
		"stream socket as stdin":    {stream, sinkpb.Stream_STDIN, "stdin takes a pipe"},
		"TCP":                       {tcp, sinkpb.Stream_STDOUT, ""},
		"listener":                  {listener, sinkpb.Stream_STDOUT, "not connected"},
		"socket without connection": {far(t, unconnected, socketErr), sinkpb.Stream_STDOUT, "not connected"},
		"packet socket":             {packet, sinkpb.Stream_STDOUT, "no stream of bytes"},
		"file":                      {far(t, memory, err), sinkpb.Stream_STDOUT, "regular file"},
		"directory":                 {openPath(t, "/", unix.O_RDONLY), sinkpb.Stream_STDOUT, "neither a pipe"},
		"null":                      {openPath(t, os.DevNull, unix.O_RDONLY), sinkpb.Stream_STDOUT, "a device"},
		"master":                    {master, sinkpb.Stream_STDOUT, "master of a terminal"},
		"terminal":                  {far(t, int(tty), nil), sinkpb.Stream_STDOUT, "it is a terminal"},
		"closed":                    {fd.New(-1), sinkpb.Stream_STDOUT, "bad file descriptor"},
	} {
		err := checkFar(x.f, x.s)
		switch {
		case x.want == "" && err != nil:
			t.Errorf("%s: %v", name, err)
		case x.want != "" && (err == nil || !strings.Contains(err.Error(), x.want)):
			t.Errorf("%s: %v, want %q in it", name, err, x.want)
		}
	}
}

// copyOf is a copy of a socket's descriptor.
func copyOf(t *testing.T, file func() (*os.File, error)) *fd.FD {
	t.Helper()
	f, err := file()
	if err != nil {
		t.Fatal(err)
	}
	d, err := fd.FromFile(f)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Close() })
	return d
}
