package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

const (
	keys     = 2000
	keyPause = 2 * time.Millisecond // between the echo of a key and the next one
)

// typed is a terminal on which somebody types, and a program that shows what comes back.
type typed struct {
	cmd    *exec.Cmd
	master *os.File
	fd     int
	after  func() error // ends what is behind cmd
}

// echoTrials are about the time between a key and its echo.
func (b *bench) echoTrials() []*trial {
	by := func(name string, r role, begin func(ctx context.Context, dir string) (*typed, error)) contender {
		return contender{name: name, role: r, run: func(ctx context.Context) (v values, err error) {
			dir, err := os.MkdirTemp(b.dir, "echo")
			if err != nil {
				return nil, err
			}
			defer os.RemoveAll(dir)
			t, err := begin(ctx, dir)
			if err != nil {
				return nil, err
			}
			defer func() {
				t.cmd.Process.Kill()
				t.cmd.Wait()
				err = errors.Join(err, t.after(), t.master.Close())
			}()
			return t.measure(ctx)
		}}
	}
	show := func(after func() error, argv ...string) (*typed, error) {
		cmd, master, fd, err := onPTY(argv...)
		if err != nil {
			return nil, errors.Join(err, after())
		}
		return &typed{cmd: cmd, master: master, fd: fd, after: after}, nil
	}
	return []*trial{{name: "keystroke echo", contenders: []contender{
		by("muxctl attach", subject, func(ctx context.Context, _ string) (*typed, error) {
			id, err := b.muxd.spawn(ctx, sinks{"": {"pty"}}, b.self, "echo")
			if err != nil {
				return nil, err
			}
			return show(func() error { return b.muxd.kill(ctx, id) }, b.muxd.muxctl, "--socket", b.muxd.socket, "attach", id)
		}),
		by("tmux", peer, func(ctx context.Context, dir string) (*typed, error) {
			t, err := startTmux(ctx, dir, b.self, "echo")
			if err != nil {
				return nil, err
			}
			return show(func() error {
				err := t.do(ctx, "kill-server")
				_, waitErr := waitFor(t.pid)
				return errors.Join(err, waitErr)
			}, "tmux", "-S", t.socket, "attach")
		}),
		by("dtach", peer, func(ctx context.Context, dir string) (*typed, error) {
			pid, err := daemonOf(exec.CommandContext(ctx, "dtach", "-n", dir+"/socket", "-r", "none", b.self, "echo"))
			if err != nil {
				return nil, err
			}
			return show(func() error {
				for _, child := range childrenOf(pid) {
					unix.Kill(child, unix.SIGKILL)
				}
				_, _, err := waitAny(pid)
				return err
			}, "dtach", "-a", dir+"/socket", "-r", "none")
		}),
		by("terminal alone", limit, func(context.Context, string) (*typed, error) {
			return show(func() error { return nil }, b.self, "echo")
		}),
	}, lines: []line{
		{metric: "us p50", against: "tmux", target: 1.1, atMost: true},
		{metric: "us p99", against: "tmux", target: 1.3, atMost: true},
	}}}
}

// measure types keys, one after the echo of the other.
func (t *typed) measure(ctx context.Context) (values, error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	// The program behind the terminal may need a moment: the first key is typed until something answers.
	for begun := time.Now(); ; {
		if _, err := unix.Write(t.fd, []byte{'~'}); err != nil {
			return nil, fmt.Errorf("type: %w", err)
		}
		if ok, err := t.sees('~', 100*time.Millisecond); err != nil || ok {
			if err != nil {
				return nil, err
			}
			break
		}
		if time.Since(begun) > 10*time.Second || ctx.Err() != nil {
			return nil, errors.New("no echo within 10 s")
		}
	}
	for { // what else was typed, and what the program draws
		if more, err := t.sees(0, 200*time.Millisecond); err != nil || !more {
			if err != nil {
				return nil, err
			}
			break
		}
	}
	took := make([]time.Duration, 0, keys)
	pause := unix.NsecToTimespec(int64(keyPause))
	for i := range keys {
		key := 'a' + byte(i%26)
		begun := monotonic()
		if _, err := unix.Write(t.fd, []byte{key}); err != nil {
			return nil, fmt.Errorf("type: %w", err)
		}
		ok, err := t.sees(key, 5*time.Second)
		if err != nil {
			return nil, err
		}
		if !ok {
			return nil, fmt.Errorf("key %d of %d has no echo", i, keys)
		}
		took = append(took, time.Duration(monotonic()-begun))
		unix.Nanosleep(&pause, nil)
	}
	slices.Sort(took)
	micro := func(d time.Duration) float64 { return float64(d.Nanoseconds()) / 1e3 }
	return values{"us p50": micro(took[keys/2]), "us p99": micro(took[keys*99/100])}, nil
}

// sees reads what is shown until key is in it, or anything where key is 0; false where that takes longer than within.
func (t *typed) sees(key byte, within time.Duration) (bool, error) {
	buf := make([]byte, 4096)
	for deadline := time.Now().Add(within); ; {
		p := []unix.PollFd{{Fd: int32(t.fd), Events: unix.POLLIN}}
		n, err := unix.Poll(p, int(max(0, time.Until(deadline).Milliseconds())))
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil || n == 0 {
			return false, err
		}
		n, err = unix.Read(t.fd, buf)
		if err != nil {
			return false, fmt.Errorf("read what is shown: %w", err)
		}
		if key == 0 || slices.Contains(buf[:n], key) {
			return true, nil
		}
	}
}
