package main

import (
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"os/signal"
	"sync"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/muxd/muxd/control/controlpb"
)

func (a *app) markCmd() *cobra.Command {
	return &cobra.Command{
		Use: "mark ID [LABEL]", Short: "Set a marker in the recording of a child's console", Args: args(cobra.RangeArgs(1, 2)),
		Example: "  muxctl mark demo 'the tests begin'", ValidArgsFunction: a.completeThen(),
		RunE: func(c *cobra.Command, argv []string) error {
			m, err := a.muxd()
			if err != nil {
				return err
			}
			_, err = m.API.Mark(c.Context(), &controlpb.MarkRequest{Child: argv[0], Label: append(argv, "")[1]})
			return err
		},
	}
}

func (a *app) replayCmd() *cobra.Command {
	p := &player{}
	c := &cobra.Command{
		Use: "replay FILE", Short: "Play a recording of a console in this terminal", Args: args(cobra.ExactArgs(1)),
		Long: `replay plays an asciicast file (version 2 or 3), as record=PATH of the sink pty makes it, with the times that it has. FILE - is stdin.
Space pauses and goes on, . shows the next piece while it pauses, q ends. muxd need not run.`,
		Example: "  muxctl replay --speed 2 --idle-limit 1s demo.cast",
		RunE: func(_ *cobra.Command, argv []string) error {
			if p.speed < 0 || math.IsNaN(p.speed) {
				return usageError("replay: --speed %v: want 0 or more", p.speed)
			}
			in := os.Stdin
			if argv[0] != "-" {
				f, err := os.Open(argv[0])
				if err != nil {
					return fmt.Errorf("replay: %w", err)
				}
				defer f.Close()
				in = f
			}
			if err := p.play(in); err != nil {
				if _, ok := errors.AsType[*exitError](err); ok {
					return err
				}
				return fmt.Errorf("replay %s: %w", argv[0], err)
			}
			return nil
		},
	}
	c.Flags().Float64Var(&p.speed, "speed", 1, "how many times faster; 0: without waiting")
	c.Flags().DurationVar(&p.idle, "idle-limit", 0, "the longest pause; default what the recording says")
	return c
}

// player plays a recording. It does in one goroutine what there is to do: it waits for the time of the next event, and for keys.
type player struct {
	speed float64
	idle  time.Duration

	stop  *stopper
	keys  int // the terminal's descriptor, from which keys come; -1: none
	out   *outlet
	modes screenModes

	due    time.Time // when the next event is to be shown
	paused time.Time // since when somebody has paused; zero: nobody
}

// errQuit says that somebody has had enough.
var errQuit = errors.New("quit")

func (p *player) play(in *os.File) error {
	c, err := newCastReader(in)
	if err != nil {
		return err
	}
	if p.idle == 0 {
		p.idle = c.idle
	}
	if p.stop, err = newStopper(); err != nil {
		return err
	}
	defer p.stop.close()
	p.out, p.keys = newOutlet(1, p.stop), -1
	defer p.out.close()

	signals, played := make(chan os.Signal, 1), make(chan struct{})
	signal.Notify(signals, unix.SIGINT, unix.SIGTERM, unix.SIGHUP, unix.SIGQUIT)
	defer signal.Stop(signals)
	var caught os.Signal
	var waiter sync.WaitGroup
	waiter.Go(func() {
		select {
		case caught = <-signals:
			p.stop.stop()
		case <-played:
		}
	})
	if isTerminal(0) && isTerminal(1) && in != os.Stdin {
		t, err := openTerminal(0, true)
		if err == nil {
			err = t.enter()
		}
		if err != nil {
			return err
		}
		defer t.leave()
		p.keys = 0
	}
	err = p.events(c)
	close(played)
	waiter.Wait()
	if isTerminal(1) {
		p.out.brief([]byte(p.modes.restore()))
	}
	switch {
	case caught != nil:
		return &exitError{code: 128 + int(caught.(unix.Signal))}
	case errors.Is(err, errQuit), errors.Is(err, io.EOF), errors.Is(err, unix.EPIPE):
		return nil
	}
	return err
}

// events plays the events to the end, which is io.EOF.
func (p *player) events(c *castReader) error {
	p.due = time.Now()
	for last := time.Duration(0); ; {
		e, err := c.next()
		if err != nil {
			return err
		}
		pause := e.At - last
		last = e.At
		if p.idle > 0 {
			pause = min(pause, p.idle)
		}
		if p.speed > 0 {
			p.due = p.due.Add(time.Duration(float64(pause) / p.speed))
		}
		if e.Kind != "o" {
			continue
		}
		if err := p.wait(); err != nil {
			return err
		}
		p.modes.write([]byte(e.Data))
		if err := p.out.write([]byte(e.Data)); err != nil {
			return err
		}
	}
}

// wait returns when the next event is due. While somebody has paused, that is when he goes on, or wants to see it.
func (p *player) wait() error {
	for {
		timeout := -1
		if p.paused.IsZero() {
			left := time.Until(p.due)
			if left <= 0 {
				return nil
			}
			timeout = int(min(left+time.Millisecond-1, time.Hour) / time.Millisecond)
		}
		ready, err := p.stop.wait(p.keys, unix.POLLIN, timeout)
		switch {
		case err != nil:
			return err
		case ready == 0:
			continue
		}
		var key [1]byte
		n, err := readKeys(p.keys, true, ready, key[:])
		switch {
		case err != nil, n > 0 && key[0] == 'q':
			return errQuit
		case n > 0 && key[0] == ' ' && p.paused.IsZero():
			p.paused = time.Now()
		case n > 0 && key[0] == ' ':
			p.due = p.due.Add(time.Since(p.paused))
			p.paused = time.Time{}
		case n > 0 && key[0] == '.' && !p.paused.IsZero():
			p.due, p.paused = time.Now(), time.Now()
			return nil
		}
	}
}
