package main

import (
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/muxd/muxd/control/controlpb"
)

// How often each is killed, and how long it rests then: an agent that dies again at once is not started at once, and a plugin
// that dies five times within ten seconds not at all.
const (
	pluginKills, pluginRest = 24, 2600 * time.Millisecond
	agentKills, agentRest   = 100, 400 * time.Millisecond
)

// killTrials are about how long a stream rests, and how long muxctl's calls wait, when a process of muxd is killed.
func (b *bench) killTrials() []*trial {
	victim := func(who string) func(ctx context.Context) (values, error) {
		return func(ctx context.Context) (values, error) {
			var v values
			err := b.fresh(ctx, func(m *muxd) (err error) { v, err = b.killing(ctx, m, who); return err })
			return v, err
		}
	}
	stream := line{metric: "ms p99", target: 250, atMost: true}
	return []*trial{
		{name: "plugin killed, stream rests", once: true, contenders: []contender{{name: "muxd", role: subject, run: victim("plugin")}},
			lines: []line{stream}},
		{name: "agent killed, stream rests", once: true, contenders: []contender{{name: "muxd", role: subject, run: victim("agent")}},
			lines: []line{stream, {metric: "ms p99, next answer", target: 500, atMost: true}}},
	}
}

// killing kills a process of m again and again while a child writes, and measures how long its file did not grow around each
// kill, and how long the next call took.
func (b *bench) killing(ctx context.Context, m *muxd, who string) (values, error) {
	out := b.dir + "/killed"
	defer os.Remove(out)
	const script = `i=0; while :; do i=$((i+1)); echo $i; done` // far more often than the file is looked at
	if _, err := m.spawn(ctx, sinks{"stdin": {"null"}, "stdout": {"file:" + out + ",format=raw"}, "stderr": {"null"}}, "sh", "-c", script); err != nil {
		return nil, err
	}
	var rests, answers []time.Duration
	kills, rest := agentKills, agentRest
	if who == "plugin" {
		kills, rest = pluginKills, pluginRest
	}
	for range kills {
		pid, err := m.victim(ctx, who)
		if err != nil {
			return nil, err
		}
		begun := time.Now()
		if err := unix.Kill(pid, unix.SIGKILL); err != nil {
			return nil, fmt.Errorf("kill the %s: %w", who, err)
		}
		answered := make(chan error, 1)
		var answer time.Duration
		go func() {
			_, err := m.client.API.Status(ctx, &controlpb.StatusRequest{})
			answer = time.Since(begun)
			answered <- err
		}()
		longest, err := longestRest(ctx, out, rest)
		if err := errors.Join(err, <-answered); err != nil {
			return nil, err
		}
		rests, answers = append(rests, longest), append(answers, answer)
		if err := os.Truncate(out, 0); err != nil { // it grows by megabytes a second
			return nil, err
		}
	}
	ms := func(all []time.Duration, part float64) float64 {
		slices.Sort(all)
		return float64(all[int(math.Ceil(float64(len(all))*part))-1].Microseconds()) / 1e3
	}
	return values{
		"ms p50": ms(rests, 0.5), "ms p99": ms(rests, 0.99), "ms p50, next answer": ms(answers, 0.5), "ms p99, next answer": ms(answers, 0.99),
	}, nil
}

func (m *muxd) victim(ctx context.Context, who string) (int, error) {
	if who == "agent" {
		st, err := m.client.API.Status(ctx, &controlpb.StatusRequest{})
		return int(st.GetAgentPid()), err
	}
	plugins, err := m.client.API.Plugins(ctx, &controlpb.PluginsRequest{})
	if err != nil {
		return 0, err
	}
	for _, p := range plugins.Plugins {
		if p.Name == "file" && p.Pid > 0 {
			return int(p.Pid), nil
		}
	}
	return 0, errors.New("the file plugin does not run")
}

// longestRest is how long the file at path did not grow at most, within a time that is looked at.
func longestRest(ctx context.Context, path string, within time.Duration) (longest time.Duration, err error) {
	begun := time.Now()
	grew, size := begun, int64(-1)
	pause := unix.NsecToTimespec(int64(500 * time.Microsecond))
	for ctx.Err() == nil {
		now := time.Now()
		st, err := os.Stat(path)
		if err != nil {
			return 0, err
		}
		if st.Size() != size {
			if size >= 0 {
				longest = max(longest, now.Sub(grew))
			}
			grew, size = now, st.Size()
			if now.Sub(begun) > within {
				return longest, nil
			}
		}
		if now.Sub(grew) > 10*time.Second {
			return 0, fmt.Errorf("%s has not grown for 10 s", path)
		}
		unix.Nanosleep(&pause, nil)
	}
	return 0, ctx.Err()
}
