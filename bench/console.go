package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"time"
)

// tmux is a tmux server of the bench's own.
type tmux struct {
	socket string
	pid    int
}

// startTmux starts a server with one session of argv. The server ends with its last session.
func startTmux(ctx context.Context, dir string, argv ...string) (*tmux, error) {
	t := &tmux{socket: dir + "/tmux"}
	out, err := exec.CommandContext(ctx, "tmux", append([]string{
		"-S", t.socket, "-f", "/dev/null", "new-session", "-d", "-x", "80", "-y", "24", "-P", "-F", "#{pid}", "--"}, argv...)...).Output()
	if err != nil {
		return nil, fmt.Errorf("tmux: %w", err)
	}
	t.pid, err = strconv.Atoi(strings.TrimSpace(string(out)))
	if err != nil {
		return nil, err
	}
	return t, t.do(ctx, "set-option", "-g", "status", "off")
}

func (t *tmux) do(ctx context.Context, args ...string) error {
	out, err := exec.CommandContext(ctx, "tmux", append([]string{"-S", t.socket}, args...)...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("tmux %s: %w: %s", args[0], err, out)
	}
	return nil
}

// daemonOf runs a command that leaves a daemon behind, and returns the daemon's pid: this process is its parent then.
func daemonOf(cmd *exec.Cmd) (int, error) {
	before := childrenOf(os.Getpid())
	if out, err := cmd.CombinedOutput(); err != nil {
		return 0, fmt.Errorf("%s: %w: %s", cmd.Args[0], err, out)
	}
	for _, pid := range childrenOf(os.Getpid()) {
		if !slices.Contains(before, pid) {
			return pid, nil
		}
	}
	return 0, fmt.Errorf("%s left no daemon", cmd.Args[0])
}

// consoleTrials are about a console's output while nobody looks.
func (b *bench) consoleTrials() []*trial {
	s := shapes[0]
	on := func(name string, r role, run func(ctx context.Context, f *flow) (cpu time.Duration, err error)) contender {
		return contender{name: name, role: r, run: func(ctx context.Context) (values, error) {
			f, err := b.newFlow(s)
			if err != nil {
				return nil, err
			}
			defer f.close()
			f.blocks = s.blocks(b.bytes / 8) // a terminal is slow
			cpu, err := run(ctx, f)
			if err != nil {
				return nil, err
			}
			at, err := readSpan(f.path("span"))
			if err != nil {
				return nil, fmt.Errorf("the child did not write to its end: %w", err)
			}
			return f.measured(at.End, cpu)
		}}
	}
	muxd := func(prepare func(ctx context.Context, f *flow, id string) (after func() error, err error)) func(context.Context, *flow) (time.Duration, error) {
		return func(ctx context.Context, f *flow) (time.Duration, error) {
			return f.muxd.work(ctx, func() error {
				id, err := f.muxd.spawn(ctx, sinks{"": {"pty"}}, f.writer()...)
				if err != nil {
					return err
				}
				after, err := prepare(ctx, f, id)
				if err != nil {
					return err
				}
				c, err := f.muxd.wait(ctx, id)
				if err := errors.Join(err, after()); err != nil {
					return err
				}
				if want := uint64(f.blocks) * uint64(s.size()); c.Sinks[0].Bytes != want {
					return fmt.Errorf("%d bytes of %d arrived", c.Sinks[0].Bytes, want)
				}
				return nil
			})
		}
	}
	alone := muxd(func(context.Context, *flow, string) (func() error, error) { return func() error { return nil }, nil })
	stopped := muxd(func(ctx context.Context, f *flow, id string) (func() error, error) {
		// A viewer that never reads.
		cmd, master, _, err := onPTY(f.muxd.muxctl, "--socket", f.muxd.socket, "attach", id)
		if err != nil {
			return nil, err
		}
		return func() error {
			cmd.Process.Kill()
			cmd.Wait()
			return master.Close()
		}, nil
	})
	return []*trial{
		{name: "console output, nobody attached", contenders: []contender{
			on("muxd", subject, alone),
			on("dtach", peer, func(ctx context.Context, f *flow) (time.Duration, error) {
				pid, err := daemonOf(exec.CommandContext(ctx, "dtach", append([]string{"-n", f.path("socket"), "-r", "none"}, f.writer()...)...))
				if err != nil {
					return 0, err
				}
				cpu, _, err := waitAny(pid) // dtach ends with 1 when its program has ended
				return cpu, err
			}),
			on("tmux", peer, func(ctx context.Context, f *flow) (time.Duration, error) {
				t, err := startTmux(ctx, f.dir, f.writer()...)
				if err != nil {
					return 0, err
				}
				return waitFor(t.pid)
			}),
			on("screen", peer, func(ctx context.Context, f *flow) (time.Duration, error) {
				cmd := exec.CommandContext(ctx, "screen", append([]string{"-D", "-m", "-S", "bench"}, f.writer()...)...)
				cmd.Env = append(os.Environ(), "SCREENDIR="+f.dir)
				if err := cmd.Start(); err != nil {
					return 0, err
				}
				cpu, err := waitFor(cmd.Process.Pid)
				return cpu, errors.Join(err, cmd.Process.Release())
			}),
			on("drain loop", limit, func(ctx context.Context, f *flow) (time.Duration, error) {
				cmd, master, fd, err := onPTY(f.writer()...)
				if err != nil {
					return 0, err
				}
				defer master.Close()
				before := cpuOf([]int{os.Getpid()})
				_, err = drain(fd)
				return cpuOf([]int{os.Getpid()}) - before, errors.Join(err, cmd.Wait())
			}),
		}, lines: []line{
			{metric: speed, against: "dtach", target: 1},
			{metric: cpuCost, against: "tmux", target: 0.6, atMost: true},
		}},
		{name: "console output, a viewer that does not read", contenders: []contender{
			on("muxd", subject, stopped), on("muxd without it", limit, alone),
		}, lines: []line{{metric: speed, against: "muxd without it", target: 0.95}}},
	}
}
