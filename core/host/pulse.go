package host

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
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

// answerMost bounds an answer. LargeAnswer is for what tells of many things at once, and for events, which have what is left of a console.
const (
	answerMost  = 1 << 20
	largeAnswer = 16 << 20
)

// LargeAnswer is the option of a call whose answer may be large.
func LargeAnswer() grpc.CallOption { return grpc.MaxCallRecvMsgSize(largeAnswer) }

// dialOptions are those of the connection to the plugin.
func (p *Plugin) dialOptions() []grpc.DialOption {
	return append(localrpc.Client(), grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(answerMost)), // go-plugin's own is none
		grpc.WithChainUnaryInterceptor(p.stirring, plainCall), grpc.WithStreamInterceptor(plainStream))
}

// Reconsider has pulse look at Options.Hang again. It does not block.
func (p *Plugin) Reconsider() {
	select {
	case p.reconsider <- struct{}{}:
	default:
	}
	p.Stir() // also one that was to hang for ever
}

// pulse is the loop above. It ends with the process.
func (p *Plugin) pulse() {
	for {
		select {
		case <-p.stir:
		case <-p.exited:
			return
		}
		for begun, left := time.Now(), p.host.o.Hang()/2; left > 0; left = p.host.o.Hang()/2 - time.Since(begun) {
			select {
			case <-time.After(left):
			case <-p.reconsider:
			case <-p.exited:
				return
			}
		}
		if p.host.o.Hang() <= 0 {
			continue
		}
		if silent := p.answers(); silent > 0 {
			why := fmt.Sprintf("it did not answer for %v, and was killed", silent)
			p.hung.Store(&why)
			p.host.o.Keeper.Signal(context.Background(), p.key, unix.SIGKILL, false)
			return
		}
		if !p.host.o.Calm(p.name) {
			p.Stir()
		}
	}
}

// answers asks the plugin for its openings. It returns for how long there was no answer where that was too long, and otherwise 0; an
// error is an answer.
func (p *Plugin) answers() (silent time.Duration) {
	ctx, cancel := context.WithCancel(context.Background())
	answered := make(chan struct{})
	go func() {
		defer close(answered)
		p.sinks.Openings(ctx, &sinkpb.OpeningsRequest{}, LargeAnswer())
	}()
	defer func() {
		cancel()
		<-answered
	}()
	s := newSilence(int(p.process.Pid))
	for hang := p.host.o.Hang(); hang > 0; hang = p.host.o.Hang() {
		if s.total >= hang {
			return hang
		}
		part := hang / asks
		select {
		case <-answered:
			return 0
		case <-p.exited:
			return 0
		case <-p.reconsider:
		case <-time.After(part):
			s.add(part)
		}
	}
	return 0
}

// silence is how long a process has said nothing though it could have. What does not count: time in which this process was not on
// time itself, as on a machine that is overloaded or was suspended (and CLOCK_MONOTONIC stands still while it is); and time
// for which a thread of the other, or of this one, waited for a CPU.
type silence struct {
	pid   int
	total time.Duration
	last  time.Time
	other map[string]thread // by the path of its schedstat
	this  map[string]thread
}

func newSilence(pid int) *silence {
	return &silence{pid: pid, last: time.Now(), other: threads(pid), this: threads(os.Getpid())}
}

// add counts the part that has just passed. A process that somebody has stopped cannot answer, however late this one is.
func (s *silence) add(part time.Duration) {
	now, other, this := time.Now(), threads(s.pid), threads(os.Getpid())
	if stopped(s.pid) {
		s.total += part
	} else {
		s.total += silent(part, now.Sub(s.last), max(longestWait(part, s.other, other), longestWait(part, s.this, this)))
	}
	s.last, s.other, s.this = now, other, this
}

// silent is how much of a part counts, of which so much time has passed, and for so much of which a thread waited for a CPU.
func silent(part, passed, waited time.Duration) time.Duration {
	if passed >= 2*part {
		return 0
	}
	return max(0, part-waited)
}

// stopped says whether a process was stopped by a signal.
func stopped(pid int) bool { return stateOf(fmt.Sprintf("/proc/%d/stat", pid)) == 'T' }

// stateOf is the state that a stat file tells (proc_pid_stat(5)); 0 where there is none.
func stateOf(path string) byte {
	b, err := os.ReadFile(path)
	if i := bytes.LastIndexByte(b, ')'); err == nil && i >= 0 && i+2 < len(b) {
		return b[i+2]
	}
	return 0
}

// thread is what a thread has had of the CPUs so far.
type thread struct {
	ran, waited time.Duration
	runnable    bool
}

// longestWait is how long the thread that waited most for a CPU did so between two looks, with a part between them. The kernel counts a
// wait when it is over: a thread that was runnable at both looks, and has not run, has waited all the time.
func longestWait(part time.Duration, before, after map[string]thread) time.Duration {
	var most time.Duration
	for path, now := range after {
		was, known := before[path]
		switch {
		case known && was.runnable && now.runnable && was.ran == now.ran:
			most = max(most, part)
		default:
			most = max(most, now.waited-was.waited)
		}
	}
	return most
}

// threads looks at the threads of a process. How long each has run, and has been runnable without running, are the first fields of its
// schedstat (Documentation/scheduler/sched-stats.rst). Where the kernel does not say, nothing.
func threads(pid int) map[string]thread {
	out := map[string]thread{}
	files, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/schedstat", pid))
	for _, file := range files {
		b, err := os.ReadFile(file)
		if err != nil {
			continue // the thread has ended
		}
		var ran, waited int64
		if n, _ := fmt.Sscan(string(b), &ran, &waited); n == 2 {
			state := stateOf(filepath.Join(filepath.Dir(file), "stat"))
			out[file] = thread{ran: time.Duration(ran), waited: time.Duration(waited), runnable: state == 'R'}
		}
	}
	return out
}
