package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"golang.org/x/sys/unix"
)

// inheritedChild is a child that shares the terminal of muxctl.
//
// A terminal is a session's, and job control on it works only for that session (setsid(2), tcsetpgrp(3)), so the
// keeper cannot spawn such a child: muxctl forks it, as a job, in the way a shell does.
type inheritedChild struct {
	Path       string   // of the executable; not searched for
	Argv       []string // with argv[0]
	Env        []string
	Dir        string              // "" is muxctl's own
	Credential *syscall.Credential // nil is muxctl's own
	Umask      *int                // nil is muxctl's own
	Files      [3]*os.File         // become 0, 1 and 2; they stay owned by the caller
}

// runInherited starts c in a process group of its own, makes that the terminal's foreground group if muxctl's own group
// is, and blocks until c has ended. Meanwhile muxctl is to the child what a shell is to a job: when the child stops
// (^Z) the terminal is given back as it was, muxctl's whole process group stops, and when it is continued (fg, bg)
// so is the child. Signals that muxctl is sent are passed on to the child's group.
//
// started is called once c runs. It does not take ownership of pidfd; if it fails the child is killed and its error
// returned. When ctx is done the child's group is killed with SIGKILL.
//
// It may be called once at a time. In the end the terminal has the modes and the foreground group that it had.
func runInherited(ctx context.Context, c inheritedChild, started func(pid int, pidfd int) error) (syscall.WaitStatus, error) {
	if err := context.Cause(ctx); err != nil {
		return 0, fmt.Errorf("start %s: %w", c.Path, err)
	}
	tty, err := openJobTerminal()
	if err != nil {
		return 0, fmt.Errorf("start %s: %w", c.Path, err)
	}
	defer tty.close()

	// From before the fork, so that no signal ends muxctl and leaves the child alone. What is ignored (nohup) stays so.
	j := &job{tty: tty, signals: make(chan os.Signal, 16), canStop: !ignored(unix.SIGTSTP)}
	for _, sig := range passedOn {
		if !ignored(sig) {
			signal.Notify(j.signals, sig)
		}
	}
	defer signal.Stop(j.signals)

	tty.given = tty.foreground() == tty.own
	pid, pidfd, err := c.fork(tty)
	if err != nil {
		tty.takeBack() // the child may have got it before its exec failed
		return 0, err
	}
	defer unix.Close(pidfd)
	j.pid = pid
	if err := started(pid, pidfd); err != nil {
		j.kill(unix.SIGKILL)
		j.run(context.Background())
		return 0, err
	}
	return j.run(ctx)
}

// passedOn are the signals that muxctl passes on to the child's group.
var passedOn = []syscall.Signal{
	unix.SIGHUP, unix.SIGINT, unix.SIGQUIT, unix.SIGTERM, unix.SIGUSR1, unix.SIGUSR2, unix.SIGTSTP, unix.SIGCONT,
}

// job is a running child.
//
//	running ── child stops ──▶ suspended: muxctl has taken the terminal back and stops itself
//	   ▲                          │
//	   └─ muxctl is continued ────┘  with the terminal for fg, without it for bg
//	running ── child ends ──▶ ended: the terminal is taken back
//
// All of it happens in the goroutine of run, which alone reaps the child: until then its pid and group are its own.
type job struct {
	tty     *jobTerminal
	pid     int // and process group
	signals chan os.Signal
	canStop bool // SIGTSTP was not ignored when muxctl started
}

// run blocks until the child has ended, gives the terminal back, and returns the child's status.
func (j *job) run(ctx context.Context) (syscall.WaitStatus, error) {
	changed, goOn := make(chan error), make(chan struct{})
	defer close(goOn)
	go watchJob(j.pid, changed, goOn)
	cancelled := ctx.Done()
	for {
		select {
		case err := <-changed:
			if err != nil {
				j.tty.takeBack()
				return 0, fmt.Errorf("wait for process %d: %w", j.pid, err)
			}
			var status syscall.WaitStatus
			got, err := reap(j.pid, &status)
			switch {
			case err != nil:
				j.tty.takeBack()
				return 0, fmt.Errorf("wait for process %d: %w", j.pid, err)
			case got && (status.Exited() || status.Signaled()):
				j.tty.takeBack()
				return status, nil
			case got && status.Stopped():
				j.stopped(status.StopSignal())
			}
			goOn <- struct{}{}
		case sig := <-j.signals:
			if sig != unix.SIGCONT || j.lend() { // SIGCONT also comes late, when stopped has done it all
				j.kill(sig.(syscall.Signal))
			}
		case <-cancelled:
			j.kill(unix.SIGKILL)
			cancelled = nil
		}
	}
}

// stopped follows the child into its stop, as far as there is a shell that would continue it.
func (j *job) stopped(by syscall.Signal) {
	wantsTerminal := by == unix.SIGTTIN || by == unix.SIGTTOU
	switch {
	case wantsTerminal && j.lend():
		// muxctl was put into the foreground while it ran: a shell sends no SIGCONT then.
		j.kill(unix.SIGCONT)
	case j.canStop && !orphaned():
		j.tty.takeBack()
		stopGroup()
		j.lend()
		j.kill(unix.SIGCONT)
	case by == unix.SIGTSTP:
		// Nobody could continue muxctl, and in such a group ^Z has no effect (setpgid(2), orphaned process groups).
		j.kill(unix.SIGCONT)
	}
}

// lend gives the child the terminal where muxctl has been put into the foreground, and says whether it has.
func (j *job) lend() bool {
	if j.tty.foreground() != j.tty.own {
		return false
	}
	j.tty.give(j.pid)
	return true
}

// kill sends sig to the child's group. There is no error to act upon: a group that has ended needs no signal.
func (j *job) kill(sig syscall.Signal) { unix.Kill(-j.pid, sig) }

// watchJob says each time that something about pid has changed, and leaves it to be reaped. After each it waits for goOn,
// and it ends when goOn is closed or after an error.
func watchJob(pid int, changed chan<- error, goOn <-chan struct{}) {
	for more := true; more; _, more = <-goOn {
		err := error(unix.EINTR)
		for err == unix.EINTR {
			err = unix.Waitid(unix.P_PID, pid, nil, unix.WEXITED|unix.WSTOPPED|unix.WCONTINUED|unix.WNOWAIT, nil)
		}
		changed <- err
		if err != nil {
			return
		}
	}
}

// reap takes a change of pid, if there is one: a stop, a continuation, or its end, with which it is reaped.
func reap(pid int, status *syscall.WaitStatus) (bool, error) {
	for {
		got, err := syscall.Wait4(pid, status, syscall.WNOHANG|syscall.WUNTRACED|syscall.WCONTINUED, nil)
		if err != syscall.EINTR {
			return got == pid, err
		}
	}
}
