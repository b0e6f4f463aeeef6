package sinktest

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/muxd/muxd/internal/fd"
	"github.com/muxd/muxd/internal/fdchan"
	"github.com/muxd/muxd/sink/sinkpb"
)

// The handshake of PROTOCOL.md, section 1.
const (
	cookieKey   = "MUXD_SINK_PLUGIN"
	cookieValue = "5d6d1c1f-muxd-sink"
	protocol    = 1 // the version of the sink protocol that the kit speaks
)

// startAs is how a process is started; the zero value is how muxd does it.
type startAs struct {
	cookie   string // instead of the right one
	versions string // instead of the kit's
	started  func(p *process)
}

// process is a plugin's process.
type process struct {
	cmd      *exec.Cmd
	line     string // the handshake
	socket   string
	conn     *grpc.ClientConn
	sinks    sinkpb.SinkClient
	fds      *fdchan.Endpoint
	channel  *fd.FD // a copy of our end of the fd channel, for what an Endpoint does not send
	listener string
	events   *events
	log      *tail
	said     *tail         // on its stdout, after the handshake
	mute     chan struct{} // closed when nothing more can be said there
	exited   chan struct{}
}

// tail keeps the end of what is written to it, and counts all of it.
type tail struct {
	mu    sync.Mutex
	end   []byte
	bytes int
	lines int
}

const tailMost = 2 << 10

func (t *tail) Write(b []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.bytes += len(b)
	t.lines += strings.Count(string(b), "\n")
	t.end = append(t.end, b...)
	t.end = t.end[max(0, len(t.end)-tailMost):]
	return len(b), nil
}

func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return strings.TrimSpace(string(t.end))
}

func (t *tail) counts() (bytes, lines int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.bytes, t.lines
}

// launch starts a process with all that muxd gives it. dir is for its sockets. park takes what the process parks. The process is also
// returned with an error, and has ended then.
func launch(o *Options, dir string, how startAs, park func(string, []*fd.FD) error) (*process, error) {
	p := &process{log: &tail{}, said: &tail{}, exited: make(chan struct{}), mute: make(chan struct{}), events: newEvents()}
	err := p.start(o, dir, how, park)
	if err != nil {
		if p.cmd != nil {
			select { // how it ends is its own affair, if it does
			case <-p.exited:
			case <-time.After(exitMost):
			}
		}
		p.kill()
	}
	return p, err
}

// exitMost is how long a process that did not shake hands may take to exit.
const exitMost = time.Second

func (p *process) start(o *Options, dir string, how startAs, park func(string, []*fd.FD) error) error {
	ours, theirs, err := fd.Socketpair(unix.SOCK_SEQPACKET)
	if err != nil {
		return err
	}
	theirFile := theirs.File("fd channel")
	defer theirFile.Close()
	if p.channel, err = ours.Dup(); err != nil {
		ours.Close()
		return err
	}
	conn, err := fdchan.New(ours)
	if err != nil {
		return err
	}
	p.fds = fdchan.NewEndpoint(conn, park)
	listen, err := bind(dir)
	if err != nil {
		return err
	}
	p.listener = listen.Name()
	defer listen.Close()
	outR, outW, err := os.Pipe()
	if err != nil {
		return err
	}

	cookie, versions := cookieValue, strconv.Itoa(protocol)
	if how.cookie != "" {
		cookie = how.cookie
	}
	if how.versions != "" {
		versions = how.versions
	}
	cmd := exec.Command(o.Command[0], o.Command[1:]...)
	cmd.Dir = "/"
	cmd.Stdout, cmd.Stderr = outW, p.log
	cmd.ExtraFiles = []*os.File{theirFile, listen}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	cmd.WaitDelay = time.Second // for what the process has started and left behind with its stderr
	cmd.Env = []string{
		cookieKey + "=" + cookie, "MUXD_FD_CHANNEL=3", "MUXD_FD_LISTENER=4", "PLUGIN_PROTOCOL_VERSIONS=" + versions,
		"PLUGIN_UNIX_SOCKET_DIR=" + dir, "PLUGIN_MIN_PORT=10000", "PLUGIN_MAX_PORT=25000",
	}
	for _, name := range []string{"PATH", "TZ", "GOCOVERDIR"} {
		if v, ok := os.LookupEnv(name); ok {
			cmd.Env = append(cmd.Env, name+"="+v)
		}
	}
	cmd.Env = append(cmd.Env, o.Env...)
	err = cmd.Start()
	outW.Close()
	if err != nil {
		outR.Close()
		return err
	}
	p.cmd = cmd
	o.reaper.tell("start", cmd.Process.Pid)
	if how.started != nil {
		how.started(p)
	}
	go func() {
		cmd.Wait()
		o.reaper.tell("end", cmd.Process.Pid)
		close(p.exited)
	}()
	return p.handshake(outR, o.StartTimeout)
}

// bind makes the socket on which a plugin listens for a later muxd.
func bind(dir string) (*os.File, error) {
	n, err := unix.Socket(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	f := fd.New(n)
	path := filepath.Join(dir, "fd")
	os.Remove(path)
	if err := unix.Bind(n, &unix.SockaddrUnix{Name: path}); err != nil {
		f.Close()
		return nil, fmt.Errorf("bind %s: %w", path, err)
	}
	return f.File(path), nil
}

// handshake reads the line from out, which it takes ownership of, and connects.
func (p *process) handshake(out *os.File, within time.Duration) error {
	line := make(chan string, 1)
	go func() {
		defer close(p.mute)
		defer out.Close()
		r := bufio.NewReader(out)
		text, err := r.ReadString('\n')
		if err != nil && text == "" {
			close(line)
			return
		}
		line <- text
		io.Copy(p.said, r)
	}()
	select {
	case text, ok := <-line:
		if !ok {
			return errors.New("it closed its stdout, or ended, without a handshake line" + p.lastWords())
		}
		p.line = text
	case <-time.After(within):
		return fmt.Errorf("no handshake line came within %v%s", within, p.lastWords())
	}
	socket, version, err := parseHandshake(p.line)
	switch {
	case err != nil:
		return err
	case version != strconv.Itoa(protocol):
		return errVersion(version)
	}
	p.socket = socket
	conn, err := grpc.NewClient("unix:"+p.socket, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return err
	}
	p.conn, p.sinks = conn, sinkpb.NewSinkClient(conn)
	return nil
}

// parseHandshake reads a handshake line.
func parseHandshake(line string) (socket, version string, err error) {
	f := strings.Split(strings.TrimSuffix(line, "\n"), "|")
	if !strings.HasSuffix(line, "\n") || len(f) < 5 || f[0] != "1" || f[2] != "unix" || f[3] == "" || f[4] != "grpc" {
		return "", "", fmt.Errorf("the handshake line is %.100q; want 1|%d|unix|PATH-OF-THE-SOCKET|grpc|", line, protocol)
	}
	return f[3], f[1], nil
}

// errVersion says that a plugin answered with a version of the sink protocol that was not offered.
type errVersion string

func (e errVersion) Error() string {
	return fmt.Sprintf("it speaks version %s of the sink protocol, and was offered %d", string(e), protocol)
}

// lastWords is what the process wrote to its log last, for an error.
func (p *process) lastWords() string {
	select {
	case <-p.exited:
	case <-time.After(100 * time.Millisecond):
	}
	if text := p.log.String(); text != "" {
		return fmt.Sprintf("; its log says %q", text)
	}
	return ""
}

// pid is the process's.
func (p *process) pid() int { return p.cmd.Process.Pid }

// signal signals the process alone.
func (p *process) signal(s unix.Signal) { unix.Kill(p.pid(), s) }

// kill ends the process with SIGKILL, and all that it has started, and returns when it is reaped.
func (p *process) kill() {
	if p.cmd != nil {
		unix.Kill(-p.pid(), unix.SIGKILL)
		unix.Kill(p.pid(), unix.SIGKILL)
		<-p.exited
	}
	p.close()
}

// close closes what the kit has of the process.
func (p *process) close() {
	if p.conn != nil {
		p.conn.Close()
	}
	if p.fds != nil {
		p.fds.Close()
	}
	p.channel.Close()
}

// shutdown asks the process to end, and says how long it took, or that it had not within limit.
func (p *process) shutdown(ctx context.Context, limit time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	p.conn.Invoke(ctx, "/plugin.GRPCController/Shutdown", &emptypb.Empty{}, &emptypb.Empty{}) // it may end before it answers
	select {
	case <-p.exited:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("it still runs %v after Shutdown", limit)
	}
}

// gone says whether the process has ended.
func (p *process) gone() bool {
	select {
	case <-p.exited:
		return true
	default:
		return false
	}
}

// openFDs counts the descriptors that the process has open.
func (p *process) openFDs() (int, error) {
	names, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", p.pid()))
	if err != nil {
		return 0, fmt.Errorf("count the plugin's descriptors: %w", err)
	}
	return len(names), nil
}
