package keeper

import (
	"fmt"
	"os"
	"os/signal"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/muxd/muxd/internal/fd"
	"github.com/muxd/muxd/internal/fdchan"
)

// The test binary is every process of these tests: its first argument says which.
const (
	launcherVerb = "test-launcher" // changes what a process inherits, and becomes the keeper
	keeperVerb   = "test-keeper"
	againVerb    = "test-again" // is the keeper after an upgrade
	agentVerb    = "test-agent"
)

const (
	dirEnv    = "KEEPER_TEST_DIR"
	agentsEnv = "KEEPER_TEST_AGENTS"
)

func TestMain(m *testing.M) {
	if len(os.Args) > 1 {
		switch os.Args[1] {
		case ShimVerb:
			ShimMain()
		case launcherVerb:
			launcher(os.Args[2:])
		case keeperVerb:
			os.Exit(Run(testOptions("test")))
		case againVerb:
			var takeover int
			if _, err := fmt.Sscan(os.Getenv(TakeoverEnv), &takeover); err != nil {
				panic(err)
			}
			os.Unsetenv(TakeoverEnv)
			o := testOptions("again")
			o.Takeover = fd.New(takeover)
			os.Exit(Run(o))
		case agentVerb:
			agentMain()
		}
	}
	if os.Getenv(AgentFDs) != "" || os.Args[0] == "muxd" { // started as itself with other words, it would run all tests again, and they it
		fmt.Fprintf(os.Stderr, "unknown verb in %q\n", os.Args)
		os.Exit(125)
	}
	if os.Getenv(dirEnv) != "" { // a process of these tests with another program than was meant must not run them again
		fmt.Fprintf(os.Stderr, "%q is none of the processes of these tests\n", os.Args)
		os.Exit(2)
	}
	os.Exit(m.Run())
}

func testOptions(version string) Options {
	return Options{
		RuntimeDir: os.Getenv(dirEnv), Agent: agentArgv(), Again: []string{"muxd", againVerb}, Stderr: os.Stderr, Version: version,
	}
}

func agentArgv() []string {
	if argv := os.Getenv("KEEPER_TEST_ARGV"); argv != "" {
		return strings.Fields(argv)
	}
	return []string{"/proc/self/exe", agentVerb}
}

// launcher does what its words say to this process, which the keeper then inherits.
func launcher(words []string) {
	runtime.LockOSThread()
	for _, w := range words {
		key, arg, _ := strings.Cut(w, "=")
		switch key {
		case "ignore":
			signal.Ignore(syscall.SIGHUP, syscall.SIGTERM, syscall.SIGTSTP, syscall.SIGTTOU, syscall.SIGPIPE, syscall.SIGCHLD, syscall.SIGUSR1, syscall.Signal(40))
		case "block":
			set := unix.Sigset_t{}
			set.Val[0] = 1<<(unix.SIGINT-1) | 1<<(unix.SIGUSR2-1) | 1<<(unix.SIGCHLD-1)
			must(unix.PthreadSigmask(unix.SIG_BLOCK, &set, nil))
		case "nofile":
			var lim syscall.Rlimit
			fmt.Sscanf(arg, "%d:%d", &lim.Cur, &lim.Max)
			must(syscall.Setrlimit(syscall.RLIMIT_NOFILE, &lim))
		case "umask":
			unix.Umask(0)
		case "leak":
			p := make([]int, 2)
			must(unix.Pipe(p)) // not close-on-exec
		}
	}
	must(syscall.Exec("/proc/self/exe", []string{"muxd", keeperVerb}, os.Environ()))
}

// agentMain gives its inherited descriptors to the test, which plays the agent on them, and reports every
// signal.
func agentMain() {
	signals := make(chan os.Signal, 16)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP)
	var channel, control, fds int
	if n, _ := fmt.Sscanf(os.Getenv(AgentFDs), "%d,%d,%d", &channel, &control, &fds); n != 3 {
		panic(AgentFDs + "=" + os.Getenv(AgentFDs))
	}
	s, err := unix.Socket(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	must(err)
	must(unix.Connect(s, &unix.SockaddrUnix{Name: os.Getenv(agentsEnv)}))
	c, err := fdchan.New(fd.New(s))
	must(err)
	must(c.Send(fdchan.Packet{Type: fdchan.Message, Payload: []byte(os.Getenv(keeperVersion))}, channel, control, fds))
	unix.Close(channel)
	go func() {
		for sig := range signals {
			c.Send(fdchan.Packet{Type: fdchan.Message, Payload: []byte(sig.String())})
		}
	}()
	p, _, err := c.Recv()
	if err != nil {
		os.Exit(0)
	}
	var code int
	fmt.Sscanf(string(p.Payload), "%d", &code)
	os.Exit(code)
}

func must(err error) {
	if err != nil {
		panic(err)
	}
}
