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
	case "copy": // WAIT FILE...: read, and write to each file, with a pause of WAIT after a read that did not fill much of the pipe
		outs, wait, err := files(args[1:], unix.O_APPEND)
		if err != nil {
			return err
		}
		return copyLoop(outs, wait)
	case "splice": // WAIT FILE...: the same with tee(2) and splice(2), which do not append: nobody else may write to the files
		outs, wait, err := files(args[1:], 0)
		if err != nil {
			return err
		}
		return spliceLoop(outs, wait)
	case "drain": // read, and throw away
		_, err := drain(0)
		return err
	}
	return fmt.Errorf("unknown loop %q", args[0])
}

// files makes the files of a loop's arguments, WAIT FILE....
func files(args []string, flags int) (outs []int, wait time.Duration, err error) {
	if wait, err = time.ParseDuration(args[0]); err != nil {
		return nil, 0, err
	}
	for _, path := range args[1:] {
		out, err := unix.Open(path, unix.O_WRONLY|unix.O_CREAT|unix.O_CLOEXEC|flags, 0o600)
		if err != nil {
			return nil, 0, fmt.Errorf("open %s: %w", path, err)
		}
		outs = append(outs, out)
	}
	return outs, wait, nil
}

func copyLoop(outs []int, wait time.Duration) error {
	buf := make([]byte, big)
	for {
		n, err := read(0, buf)
		if err != nil || n == 0 {
			return err
		}
		for _, out := range outs {
			for rest := buf[:n]; len(rest) > 0; {
				w, err := unix.Write(out, rest)
				if err != nil {
					return fmt.Errorf("write: %w", err)
				}
				rest = rest[w:]
			}
		}
		rest(n, wait)
	}
}

// spliceLoop has every byte copied once for each of outs, by the kernel, and nowhere else.
func spliceLoop(outs []int, wait time.Duration) error {
	pipes := make([][2]int, len(outs))
	for i := range pipes {
		if err := unix.Pipe2(pipes[i][:], unix.O_CLOEXEC); err != nil {
			return fmt.Errorf("pipe: %w", err)
		}
		unix.FcntlInt(uintptr(pipes[i][0]), unix.F_SETPIPE_SZ, big)
	}
	first := pipes[0]
	for {
		n, err := unix.Splice(0, nil, first[1], nil, big, 0)
		if err != nil || n == 0 {
			return err
		}
		for _, p := range pipes[1:] {
			if k, err := unix.Tee(first[0], p[1], int(n), 0); err != nil || k != n {
				return fmt.Errorf("tee of %d bytes: %d, %w", n, k, err)
			}
		}
		for i, p := range pipes {
			for left := n; left > 0; {
				k, err := unix.Splice(p[0], nil, outs[i], nil, int(left), unix.SPLICE_F_MOVE)
				if err != nil || k == 0 {
					return fmt.Errorf("splice into a file: %d bytes left, %w", left, err)
				}
				left -= k
			}
		}
		rest(int(n), wait)
	}
}

// rest waits after a read that gave n bytes, where that is little.
func rest(n int, wait time.Duration) {
	if wait > 0 && n < big/2 {
		ts := unix.NsecToTimespec(int64(wait))
		unix.Nanosleep(&ts, nil)
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
