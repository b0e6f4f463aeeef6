package host

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc"

	"github.com/muxd/muxd/internal/localrpc"
	"github.com/muxd/muxd/sink/sinkpb"
)

// A process that hangs is as good as dead, and nobody tells of it. So a plugin is asked something now and then, and one that does not
// answer for Options.Hang is killed, for a successor to go on.
//
//	calm ── Stir ──> stirred ── half of Hang ──> asked ── an answer ──> calm
//	                    ^                          |  └── silence ────> killed
//	                    └── Options.Calm says no ──┘
//
// While nothing is going on a plugin is calm, and costs no wake-up: Stir says that there is something to do for it. What
// counts as silence is not the clock's time, but that in which the plugin could have answered: see silence.
const asks = 10 // a silence is measured in so many parts

// Stir says that the plugin has something to do. It does not block.
func (p *Plugin) Stir() {
	select {
	case p.stir <- struct{}{}:
	default:
	}
}

// stirring stirs the plugin with every call that is made to it, but for those of pulse itself.
func (p *Plugin) stirring(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, call grpc.UnaryInvoker, opts ...grpc.CallOption) error {
	if method != sinkpb.Sink_Openings_FullMethodName {
		p.Stir()
	}
	return call(ctx, method, req, reply, cc, opts...)
}

// dialOptions are those of the connection to the plugin.
func (p *Plugin) dialOptions() []grpc.DialOption {
	return append(localrpc.Client(), grpc.WithChainUnaryInterceptor(p.stirring, plainCall), grpc.WithStreamInterceptor(plainStream))
}

// pulse is the loop above. It ends with the process.
func (p *Plugin) pulse() {
	for {
		select {
		case <-p.stir:
		case <-p.exited:
			return
		}
		hang := p.host.o.Hang()
		if hang <= 0 {
			continue
		}
		select {
		case <-time.After(hang / 2):
		case <-p.exited:
			return
		}
		if !p.answers(hang) {
			why := fmt.Sprintf("it did not answer for %v, and was killed", hang)
			p.hung.Store(&why)
			p.host.o.Keeper.Signal(context.Background(), p.key, unix.SIGKILL, false)
			return
		}
		if !p.host.o.Calm(p.name) {
			p.Stir()
		}
	}
}

// answers asks the plugin for its openings. It says false when there was no answer for hang; an error is an answer.
func (p *Plugin) answers(hang time.Duration) bool {
	ctx, cancel := context.WithCancel(context.Background())
	answered := make(chan struct{})
	go func() {
		defer close(answered)
		p.sinks.Openings(ctx, &sinkpb.OpeningsRequest{})
	}()
	defer func() {
		cancel()
		<-answered
	}()
	part := hang / asks
	for s := newSilence(int(p.process.Pid)); s.total < hang; s.add(part) {
		select {
		case <-answered:
			return true
		case <-p.exited:
			return true
		case <-time.After(part):
		}
	}
	return false
}

// silence is how long a process has said nothing though it could have. What does not count: time in which this process was not on
// time itself, as on a machine that is overloaded or was suspended (and CLOCK_MONOTONIC stands still while it is); and time
// for which a thread of the other waited for a CPU.
type silence struct {
	pid   int
	total time.Duration
	last  time.Time
	waits map[string]time.Duration // by thread
}

func newSilence(pid int) *silence { return &silence{pid: pid, last: time.Now(), waits: cpuWaits(pid)} }

// add counts the part that has just passed. A process that somebody has stopped cannot answer, however late this one is.
func (s *silence) add(part time.Duration) {
	now, waits := time.Now(), cpuWaits(s.pid)
	if stopped(s.pid) {
		s.total += part
	} else {
		s.total += silent(part, now.Sub(s.last), longestWait(s.waits, waits))
	}
	s.last, s.waits = now, waits
}

// silent is how much of a part counts, of which so much time has passed, and for so much of which a thread waited for a CPU.
func silent(part, passed, waited time.Duration) time.Duration {
	if passed >= 2*part {
		return 0
	}
	return max(0, part-waited)
}

// stopped says whether a process was stopped by a signal (T of proc_pid_stat(5)).
func stopped(pid int) bool {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	i := bytes.LastIndexByte(b, ')')
	return err == nil && i >= 0 && i+2 < len(b) && b[i+2] == 'T'
}

// longestWait is how long the thread that waited most for a CPU did so between two looks.
func longestWait(before, after map[string]time.Duration) time.Duration {
	var most time.Duration
	for thread, wait := range after {
		most = max(most, wait-before[thread])
	}
	return most
}

// cpuWaits tells for each thread of a process how long it has been runnable without running, ever: the second field of
// /proc/PID/task/TID/schedstat (Documentation/scheduler/sched-stats.rst). Where the kernel does not say, nothing.
func cpuWaits(pid int) map[string]time.Duration {
	out := map[string]time.Duration{}
	files, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/schedstat", pid))
	for _, file := range files {
		b, err := os.ReadFile(file)
		if err != nil {
			continue // the thread has ended
		}
		if fields := strings.Fields(string(b)); len(fields) == 3 {
			n, _ := strconv.ParseInt(fields[1], 10, 64)
			out[file] = time.Duration(n)
		}
	}
	return out
}
