// Package pty is the built-in console sink: it makes a child's terminal, keeps what it shows and the latest of its
// output, and serves the viewers that attach to it.
//
// Nobody of them can hold up the child or another viewer. All viewers read from one ring of the latest output,
// each at its own place: a viewer that reads slowly falls behind there, and one that falls out of it is
// redrawn, from a model of the terminal. A viewer therefore costs no queue.
package pty

import (
	"context"
	"fmt"
	"os"

	"github.com/muxd/muxd/sink"
)

// The values of the option from: who makes the terminal.
const (
	fromNew           = "new"
	fromConsoleSocket = "console-socket"
)

// scrollbackMost bounds the scrollback option, since every console of a spec may grow to it.
const scrollbackMost = 64 << 20

// Plugin is what muxd serves as "pty".
func Plugin() sink.Plugin {
	return sink.Plugin{
		Name:    "pty",
		Version: "1",
		Help:    "a terminal of the child's own, which viewers attach to",
		Carries: []sink.Stream{sink.Console},
		Options: []sink.Option{{
			Name:    "from",
			Type:    sink.Enum,
			Values:  []string{fromNew, fromConsoleSocket},
			Default: fromNew,
			Help:    "who makes the terminal: the sink; or an OCI runtime, which sends it to the {console-socket} of its command line",
		}, {
			Name:    "scrollback",
			Type:    sink.Size,
			Default: "64KiB",
			Help:    "how much is kept of what was scrolled off the screen, and of the latest output",
		}, {
			Name:    "size",
			Type:    sink.Enum,
			Values:  []string{sizeLatest, sizeSmallest, sizeLeader, sizeFixed},
			Default: sizeLatest,
			Help:    "whose size the terminal has: the viewer's that typed last, the smallest, the first one's, or nobody's",
		}, {
			Name: "record",
			Type: sink.Path,
			Help: "an asciicast file to record the console to, with {name}, {id}, {host} and {run} in it",
		}, {
			Name:    "record-format",
			Type:    sink.Enum,
			Values:  []string{"v2", "v3"},
			Default: "v2",
			Help:    "v2, which every player knows; v3 also has the exit status",
		}, {
			Name:    "record-input",
			Type:    sink.Enum,
			Values:  []string{inputNo, inputEchoed, inputKeys},
			Default: inputNo,
			Help:    "what is typed: not at all; where the terminal echoes it; or also keys that a program reads one by one, as line editors do",
		}},
		Check:       check,
		OpenConsole: open,
		Past:        past,
	}
}

func check(r *sink.Request) (sink.Wiring, error) {
	r.Exact = true
	if n := r.Options.Int("scrollback"); n > scrollbackMost {
		return 0, fmt.Errorf("scrollback=%d: the most is 64MiB", n)
	}
	wiring := sink.PTY
	if r.Options.String("from") == fromConsoleSocket {
		wiring = sink.ConsoleSocket
	}
	if !r.Options.Has("record") {
		if in := r.Options.String("record-input"); in == inputEchoed || in == inputKeys {
			return 0, fmt.Errorf("record-input=%s: there is no record=PATH", in)
		}
		return wiring, nil
	}
	_, err := r.Child.Expand(r.Options.String("record"), sink.Console)
	return wiring, err
}

func open(_ context.Context, o *sink.Opening) (sink.ConsoleSink, error) {
	scrollback := int(o.Options.Int("scrollback"))
	b, err := o.Memory(memorySize(scrollback))
	if err != nil {
		return nil, fmt.Errorf("memory for the console: %w", err)
	}
	in, err := terminal(o)
	if err != nil {
		return nil, err
	}
	c, err := newConsole(in, newMemory(b, scrollback), o.Status)
	if err != nil {
		return nil, err
	}
	c.sizes.policy = o.Options.String("size")
	if c.rec, err = record(o); err == nil {
		err = keepTyped(o, c)
	}
	if err != nil {
		c.Close()
		return nil, err
	}
	return c, nil
}

// stageTag is under what the stage of what is typed is parked.
const stageTag = "typed"

// keepTyped has c go on with what a predecessor was typing, and have a successor do the same.
func keepTyped(o *sink.Opening, c *consoleSink) error {
	park := func(f *os.File) error { return o.Park(stageTag, f) }
	left := o.Parked(stageTag)
	if len(left) == 0 {
		return c.keep(park, nil)
	}
	if err := park(left[0]); err != nil { // for the successor of this process
		left[0].Close()
		return err
	}
	return c.keep(park, left[0])
}

// terminal makes the console's terminal, or takes the one that there is, and returns the console's own copy of its master.
func terminal(o *sink.Opening) (*master, error) {
	if o.Again || o.Given {
		n, err := o.Master()
		if err != nil {
			return nil, err
		}
		in := &master{n}
		if o.Location, err = terminalName(n); err == nil && o.Given && !o.Again {
			err = prepare(n, o.Rows, o.Cols, o.Options.String("from") == fromConsoleSocket)
		}
		if err != nil {
			in.Close()
			return nil, err
		}
		return in, nil
	}
	p, err := openPair(o.Rows, o.Cols)
	if err != nil {
		return nil, err
	}
	defer p.close()
	in, err := p.master.dup()
	if err != nil {
		return nil, fmt.Errorf("copy the new terminal: %w", err)
	}
	o.Location = p.name
	if err := o.Terminal(p.release()); err != nil {
		in.Close()
		return nil, err
	}
	return in, nil
}
