package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/muxd/muxd/control"
	"github.com/muxd/muxd/control/controlpb"
)

// adoptFlags are the flags of adopt.
type adoptFlags struct {
	name   string
	sink   string
	sinks  map[string]*[]string // by stream
	fds    map[string]*int      // -1: not given
	pid    int
	remove bool
}

// adoptable are the streams that adopt takes, in their order, and where each is looked for if nothing else is said: what is piped
// into muxctl is somebody's stdout, and what muxctl is piped into takes somebody's stdin.
var adoptable = []struct {
	stream string
	fd     int
}{{"stdin", 1}, {"stdout", 0}, {"stderr", -1}, {"console", -1}}

func (f *adoptFlags) register(a *app, c *cobra.Command) {
	fl := c.Flags()
	fl.StringVar(&f.name, "name", "", "a `NAME` for the child, unique among the living")
	fl.StringVar(&f.sink, "sink", "", "the `SINK` of all streams that are handed over and have none of their own")
	c.RegisterFlagCompletionFunc("sink", a.completeSink)
	f.sinks, f.fds = map[string]*[]string{}, map[string]*int{}
	for _, s := range adoptable {
		help := fmt.Sprintf("the descriptor `N` that is the far end of %s", s.stream)
		if s.fd >= 0 {
			help += fmt.Sprintf(" (default %d)", s.fd)
		}
		repeated := ""
		if s.stream == "stdout" || s.stream == "stderr" {
			repeated = "; may be repeated: each sink gets all of it"
		}
		f.sinks[s.stream] = fl.StringArray(s.stream, nil, "the `SINK` of "+s.stream+repeated)
		c.RegisterFlagCompletionFunc(s.stream, a.completeSink)
		f.fds[s.stream] = fl.Int(s.stream+"-fd", -1, help)
		fl.Lookup(s.stream + "-fd").DefValue = "0" // for cobra: it is in the text
	}
	fl.IntVar(&f.pid, "pid", 0, "the process `PID` that has the other ends: the child ends with it, and has its exit status")
	fl.BoolVar(&f.remove, "rm", false, "forget the child once it is finished and has been waited for")
}

func (a *app) adoptCmd() *cobra.Command {
	f := &adoptFlags{}
	c := &cobra.Command{
		Use:   "adopt [flags] [containerd]",
		Short: "Hand over pipes that other programs write to, and print the child's id",
		Long: `adopt hands the far ends of somebody else's streams to muxd, and returns as soon as muxd holds them. The child that they make
ends when they end, or with the process that --pid names. muxd does not kill it: to stop it is to close its streams.

A far end is a pipe or, of stdout and stderr, a connected stream socket. O_NONBLOCK is set on it. With --console-fd it is the
master of a terminal, which muxd's viewers attach to from then on.

With the argument containerd it is a logging binary of containerd's, which takes its descriptors and the name from there.`,
		Example: `  make 2>&1 | muxctl adopt --stdout file:make.log
  ./server 3>&1 2>&1 >&3 | muxctl adopt --name server-errors --stdout file:errors.log
  muxctl adopt --stdout file:out.log --stdout-fd 3 --stderr file:err.log --stderr-fd 4 3<out.fifo 4<err.fifo
  muxctl adopt --name shell --sink pty --console-fd 3    (3: the master of a terminal, made by the program that calls this)
  ctr run -d --log-uri 'binary:///usr/bin/muxctl?adopt=containerd&--sink=file:/var/log/{name}.log' IMAGE NAME`,
		Args: args(cobra.MatchAll(cobra.MaximumNArgs(1), cobra.OnlyValidArgs)), ValidArgs: []string{"containerd"},
		RunE: func(c *cobra.Command, logger []string) error {
			if len(logger) > 0 {
				if err := f.forContainerd(); err != nil {
					return err
				}
			}
			ad, err := f.adoption()
			if err != nil {
				return err
			}
			if len(logger) > 0 {
				return a.adoptForContainerd(c.Context(), ad)
			}
			out := os.Stdout
			if f.adopts(1) { // it is somebody's stdin now
				out = os.Stderr
			}
			return a.adopt(c.Context(), ad, out)
		},
	}
	f.register(a, c)
	return c
}

// adopt hands ad over and writes to out what became of it.
func (a *app) adopt(ctx context.Context, ad control.Adoption, out io.Writer) error {
	m, err := a.muxd()
	if err != nil {
		return err
	}
	if ad.PID != 0 {
		n, err := unix.PidfdOpen(ad.PID, 0)
		if err != nil {
			return fmt.Errorf("adopt process %d: %w", ad.PID, err)
		}
		ad.Pidfd = os.NewFile(uintptr(n), "pidfd")
		defer ad.Pidfd.Close()
	}
	resp, err := m.Adopt(ctx, ad)
	if err != nil {
		return err
	}
	if a.output == "json" {
		return json.NewEncoder(out).Encode(map[string]any{"id": resp.Id, "name": resp.Name})
	}
	_, err = fmt.Fprintln(out, resp.Id)
	return err
}

// adopts says whether descriptor n is handed over.
func (f *adoptFlags) adopts(n int) bool {
	for _, s := range adoptable {
		if given := *f.fds[s.stream]; given == n || given < 0 && len(*f.sinks[s.stream]) > 0 && s.fd == n {
			return true
		}
	}
	return false
}

// adoption is what the flags describe.
func (f *adoptFlags) adoption() (control.Adoption, error) {
	cwd, err := os.Getwd()
	if err != nil {
		return control.Adoption{}, fmt.Errorf("find the working directory: %w", err)
	}
	ad := control.Adoption{Name: f.name, Cwd: cwd, Remove: f.remove, Far: map[string]*os.File{}, PID: f.pid}
	if f.pid < 0 {
		return ad, usageError("--pid %d: want the number of a process", f.pid)
	}
	anyNamed := false
	for _, s := range adoptable {
		anyNamed = anyNamed || len(*f.sinks[s.stream]) > 0 || *f.fds[s.stream] >= 0
	}
	for _, s := range adoptable {
		specs, n := *f.sinks[s.stream], *f.fds[s.stream]
		if !anyNamed && s.stream == "stdout" && f.sink != "" {
			n = s.fd
		}
		if len(specs) == 0 && n < 0 {
			continue
		}
		if len(specs) == 0 {
			specs = []string{f.sink}
		}
		if specs[0] == "" {
			return ad, usageError("--%s-fd %d: no sink was named for %s; give --%s SINK", s.stream, n, s.stream, s.stream)
		}
		if n < 0 {
			n = s.fd
		}
		if n < 0 {
			return ad, usageError("--%s: which descriptor? Give --%s-fd N", s.stream, s.stream)
		}
		if _, err := unix.FcntlInt(uintptr(n), unix.F_GETFD, 0); err != nil {
			return ad, usageError("--%s-fd %d: no such descriptor is open: %w", s.stream, n, err)
		}
		ad.Far[s.stream] = os.NewFile(uintptr(n), s.stream)
		for _, spec := range specs {
			ad.Sinks = append(ad.Sinks, &controlpb.SinkChoice{Stream: s.stream, Spec: spec})
		}
	}
	if len(ad.Far) == 0 {
		return ad, usageError("adopt: nothing was named to hand over; as in CMD | muxctl adopt --stdout SINK")
	}
	return ad, nil
}
