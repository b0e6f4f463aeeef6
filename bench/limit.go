package main

import (
	"errors"
	"fmt"
	"runtime"
	"time"

	"golang.org/x/sys/unix"
)

const big = 1 << 20 // of a pipe, and of a read

// limitMain is a small loop that shows what the kernel can do: bench limit KIND ARG.... It reads fd 0.
func limitMain(args []string) error {
	runtime.LockOSThread()
	unix.FcntlInt(0, unix.F_SETPIPE_SZ, big) // an ordinary user may be over the budget: then it stays as it is
	switch args[0] {
	case "copy": // FILE WAIT: read and write, with a pause of WAIT after a read that did not fill much of the pipe
		out, err := unix.Open(args[1], unix.O_WRONLY|unix.O_CREAT|unix.O_APPEND|unix.O_CLOEXEC, 0o600)
		if err != nil {
			return fmt.Errorf("open %s: %w", args[1], err)
		}
		wait, err := time.ParseDuration(args[2])
		if err != nil {
			return err
		}
		return copyLoop(out, wait)
	case "drain": // read, and throw away
		_, err := drain(0)
		return err
	}
	return fmt.Errorf("unknown loop %q", args[0])
}

func copyLoop(out int, wait time.Duration) error {
	buf := make([]byte, big)
	for {
		n, err := read(0, buf)
		if err != nil || n == 0 {
			return err
		}
		for rest := buf[:n]; len(rest) > 0; {
			w, err := unix.Write(out, rest)
			if err != nil {
				return fmt.Errorf("write: %w", err)
			}
			rest = rest[w:]
		}
		if wait > 0 && n < big/2 {
			ts := unix.NsecToTimespec(int64(wait))
			unix.Nanosleep(&ts, nil)
		}
	}
}

// drain reads fd to its end and says how much there was. Of a terminal's master, EIO is the end: pty(7).
func drain(fd int) (int64, error) {
	buf := make([]byte, big)
	var sum int64
	for {
		n, err := read(fd, buf)
		if errors.Is(err, unix.EIO) {
			return sum, nil
		}
		if err != nil || n == 0 {
			return sum, err
		}
		sum += int64(n)
	}
}

func read(fd int, buf []byte) (int, error) {
	for {
		n, err := unix.Read(fd, buf)
		if !errors.Is(err, unix.EINTR) {
			return max(n, 0), err
		}
	}
}

// echoMain is the child of the keystroke trials: it writes what it reads, from a raw terminal.
func echoMain() error {
	t, err := unix.IoctlGetTermios(0, unix.TCGETS)
	if err != nil {
		return err
	}
	t.Iflag &^= unix.ICRNL | unix.IXON
	t.Oflag &^= unix.OPOST
	t.Lflag &^= unix.ECHO | unix.ICANON | unix.ISIG
	t.Cc[unix.VMIN], t.Cc[unix.VTIME] = 1, 0
	if err := unix.IoctlSetTermios(0, unix.TCSETS, t); err != nil {
		return err
	}
	runtime.LockOSThread()
	buf := make([]byte, 4096)
	for {
		n, err := read(0, buf)
		if err != nil || n == 0 {
			return err
		}
		if _, err := unix.Write(1, buf[:n]); err != nil {
			return err
		}
	}
}
