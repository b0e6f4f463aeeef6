package keeper

import (
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// TimerSlack is how late the timers of agent and plugins may come. While a Go program does anything, a thread of its runtime wakes up
// every 20 µs to look after the others: in a program that is woken for a moment, again and again, that is a fifth of all
// the CPU time it needs. What these programs wait for by the clock is a millisecond and more.
const TimerSlack = 250 * time.Microsecond

// kernelSlack is what the kernel gives to processes (init_task).
const kernelSlack = 50 * time.Microsecond

// setSlack sets the timer slack of the calling thread, for what it forks: it goes with fork and execve (PR_SET_TIMERSLACK,
// prctl(2)).
func setSlack(d time.Duration) error {
	if d == 0 {
		d = kernelSlack
	}
	return os.NewSyscallError("prctl", unix.Prctl(unix.PR_SET_TIMERSLACK, uintptr(d), 0, 0, 0))
}
