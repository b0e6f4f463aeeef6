package host

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/muxd/muxd/internal/fd"
)

// A plugin's stderr is a pipe, of which the keeper holds the read end for the agent after this one, so that nothing is lost where an agent
// dies. What comes is written to muxd's log, so much of it and no more: a plugin that floods its log must not push out what others
// have to say, nor fill a disk. It is read in any case, so that the plugin does not block for long, but no faster than a pipeful in logPace.
const (
	logBurst = 64 << 10              // may come at once,
	logRate  = 4 << 10               // and so much a second in the long run
	logLine  = 64                    // what a line costs beside its length
	logPace  = 10 * time.Millisecond // between two reads: 100 wake-ups a second, and 6.5 MB/s
	logRead  = 64 << 10              // the size of a read, which is a pipe's
	logTell  = time.Second           // from the first line that is dropped to the line that says so
)

// pluginLog passes on what one process writes to its stderr.
type pluginLog struct {
	name string
	put  func(line string) bool // false: muxd's log takes nothing now
	file *os.File

	mu      sync.Mutex
	part    []byte // a line whose end has not come
	last    string // what it said last
	left    int    // of the allowance
	since   time.Time
	lines   int // dropped, and not told
	bytes   int
	telling *time.Timer // tells it; nil: nothing is dropped now
}

// logName is the keeper's name of the read end.
func logName(key string) string { return "log/" + key }

// newPluginLog takes ownership of r, which may share its open file description with the keeper's.
func newPluginLog(name string, r *fd.FD, put func(string) bool) *pluginLog {
	unix.SetNonblock(r.Int(), true)
	return &pluginLog{name: name, put: put, file: r.File("log of " + name), left: logBurst, since: time.Now()}
}

// follow passes on what comes until the last writer is gone, which may be one that has outlived the plugin. It blocks.
func (l *pluginLog) follow() {
	defer l.file.Close()
	raw, err := l.file.SyscallConn()
	if err != nil {
		return
	}
	for over := false; !over; {
		if raw.Read(func(n uintptr) (some bool) {
			some, over = l.read(int(n))
			return some || over
		}) != nil {
			return
		}
		<-time.After(logPace)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.take([]byte{'\n'})
}

// settle passes on what is there, and returns what the process said last.
func (l *pluginLog) settle() string {
	if l == nil {
		return ""
	}
	if raw, err := l.file.SyscallConn(); err == nil {
		raw.Control(func(n uintptr) {
			for range 16 { // somebody may write on
				if some, _ := l.read(int(n)); !some {
					return
				}
			}
		})
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if text := strings.TrimSpace(string(l.part)); text != "" {
		return plainText(text)
	}
	return l.last
}

// read passes on what one read gives that does not wait.
func (l *pluginLog) read(n int) (some, over bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	b := make([]byte, logRead)
	for {
		got, err := unix.Read(n, b)
		switch {
		case err == unix.EINTR:
			continue
		case err == unix.EAGAIN:
			return false, false
		case err != nil || got == 0:
			return false, true
		}
		l.take(b[:got])
		return true, false
	}
}

// take takes b apart into lines. What is longer than textMost becomes several. l.mu is held.
func (l *pluginLog) take(b []byte) {
	for len(b) > 0 {
		end := bytes.IndexByte(b, '\n')
		room := textMost - len(l.part)
		switch {
		case end < 0 && len(b) < room:
			l.part = append(l.part, b...)
			return
		case end < 0 || end > room:
			l.say(string(append(l.part, b[:room]...)))
			b = b[room:]
		default:
			l.say(string(append(l.part, b[:end]...)))
			b = b[end+1:]
		}
		l.part = l.part[:0]
	}
}

// say puts a line into muxd's log, or counts it as dropped. l.mu is held.
func (l *pluginLog) say(line string) {
	if strings.TrimSpace(line) == "" {
		return
	}
	now := time.Now()
	l.left = min(logBurst, l.left+int(now.Sub(l.since)*logRate/time.Second))
	l.since = now
	if cost := len(line) + logLine; l.telling == nil && l.left >= cost {
		l.last = plainText(line)
		if l.put("plugin " + l.name + ": " + l.last) {
			l.left -= cost
			return
		}
	}
	l.lines++
	l.bytes += len(line) + 1
	if l.telling == nil {
		l.telling = time.AfterFunc(logTell, l.tell)
	}
}

// tell says where something is missing how much that is.
func (l *pluginLog) tell() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.put(fmt.Sprintf("plugin %s: (here are %d lines missing, of %d bytes: it writes more than muxd takes of a plugin's log)", l.name, l.lines, l.bytes)) {
		l.telling.Reset(logTell)
		return
	}
	l.telling, l.lines, l.bytes = nil, 0, 0
}

// putToStderr writes a line to muxd's log. Where that is a pipe or a terminal that takes nothing now, it says so, in place of waiting.
func putToStderr(line string) bool {
	poll := []unix.PollFd{{Fd: 2, Events: unix.POLLOUT}}
	if n, err := unix.Poll(poll, 0); n < 1 && err == nil {
		return false
	}
	os.Stderr.WriteString(line + "\n")
	return true
}

// openLog makes the pipe, of which it keeps the read end, and returns what becomes the plugin's stderr, owned by the caller. That is open both
// ways, as a FIFO can be on Linux (fifo(7)): a write to it finds a reader also while no muxd is there.
func (p *Plugin) openLog() (*fd.FD, error) {
	r, w, err := fd.Pipe()
	if err != nil {
		return nil, err
	}
	defer w.Close()
	n, err := unix.Open(fmt.Sprintf("/proc/self/fd/%d", w.Int()), unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		r.Close()
		return nil, fmt.Errorf("open the pipe for its log: %w", err)
	}
	both := fd.New(n)
	if u := p.command.User; u != nil {
		unix.Fchown(n, int(u.Uid), int(u.Gid)) // it may open /dev/stderr; where not, that fails for it
	}
	if err := p.host.o.Keeper.Hold(context.Background(), logName(p.key), nil, r.Int()); err != nil {
		r.Close()
		both.Close()
		return nil, err
	}
	p.followLog(r)
	return both, nil
}

// followLog takes ownership of r.
func (p *Plugin) followLog(r *fd.FD) {
	p.log = newPluginLog(p.name, r, putToStderr)
	go p.log.follow()
}

// reopenLog has the log of a process that runs followed again. Nothing depends on it.
func (p *Plugin) reopenLog(ctx context.Context) {
	r, err := p.host.o.Keeper.Fetch(ctx, logName(p.key))
	if err != nil {
		p.host.o.Log.Warn("plugin's log is not followed", "plugin", p.name, "pid", p.process.Pid, "error", err)
		return
	}
	p.followLog(r)
}

// LogName is the keeper's name of the read end of the plugin's log, and LogEnd returns a copy of it, owned by the caller.
func (p *Plugin) LogName() string { return logName(p.key) }

func (p *Plugin) LogEnd() (*fd.FD, error) {
	if p.log == nil {
		return nil, os.ErrNotExist
	}
	return fd.DupFile(p.log.file)
}

// stderrOf returns a read end of the pipe that is the stderr of a process, owned by the caller: of a plugin that an earlier muxd started, and
// of which nobody has one.
func stderrOf(pid int) (*fd.FD, error) {
	path := fmt.Sprintf("/proc/%d/fd/2", pid)
	var theirs, ours unix.Stat_t
	if err := unix.Stat(path, &theirs); err != nil {
		return nil, &os.PathError{Op: "stat", Path: path, Err: err}
	}
	unix.Fstat(2, &ours)
	if theirs.Mode&unix.S_IFMT != unix.S_IFIFO || theirs.Dev == ours.Dev && theirs.Ino == ours.Ino {
		return nil, fmt.Errorf("open %s: it is no pipe of its own", path)
	}
	n, err := unix.Open(path, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: path, Err: err}
	}
	return fd.New(n), nil
}
