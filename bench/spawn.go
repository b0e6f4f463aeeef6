package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

const (
	spawns      = 200
	spawnsAtOne = 8 // at a time, of concurrent ones
)

// spawnTrials are about children that end at once.
func (b *bench) spawnTrials() []*trial {
	each := func(name string, r role, one func(ctx context.Context, dir string, i int) error) contender {
		return contender{name: name, role: r, run: func(ctx context.Context) (values, error) {
			dir, err := os.MkdirTemp(b.dir, "spawn")
			if err != nil {
				return nil, err
			}
			defer os.RemoveAll(dir)
			begun := time.Now()
			for i := range spawns {
				if err := one(ctx, dir, i); err != nil {
					return nil, err
				}
			}
			return values{"us": float64(time.Since(begun).Microseconds()) / spawns}, nil
		}}
	}
	true_ := "/bin/true"
	api := func(ctx context.Context, dir string) error {
		id, err := b.muxd.spawn(ctx, sinks{"stdin": {"null"}, "stdout": {"file:" + dir + "/out"}, "stderr": {"null"}}, true_)
		if err == nil {
			_, err = b.muxd.wait(ctx, id)
		}
		return err
	}
	return []*trial{
		{name: "spawn of true until finished", contenders: []contender{
			each("muxd, by its API", subject, func(ctx context.Context, dir string, _ int) error { return api(ctx, dir) }),
			each("Go os/exec", limit, func(_ context.Context, dir string, _ int) error {
				out, err := os.OpenFile(dir+"/out", os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
				if err != nil {
					return err
				}
				defer out.Close()
				cmd := exec.Command(true_)
				cmd.Stdout = out
				return cmd.Run()
			}),
			each("dtach", peer, func(ctx context.Context, dir string, i int) error {
				cmd := exec.CommandContext(ctx, "dtach", "-n", fmt.Sprintf("%s/%d", dir, i), true_)
				if err := cmd.Run(); err != nil {
					return err
				}
				_, err := unix.Wait4(-1, nil, 0, nil) // the daemon, which is this process's child now
				return err
			}),
		}, lines: []line{{metric: "us", against: "Go os/exec", target: 2, atMost: true,
			unmet: "client, agent, plugin and keeper wait for each other about ten times, and waking a thread that sleeps costs more than what it is woken for; several at once wait less"}}},
		{name: "run of true, as a command", contenders: []contender{
			each("muxctl run", subject, func(ctx context.Context, dir string, _ int) error {
				return exec.CommandContext(ctx, b.muxd.muxctl, "--socket", b.muxd.socket, "run", "--rm", "--stdin", "null",
					"--stdout", "file:"+dir+"/out", "--stderr", "null", "--", true_).Run()
			}),
			each("conmon", peer, func(ctx context.Context, dir string, i int) error {
				c, err := startConmon(ctx, fmt.Sprintf("%s/%d", dir, i), true_)
				if err == nil {
					_, err = c.wait()
				}
				return err
			}),
		}, lines: []line{{metric: "us", against: "conmon", target: 1, atMost: true,
			unmet: "muxctl list, which starts no child, takes half of it: that is a Go program with gRPC that starts"}}},
		{name: "spawns at once", contenders: []contender{
			{name: "muxd, by its API", role: subject, run: func(ctx context.Context) (values, error) {
				dir, err := os.MkdirTemp(b.dir, "spawn")
				if err != nil {
					return nil, err
				}
				defer os.RemoveAll(dir)
				var all sync.WaitGroup
				var mu sync.Mutex
				var failed error
				begun := time.Now()
				for range spawnsAtOne {
					all.Go(func() {
						for range 4 * spawns / spawnsAtOne {
							if err := api(ctx, dir); err != nil {
								mu.Lock()
								failed = errors.Join(failed, err)
								mu.Unlock()
								return
							}
						}
					})
				}
				all.Wait()
				return values{"spawns/s": 4 * spawns / time.Since(begun).Seconds()}, failed
			}},
		}, lines: []line{{metric: "spawns/s", target: 1000}}},
		{name: "muxctl list", contenders: []contender{
			each("muxctl", subject, func(ctx context.Context, _ string, _ int) error {
				return exec.CommandContext(ctx, b.muxd.muxctl, "--socket", b.muxd.socket, "list").Run()
			}),
		}, lines: []line{{metric: "us", target: 15000, atMost: true}}},
	}
}
