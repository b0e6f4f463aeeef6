package agent

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/muxd/muxd/internal/fd"
	"github.com/muxd/muxd/sink/sinkpb"
)

// checkFar says why a descriptor that was made elsewhere cannot be the far end of s; nil where it can. It looks at what kind
// of descriptor it is and changes nothing. Only this process does that, since a call on a descriptor of a FUSE file
// may block.
func checkFar(f *fd.FD, s sinkpb.Stream) error {
	if s == sinkpb.Stream_CONSOLE {
		return checkFarMaster(f)
	}
	flags, err := unix.FcntlInt(uintptr(f.Int()), unix.F_GETFL, 0)
	if err != nil {
		return fmt.Errorf("look at the descriptor: %w", err)
	}
	if flags&unix.O_PATH != 0 {
		return errors.New("it was opened with O_PATH, which neither reads nor writes")
	}
	var st unix.Statx_t
	err = unix.Statx(f.Int(), "", unix.AT_EMPTY_PATH|unix.AT_STATX_DONT_SYNC, unix.STATX_TYPE, &st)
	if err != nil {
		return fmt.Errorf("look at the descriptor: %w", err)
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFIFO:
		return checkFarPipe(f, s, flags&unix.O_ACCMODE)
	case unix.S_IFSOCK:
		return checkFarSocket(f, s)
	case unix.S_IFCHR:
		return checkFarDevice(f)
	case unix.S_IFREG:
		return errors.New("it is a regular file, and a stream is a pipe or a stream socket: cat FILE | muxctl adopt copies one")
	}
	return errors.New("it is neither a pipe nor a stream socket")
}

func checkFarPipe(f *fd.FD, s sinkpb.Stream, mode int) error {
	if _, err := unix.FcntlInt(uintptr(f.Int()), unix.F_GETPIPE_SZ, 0); err != nil {
		return fmt.Errorf("it is no pipe of the kernel's: %w", err)
	}
	switch input := s == sinkpb.Stream_STDIN; {
	case input && mode == unix.O_RDONLY:
		return errors.New("it is the read end of a pipe, and cannot be written to")
	case !input && mode == unix.O_WRONLY:
		return errors.New("it is the write end of a pipe, and cannot be read")
	}
	return nil
}

// checkFarSocket takes connected stream sockets, which splice(2) reads.
func checkFarSocket(f *fd.FD, s sinkpb.Stream) error {
	if s == sinkpb.Stream_STDIN {
		return errors.New("it is a socket, and stdin takes a pipe")
	}
	domain, err := unix.GetsockoptInt(f.Int(), unix.SOL_SOCKET, unix.SO_DOMAIN)
	if err != nil {
		return fmt.Errorf("look at the socket: %w", err)
	}
	typ, err := unix.GetsockoptInt(f.Int(), unix.SOL_SOCKET, unix.SO_TYPE)
	if err != nil {
		return fmt.Errorf("look at the socket: %w", err)
	}
	if domain != unix.AF_UNIX && domain != unix.AF_INET && domain != unix.AF_INET6 || typ != unix.SOCK_STREAM {
		return errors.New("it is a socket of a kind that is no stream of bytes: want a Unix stream socket or TCP")
	}
	if _, err := unix.Getpeername(f.Int()); err != nil {
		return fmt.Errorf("it is a socket that is not connected: %w", err)
	}
	return nil
}

// checkFarDevice names what is most likely given by mistake.
func checkFarDevice(f *fd.FD) error {
	if _, err := unix.IoctlGetInt(f.Int(), unix.TIOCGPTN); err == nil {
		return errors.New("it is the master of a terminal, which is a console: muxctl adopt --console-fd N")
	}
	if _, err := unix.IoctlGetTermios(f.Int(), unix.TCGETS); err == nil {
		return errors.New("it is a terminal: nothing was piped into muxctl, as in CMD | muxctl adopt --stdout SINK")
	}
	return errors.New("it is a device, and a stream is a pipe or a stream socket")
}

// farHolder is by what the other end of an adopted stream is found in other processes; nothing where it cannot be told from ours.
func farHolder(f *fd.FD) holderID {
	flags, err := unix.FcntlInt(uintptr(f.Int()), unix.F_GETFL, 0)
	if err != nil || flags&unix.O_ACCMODE != unix.O_RDONLY {
		return holderID{} // a socket, whose peer has another inode, or a FIFO that was opened to read and write
	}
	id, err := holderOf(f.Int())
	if err != nil {
		return holderID{}
	}
	return id
}
