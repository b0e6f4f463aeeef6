// Command muxd is a stdio multiplexer agent: it spawns processes and hands the other end of their stdio, as file
// descriptors, to sink plugins. One binary is the keeper, the agent, and the built-in plugins, which it
// runs as itself again.
package main

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/muxd/muxd/core/agent"
	"github.com/muxd/muxd/core/config"
	"github.com/muxd/muxd/core/keeper"
	"github.com/muxd/muxd/internal/fd"
	"github.com/muxd/muxd/plugins/fanout"
	"github.com/muxd/muxd/plugins/file"
	"github.com/muxd/muxd/plugins/pty"
	"github.com/muxd/muxd/plugins/socket"
	"github.com/muxd/muxd/sink"
)

// version is set by the linker.
var version = "dev"

// builtin makes the plugins that are part of this binary.
var builtin = map[string]func() sink.Plugin{"fanout": fanout.Plugin, "file": file.Plugin, "pty": pty.Plugin, "socket": socket.Plugin}

func main() {
	os.WriteFile("/proc/self/comm", []byte("muxd"), 0) // not the "exe" of keeper.Self; where it cannot be, nothing but ps notices
	// What muxd runs as itself has its own first word, before any flag.
	if len(os.Args) > 1 {
		switch os.Args[1] {
		case "agent":
			os.Exit(runAgent(os.Args[2:]))
		case "takeover":
			os.Exit(runTakeover(os.Args[2:]))
		case "protocols":
			os.Exit(printProtocols())
		case "plugin":
			runPlugin(os.Args[2:])
			return
		case keeper.ShimVerb:
			keeper.ShimMain()
		}
	}
	os.Exit(runKeeper())
}

func runKeeper() (code int) {
	var configPath, runtimeDir string
	var check, cgroup bool
	cmd := &cobra.Command{
		Use:   "muxd",
		Short: "Run processes, with their stdio in the hands of sink plugins",
		Long: `muxd spawns processes and hands the other end of their stdio, as file descriptors, to sink plugins: files,
sockets, consoles, and other people's. It stays in the foreground; drive it with muxctl.

SIGTERM and SIGINT stop every child, each with its grace time, and end muxd; a second one does not wait. SIGHUP
reads the configuration again, and leaves running children alone.`,
		Example:           "  muxd --config config.toml\n  muxd --config config.toml --check-config",
		Args:              cobra.NoArgs,
		Version:           version,
		SilenceUsage:      true,
		SilenceErrors:     true,
		CompletionOptions: cobra.CompletionOptions{HiddenDefaultCmd: true},
		RunE: func(*cobra.Command, []string) error {
			cfg := config.Default()
			if configPath != "" {
				var err error
				if configPath, err = filepath.Abs(configPath); err != nil {
					return err
				}
				if cfg, err = config.Load(configPath); err != nil {
					return err
				}
			}
			dir, err := cfg.Agent.Dir(runtimeDir)
			if err != nil {
				return err
			}
			if check {
				fmt.Printf("%s is in order\n", configPath)
				return nil
			}
			path, err := ownPath()
			if err != nil {
				return err
			}
			o := keeperOptions(path, []string{dir, configPath})
			o.Cgroup = cgroup
			code = keeper.Run(o)
			return nil
		},
	}
	cmd.Flags().StringVar(&configPath, "config", "", "the configuration `FILE`; without it every setting has its default")
	cmd.Flags().StringVar(&runtimeDir, "runtime-dir", "", "`DIR` of the sockets; by default the configuration's, or $XDG_RUNTIME_DIR/muxd, or /run/muxd")
	cmd.Flags().BoolVar(&cgroup, "cgroup", false, "divide the cgroup that muxd is in, one part for each child, also where nobody has marked it as delegated")
	cmd.Flags().BoolVar(&check, "check-config", false, "say what is wrong with the configuration, and end")
	cmd.SetFlagErrorFunc(func(_ *cobra.Command, err error) error {
		code = 2
		return fmt.Errorf("%w; see muxd --help", err)
	})
	if err := cmd.Execute(); err != nil {
		fmt.Fprintln(os.Stderr, "muxd:", err)
		return max(code, 1)
	}
	return code
}

// ownPath is where this program is, as it was called: the file that an upgrade is read from, whatever becomes of the one that runs.
func ownPath() (string, error) {
	self, err := os.Stat(keeper.Self)
	if err != nil {
		return "", err
	}
	if path, err := exec.LookPath(os.Args[0]); err == nil {
		if st, err := os.Stat(path); err == nil && os.SameFile(st, self) {
			return filepath.Abs(path)
		}
	}
	return os.Executable()
}

// keeperOptions are those of a keeper whose program is at path, and whose agent gets args: the runtime directory and the
// configuration file.
func keeperOptions(path string, args []string) keeper.Options {
	return keeper.Options{
		RuntimeDir: args[0], Version: version, Exe: keeper.Self,
		Agent: append([]string{path, "agent"}, args...), Again: append([]string{path, "takeover"}, args...),
	}
}

// runTakeover is the keeper that goes on from what this process was before: an agent whose keeper has died, or a keeper of another
// version.
func runTakeover(args []string) int {
	n, err := strconv.Atoi(os.Getenv(keeper.TakeoverEnv))
	if err != nil || len(args) != 2 {
		fmt.Fprintln(os.Stderr, "muxd takeover: started by muxd only; run muxd --config FILE")
		return 2
	}
	os.Unsetenv(keeper.TakeoverEnv)
	o := keeperOptions(os.Args[0], args)
	o.Takeover = fd.New(n)
	return keeper.Run(o)
}

// runAgent is the agent: args are the runtime directory and the configuration file.
func runAgent(args []string) int {
	var n [3]int
	if _, err := fmt.Sscanf(os.Getenv(keeper.AgentFDs), "%d,%d,%d", &n[0], &n[1], &n[2]); err != nil || len(args) != 2 {
		fmt.Fprintln(os.Stderr, "muxd agent: started by muxd only; run muxd --config FILE")
		return 2
	}
	os.Unsetenv(keeper.AgentFDs)
	// What the agent does for a child is one step after the other, with others' processes in between: on more processors it would
	// only wake threads of its own.
	if os.Getenv("GOMAXPROCS") == "" {
		runtime.GOMAXPROCS(min(max(runtime.NumCPU()/2, 1), 4))
	}
	return agent.Run(agent.Options{
		RuntimeDir: args[0], ConfigPath: args[1], Version: version, Path: os.Args[0],
		Become: append([]string{os.Args[0], "takeover"}, args...), Keeper: fd.New(n[0]), Control: fd.New(n[1]), Sessions: fd.New(n[2]),
	})
}

// printProtocols says what this program speaks, for a muxd of another version that is to be upgraded to it.
func printProtocols() int {
	if err := json.NewEncoder(os.Stdout).Encode(agent.ProtocolsOf(version)); err != nil {
		fmt.Fprintln(os.Stderr, "muxd protocols:", err)
		return 1
	}
	return 0
}

// runPlugin serves a built-in plugin.
func runPlugin(args []string) {
	if len(args) > 0 {
		if make, ok := builtin[args[0]]; ok {
			p := make()
			p.Version = version
			sink.Serve(p)
			return
		}
	}
	fmt.Fprintln(os.Stderr, "muxd plugin: started by muxd only, with the name of a built-in plugin")
	os.Exit(2)
}
