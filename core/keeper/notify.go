package keeper

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/coreos/go-systemd/v22/daemon"
)

// A service manager that started muxd is told which process it is to watch: the keeper, and after the keeper's death the agent that
// became the next one. Elsewhere nothing is told (sd_notify(3): NOTIFY_SOCKET is not set).

// notify tells the service manager something.
func (k *keeper) notify(format string, args ...any) {
	if _, err := daemon.SdNotify(false, fmt.Sprintf(format, args...)); err != nil {
		k.logf("tell the service manager: %v", err)
	}
}

// RunningError says that another muxd has the runtime dir.
type RunningError struct {
	Dir string
	Pid int // 0: it is just starting
}

func (e *RunningError) Error() string {
	pid := "not known, it is just starting"
	if e.Pid > 0 {
		pid = fmt.Sprint(e.Pid)
	}
	return fmt.Sprintf("muxd is already running in %s (pid %s)", e.Dir, pid)
}

// pointOut has a service manager watch the muxd that is running already, where there is a service manager. That one saw the keeper
// die which it had started, and started this process in its place; meanwhile the agent became the keeper.
func pointOut(err error, stderr io.Writer) (told bool) {
	running, ok := errors.AsType[*RunningError](err)
	if !ok || running.Pid <= 0 {
		return false
	}
	told, notifyErr := daemon.SdNotify(false, fmt.Sprintf("MAINPID=%d\nREADY=1", running.Pid))
	if told {
		notifyErr = barrier() // the end of this process must not come before it
	}
	if notifyErr != nil {
		fmt.Fprintf(stderr, "muxd: tell the service manager: %v\n", notifyErr)
	}
	return told
}

// barrierMost bounds how long a service manager may take to read what it was told.
const barrierMost = 5 * time.Second

// barrier returns when the service manager has dealt with all that was sent before: it closes the descriptor that comes with
// the message then (sd_notify_barrier(3)).
func barrier() error {
	r, w, err := os.Pipe()
	if err != nil {
		return err
	}
	defer r.Close()
	defer w.Close()
	conn, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: os.Getenv("NOTIFY_SOCKET"), Net: "unixgram"})
	if err != nil {
		return err
	}
	defer conn.Close()
	raw, err := w.SyscallConn()
	if err != nil {
		return err
	}
	var sendErr error
	err = raw.Control(func(fd uintptr) {
		_, _, sendErr = conn.WriteMsgUnix([]byte("BARRIER=1"), unix.UnixRights(int(fd)), nil)
	})
	if err := errors.Join(err, sendErr); err != nil {
		return err
	}
	w.Close()
	r.SetReadDeadline(time.Now().Add(barrierMost))
	if _, err := r.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		return fmt.Errorf("it has not read what it was told: %w", err)
	}
	return nil
}
