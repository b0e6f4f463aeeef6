package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/muxd/muxd/control"
	"github.com/muxd/muxd/control/controlpb"
)

// muxd is one that the bench runs, with a runtime directory of its own.
type muxd struct {
	cmd    *exec.Cmd
	client *control.Client
	muxctl string
	socket string
	log    string
}

// startMuxd starts the muxd in directory bin, with its runtime directory and its log in dir. stop ends it.
func startMuxd(ctx context.Context, bin, dir string) (*muxd, error) {
	m := &muxd{
		muxctl: filepath.Join(bin, "muxctl"), socket: filepath.Join(dir, "control.sock"), log: filepath.Join(dir, "..", "muxd.log"),
	}
	log, err := os.OpenFile(m.log, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	m.cmd = exec.Command(filepath.Join(bin, "muxd"), "--runtime-dir", dir)
	m.cmd.Stdout, m.cmd.Stderr = log, log
	m.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := m.cmd.Start(); err != nil {
		return nil, fmt.Errorf("start muxd: %w; make build makes it", err)
	}
	if m.client, err = control.Dial(m.socket); err != nil {
		return nil, errors.Join(err, m.stop())
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	for {
		_, err = m.client.API.Status(ctx, &controlpb.StatusRequest{})
		if err == nil {
			return m, nil
		}
		select {
		case <-ctx.Done():
			return nil, errors.Join(err, m.stop())
		case <-time.After(10 * time.Millisecond): // until its socket is there
		}
	}
}

// stop ends muxd and its children.
func (m *muxd) stop() error {
	if m.client != nil {
		m.client.Close()
	}
	if err := m.cmd.Process.Signal(unix.SIGINT); err != nil {
		return err
	}
	m.cmd.Process.Signal(unix.SIGINT) // children need no grace
	return m.cmd.Wait()
}

// processes are those of muxd itself: keeper, agent and plugins.
func (m *muxd) processes(ctx context.Context) ([]int, error) {
	st, err := m.client.API.Status(ctx, &controlpb.StatusRequest{})
	if err != nil {
		return nil, err
	}
	plugins, err := m.client.API.Plugins(ctx, &controlpb.PluginsRequest{})
	if err != nil {
		return nil, err
	}
	pids := []int{int(st.KeeperPid), int(st.AgentPid)}
	for _, p := range plugins.Plugins {
		if p.Pid > 0 {
			pids = append(pids, int(p.Pid))
		}
	}
	return pids, nil
}

// sinks names the sink of each stream: sinks{"stdout": "file:x"}; "" is for all.
type sinks map[string][]string

func (m *muxd) spawn(ctx context.Context, s sinks, argv ...string) (id string, err error) {
	spec := &controlpb.ChildSpec{Cwd: []byte("/"), Remove: true}
	for _, e := range os.Environ() {
		spec.Env = append(spec.Env, []byte(e))
	}
	for _, a := range argv {
		spec.Argv = append(spec.Argv, []byte(a))
	}
	for _, stream := range []string{"", "stdin", "stdout", "stderr"} {
		for _, sink := range s[stream] {
			spec.Sinks = append(spec.Sinks, &controlpb.SinkChoice{Stream: stream, Spec: sink})
		}
	}
	r, err := m.client.Spawn(ctx, spec)
	if err != nil {
		return "", err
	}
	return r.Id, nil
}

// wait returns when the child is finished: all that it wrote is where it belongs.
func (m *muxd) wait(ctx context.Context, id string) (*controlpb.Child, error) {
	c, err := m.client.Wait(ctx, id)
	if err != nil {
		return nil, err
	}
	if !c.StatusKnown || c.Status != 0 {
		return c, fmt.Errorf("child %s ended with wait status %#x: %s", id, c.Status, c.Error)
	}
	for _, s := range c.Sinks {
		if s.Error != "" {
			return c, fmt.Errorf("child %s: %s: %s", id, s.Stream, s.Error)
		}
	}
	return c, nil
}

// work runs fn and returns the CPU time that muxd needed meanwhile.
func (m *muxd) work(ctx context.Context, fn func() error) (time.Duration, error) {
	before, err := m.processes(ctx)
	if err != nil {
		return 0, err
	}
	cpu := cpuOf(before)
	if err := fn(); err != nil {
		return 0, err
	}
	after, err := m.processes(ctx)
	if err != nil {
		return 0, err
	}
	return cpuOf(after) - cpu, nil
}

// kill ends a child at once, and returns when it is finished.
func (m *muxd) kill(ctx context.Context, id string) error {
	_, err := m.client.API.Stop(ctx, &controlpb.StopRequest{Child: id, Now: true})
	if err != nil {
		return err
	}
	_, err = m.client.API.Remove(ctx, &controlpb.RemoveRequest{Child: id})
	if status.Code(err) == codes.NotFound {
		err = nil // it was to be forgotten at its end
	}
	return err
}

// pss is the memory of all of muxd's own processes, in bytes; what they share counts once.
func (m *muxd) pss(ctx context.Context) (int64, error) {
	pids, err := m.processes(ctx)
	if err != nil {
		return 0, err
	}
	return pssOf(pids)
}
