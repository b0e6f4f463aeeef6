package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"time"

	"golang.org/x/sys/unix"
)

const (
	manyChildren = 4000
	someChildren = 10
	manyConsoles = 500
	peerChildren = 100
	watched      = 10 * time.Second // how long wake-ups are counted
	settling     = 8 * time.Second  // until muxd has given back what many starts needed, and has asked its plugins for the last time
)

var loadName = fmt.Sprintf("%d children against %d", manyChildren, someChildren)

// idleTrials are about what children cost that do nothing. They are measured once: nothing in them varies.
func (b *bench) idleTrials() []*trial {
	// apiece is how much muxd grows for each of n children.
	apiece := func(n int, s sinks) func(ctx context.Context) (values, error) {
		return func(ctx context.Context) (values, error) {
			var v values
			err := b.fresh(ctx, func(m *muxd) error {
				first, err := m.spawn(ctx, s, "sleep", "infinity") // the plugin is there then
				if err != nil {
					return err
				}
				before, err := m.pss(ctx)
				if err != nil {
					return err
				}
				ids := []string{first}
				for range n {
					id, err := m.spawn(ctx, s, "sleep", "infinity")
					if err != nil {
						return fmt.Errorf("child %d: %w", len(ids), err)
					}
					ids = append(ids, id)
				}
				if err := pause(ctx, settling); err != nil {
					return err
				}
				after, err := m.pss(ctx)
				v = values{"KiB": float64(after-before) / 1024 / float64(n)}
				return err
			})
			return v, err
		}
	}
	quiet := sinks{"stdin": {"null"}, "stdout": {"file:/dev/null,format=raw"}, "stderr": {"file:/dev/null,format=raw"}}
	return []*trial{
		{name: fmt.Sprintf("idle child with two pipes, of %d", manyChildren), once: true, contenders: []contender{
			{name: "muxd", role: subject, run: apiece(manyChildren, quiet)},
			{name: "dtach", role: peer, run: func(ctx context.Context) (values, error) {
				dir, err := os.MkdirTemp(b.dir, "idle")
				if err != nil {
					return nil, err
				}
				defer os.RemoveAll(dir)
				var pids []int
				defer func() {
					for _, pid := range pids {
						for _, child := range childrenOf(pid) {
							unix.Kill(child, unix.SIGKILL)
						}
						waitAny(pid)
					}
				}()
				for i := range peerChildren {
					pid, err := daemonOf(exec.CommandContext(ctx, "dtach", "-n", fmt.Sprintf("%s/%d", dir, i), "sleep", "infinity"))
					if err != nil {
						return nil, err
					}
					pids = append(pids, pid)
				}
				pss, err := pssOf(pids)
				return values{"KiB": float64(pss) / 1024 / peerChildren}, err
			}},
		}, lines: []line{{metric: "KiB", target: 8, atMost: true,
			unmet: "the heaps: about 5 KiB in the agent, 5 in the plugin and 2 in the keeper"}}},
		{name: fmt.Sprintf("idle console, of %d", manyConsoles), once: true, contenders: []contender{
			{name: "muxd", role: subject, run: apiece(manyConsoles, sinks{"": {"pty"}})},
			{name: "tmux", role: peer, run: func(ctx context.Context) (v values, err error) {
				dir, err := os.MkdirTemp(b.dir, "idle")
				if err != nil {
					return nil, err
				}
				defer os.RemoveAll(dir)
				t, err := startTmux(ctx, dir, "sleep", "infinity")
				if err != nil {
					return nil, err
				}
				defer func() {
					err = errors.Join(err, t.do(ctx, "kill-server"))
					waitAny(t.pid)
				}()
				before, err := pssOf([]int{t.pid})
				if err != nil {
					return nil, err
				}
				for range peerChildren {
					if err := t.do(ctx, "new-window", "-d", "sleep", "infinity"); err != nil {
						return nil, err
					}
				}
				after, err := pssOf([]int{t.pid})
				return values{"KiB": float64(after-before) / 1024 / peerChildren}, err
			}},
		}, lines: []line{{metric: "KiB", target: 64, atMost: true}}},
		{name: "muxd with one child", once: true, contenders: []contender{
			{name: "muxd", role: subject, run: func(ctx context.Context) (values, error) {
				var v values
				err := b.fresh(ctx, func(m *muxd) error {
					if _, err := m.spawn(ctx, quiet, "sleep", "infinity"); err != nil {
						return err
					}
					pss, err := m.pss(ctx)
					if err != nil {
						return err
					}
					pids, err := m.processes(ctx)
					if err != nil {
						return err
					}
					if err := pause(ctx, settling); err != nil {
						return err
					}
					before, err := switchesOf(pids)
					if err != nil {
						return err
					}
					if err := pause(ctx, watched); err != nil {
						return err
					}
					after, err := switchesOf(pids)
					v = values{"MiB": float64(pss) / (1 << 20), "wake-ups/s": float64(after-before) / watched.Seconds()}
					return err
				})
				return v, err
			}},
		}, lines: []line{
			{metric: "MiB", target: 40, atMost: true},
			{metric: "wake-ups/s", target: 0, atMost: true},
		}},
		{name: loadName, once: true, contenders: []contender{
			{name: "many", role: subject, run: b.load(manyChildren)},
			{name: "few", role: limit, run: b.load(someChildren)},
			{name: "100", role: limit, run: b.load(100)},
			{name: "1000", role: limit, run: b.load(1000)},
		}, lines: []line{
			{metric: "us a spawn", against: "few", target: 1.3, atMost: true},
			{metric: "CPU us a line", against: "few", target: 1.3, atMost: true},
		}},
	}
}

// burst writes lines of 100 bytes every second. It is no Go program, whose threads would be counted as processes against
// the limit of its cgroup.
const burst = `$l = ("x" x 99) . "\n"; for (;;) { syswrite(STDOUT, $l) for 1 .. $ARGV[0]; select(undef, undef, undef, 1) }`

// load measures what spawns and lines cost with n children, of which each writes a few lines every second.
func (b *bench) load(n int) func(ctx context.Context) (values, error) {
	const lines, seconds = 20, 15
	return func(ctx context.Context) (values, error) {
		var v values
		err := b.fresh(ctx, func(m *muxd) error {
			s := sinks{"stdin": {"null"}, "stdout": {"file:/dev/null,format=raw"}, "stderr": {"null"}}
			for range n {
				if _, err := m.spawn(ctx, s, "perl", "-e", burst, fmt.Sprint(lines)); err != nil {
					return err
				}
			}
			begun := time.Now()
			for range spawns {
				id, err := m.spawn(ctx, s, "/bin/true")
				if err != nil {
					return err
				}
				if _, err := m.wait(ctx, id); err != nil {
					return err
				}
			}
			spawn := time.Since(begun)
			cpu, err := m.work(ctx, func() error { return pause(ctx, seconds*time.Second) })
			v = values{
				"us a spawn":    float64(spawn.Microseconds()) / spawns,
				"CPU us a line": float64(cpu.Microseconds()) / float64(n*lines*seconds),
			}
			return err
		})
		return v, err
	}
}

// fresh has fn use a muxd of its own.
func (b *bench) fresh(ctx context.Context, fn func(m *muxd) error) error {
	dir, err := os.MkdirTemp(b.dir, "f")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	m, err := startMuxd(ctx, b.bin, dir+"/m")
	if err != nil {
		return err
	}
	return errors.Join(fn(m), m.stop())
}

// pause waits, and does nothing.
func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
