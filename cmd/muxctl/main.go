// Command muxctl drives muxd: it spawns children, attaches to their consoles, reads their logs and waits for their ends.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/muxd/muxd/control"
)

// version is set by the linker.
var version = "dev"

// Exit statuses that are not a child's.
const (
	exitFailed      = 1
	exitUsage       = 2
	exitUnreachable = 125 // muxd cannot be reached, or it failed
)

// exitError ends muxctl with a status, and with a message where there is one.
type exitError struct {
	code int
	err  error
}

func (e *exitError) Error() string {
	if e.err == nil {
		return ""
	}
	return e.err.Error()
}

func (e *exitError) Unwrap() error { return e.err }

// usageError says that the command line is wrong.
func usageError(format string, args ...any) error {
	return &exitError{exitUsage, fmt.Errorf(format, args...)}
}

func main() {
	os.Exit(run(os.Args[1:]))
}

func run(args []string) int {
	a := &app{}
	root := a.root()
	root.SetArgs(args)
	err := root.ExecuteContext(context.Background())
	if a.client != nil {
		a.client.Close()
	}
	if err == nil {
		return 0
	}
	exit, ok := errors.AsType[*exitError](err)
	if ok && exit.err == nil {
		return exit.code
	}
	fmt.Fprintln(os.Stderr, "muxctl:", err)
	switch {
	case ok:
		return exit.code
	case control.Unreachable(err):
		return exitUnreachable
	case strings.HasPrefix(err.Error(), "unknown command"): // cobra's, which has no type
		return exitUsage
	}
	return exitFailed
}

// app is what all commands share.
type app struct {
	socket string
	output string // table or json
	client *control.Client
}

// muxd connects to the muxd that the flags name.
func (a *app) muxd() (*control.Client, error) {
	if a.client != nil {
		return a.client, nil
	}
	if a.socket == "" {
		s, err := control.DefaultSocket()
		if err != nil {
			return nil, &exitError{exitUnreachable, err}
		}
		a.socket = s
	}
	var err error
	a.client, err = control.Dial(a.socket)
	return a.client, err
}

// root is the command table.
func (a *app) root() *cobra.Command {
	root := &cobra.Command{
		Use:   "muxctl",
		Short: "Drive muxd: spawn processes, attach to their consoles, read their logs",
		Long: `muxctl drives a running muxd.

Wherever a command takes an ID, it is a child's id, its name, or a unique beginning of its id.

Sink specs: NAME[:ARG][,key=value]..., as in pty, file:/var/log/web.log, socket:unix:/run/x.sock, null, inherit, or the
name of a [sinks.X] preset. muxctl plugin list -v tells every option.

Exit status: the child's where it is the child's (128+n for signal n); otherwise 0, 1 (the operation failed), 2 (usage), 125
(muxd is unreachable, or it failed).`,
		SilenceUsage:  true,
		SilenceErrors: true,
		PersistentPreRunE: func(*cobra.Command, []string) error {
			if a.output != "table" && a.output != "json" {
				return usageError("--output %s: want table or json", a.output)
			}
			return nil
		},
	}
	root.PersistentFlags().StringVar(&a.socket, "socket", "", "the control `SOCKET` of muxd (default $MUXD_SOCKET, or the default runtime directory's)")
	root.PersistentFlags().StringVarP(&a.output, "output", "o", "table", "output `FORMAT`: table or json")
	root.RegisterFlagCompletionFunc("output", cobra.FixedCompletions([]string{"table", "json"}, cobra.ShellCompDirectiveNoFileComp))
	root.SetFlagErrorFunc(func(c *cobra.Command, err error) error {
		return usageError("%w; see %s --help", err, c.CommandPath())
	})
	for _, c := range []*cobra.Command{
		a.spawnCmd(), a.runCmd(), a.adoptCmd(), a.attachCmd(), a.logsCmd(), a.listCmd(), a.inspectCmd(), a.eventsCmd(), a.waitCmd(),
		a.signalCmd(), a.stopCmd(), a.resizeCmd(), a.screenCmd(), a.screenshotCmd(), a.sendCmd(), a.readCmd(),
		a.expectCmd(), a.markCmd(), a.replayCmd(), a.redirectCmd(), a.rotateCmd(), a.removeCmd(), a.pluginCmd(), a.agentCmd(), a.versionCmd(),
	} {
		root.AddCommand(c)
	}
	return root
}

// args makes a wrong number of arguments a usage error.
func args(check cobra.PositionalArgs) cobra.PositionalArgs {
	return func(c *cobra.Command, got []string) error {
		if err := check(c, got); err != nil {
			return usageError("%w; usage: %s", err, c.UseLine())
		}
		return nil
	}
}
