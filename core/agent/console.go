package agent

import (
	"context"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/muxd/muxd/control/controlpb"
	"github.com/muxd/muxd/internal/fd"
	"github.com/muxd/muxd/sink/sinkpb"
)

// A console's terminal may be made elsewhere: its master is adopted (muxctl adopt --console-fd), or an OCI runtime sends it to a
// console socket. The sink gets it as it gets the far end of a pipe.

// checkFarMaster says why a descriptor cannot be the far end of a console; nil where it can. As checkFar it changes nothing.
func checkFarMaster(f *fd.FD) error {
	flags, err := unix.FcntlInt(uintptr(f.Int()), unix.F_GETFL, 0)
	if err != nil {
		return fmt.Errorf("look at the descriptor: %w", err)
	}
	var st unix.Statx_t
	err = unix.Statx(f.Int(), "", unix.AT_EMPTY_PATH|unix.AT_STATX_DONT_SYNC, unix.STATX_TYPE, &st)
	if err != nil {
		return fmt.Errorf("look at the descriptor: %w", err)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFCHR {
		return errors.New("it is no terminal's master, but " + kindOf(st.Mode))
	}
	if flags&unix.O_PATH != 0 || flags&unix.O_ACCMODE != unix.O_RDWR {
		return errors.New("it is not open for reading and writing")
	}
	if _, err := unix.IoctlGetInt(f.Int(), unix.TIOCGPTN); err != nil { // ioctl_tty(2): only a Unix98 master answers
		if _, err := unix.IoctlGetTermios(f.Int(), unix.TCGETS); err == nil {
			return errors.New("it is a terminal, and the console's far end is the master behind it")
		}
		return errors.New("it is a device, and not the master of a terminal")
	}
	return nil
}

func kindOf(mode uint16) string {
	switch mode & unix.S_IFMT {
	case unix.S_IFREG:
		return "a regular file"
	case unix.S_IFIFO:
		return "a pipe"
	case unix.S_IFSOCK:
		return "a socket"
	case unix.S_IFDIR:
		return "a directory"
	}
	return "something else"
}

// terminalOf is by what the terminal behind a master is found in processes; nothing where that cannot be told. The terminal side
// comes from the master, since it may be in another mount namespace (TIOCGPTPEER, ioctl_tty(2)).
func terminalOf(master *fd.FD) holderID {
	n, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(master.Int()), unix.TIOCGPTPEER, unix.O_RDONLY|unix.O_NOCTTY|unix.O_NONBLOCK|unix.O_CLOEXEC)
	if errno != 0 {
		return holderID{}
	}
	tty := fd.New(int(n))
	defer tty.Close()
	id, err := holderOf(tty.Int())
	if err != nil {
		return holderID{}
	}
	return id
}

// sizeOf is the window size of a master's terminal; nil where it has none yet.
func sizeOf(master *fd.FD) *controlpb.Size {
	size, err := unix.IoctlGetWinsize(master.Int(), unix.TIOCGWINSZ)
	if err != nil || size.Row == 0 || size.Col == 0 {
		return nil
	}
	return &controlpb.Size{Rows: uint32(size.Row), Cols: uint32(size.Col)}
}

// chooseConsole finds the sink of a console that is adopted as c. Its errors are the user's.
func (a *Agent) chooseConsole(ctx context.Context, c *child, master *fd.FD) ([]*choice, error) {
	if len(c.spec.Sinks) != 1 {
		return nil, errors.New("an adopted console takes one sink")
	}
	ch, err := a.resolve(ctx, c.spec.Sinks[0].Spec, stdStreams, false, c.spec, c.described(1))
	if err != nil {
		return nil, err
	}
	if ch.wiring != wiringPTY {
		return nil, fmt.Errorf("sink %s cannot adopt a console, whose terminal is there already: want pty, from=new", ch.text)
	}
	if size := sizeOf(master); size != nil {
		c.spec.Size, c.rec.Size = size, size
	}
	ch.wiring, ch.streams = wiringAdopt, []sinkpb.Stream{sinkpb.Stream_CONSOLE}
	sinks := []*choice{&ch}
	if ch.log != "" {
		more, err := a.logged(ctx, &ch, c.spec, c.described(1))
		if err != nil {
			return nil, err
		}
		sinks = append(sinks, more...)
	}
	return sinks, nil
}

// endsAlone says whether o is a console of which nobody tells that its process has exited: it ends when the terminal has no holder
// any more, and the sink must not be one.
func (o *opening) endsAlone() bool { return o.isConsole() && o.child.adopted && o.child.rec.Pid == 0 }

// isConsole says whether what o has of its child is a console.
func (o *opening) isConsole() bool {
	return len(o.streams) == 1 && o.streams[0].kind == sinkpb.Stream_CONSOLE
}
