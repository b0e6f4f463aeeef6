package host

import (
	"os/exec"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestSilent(t *testing.T) {
	const part = time.Second
	for _, c := range []struct {
		name           string
		passed, waited time.Duration
		want           time.Duration
	}{
		{"silent", part, 0, part},
		{"a little late", part + part/4, 0, part},
		{"this process was not on time", 2 * part, 0, 0},
		{"it waited for a CPU", part, part / 4, part - part/4},
		{"it had no CPU at all", part, 2 * part, 0},
	} {
		if got := silent(part, c.passed, c.waited); got != c.want {
			t.Errorf("%s: %v of silence, want %v", c.name, got, c.want)
		}
	}
}

func TestLongestWait(t *testing.T) {
	const part = time.Second
	before := map[string]thread{"1": {waited: 100}, "2": {waited: 50}}
	for _, c := range []struct {
		name  string
		after map[string]thread
		want  time.Duration
	}{
		{"one waited longest", map[string]thread{"1": {waited: 110}, "2": {waited: 90}, "3": {waited: 5}}, 40},
		{"it has ended", nil, 0},
	} {
		if got := longestWait(part, before, c.after); got != c.want {
			t.Errorf("%s: longest wait %v, want %v", c.name, got, c.want)
		}
	}
	const ran = 7 * time.Millisecond
	waits := map[string]thread{"1": {ran: ran, runnable: true}}
	for _, c := range []struct {
		name string
		now  thread
		want time.Duration
	}{
		{"it waits still", thread{ran: ran, runnable: true}, part},
		{"it has run, and can again", thread{ran: 2 * ran, waited: ran, runnable: true}, ran},
		{"it sleeps by now", thread{ran: ran}, 0},
	} {
		if got := longestWait(part, waits, map[string]thread{"1": c.now}); got != c.want {
			t.Errorf("%s: longest wait %v, want %v", c.name, got, c.want)
		}
	}
}

// A process that is stopped says nothing, and that counts however late this one is.
func TestStopped(t *testing.T) {
	cmd := exec.Command("sleep", "1000")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer cmd.Wait()
	defer cmd.Process.Kill()
	pid := cmd.Process.Pid
	late := silence{pid: pid, last: time.Now().Add(-time.Minute)}
	if late.add(time.Second); late.total != 0 {
		t.Errorf("a part that was late counts %v", late.total)
	}
	cmd.Process.Signal(unix.SIGSTOP)
	var status unix.WaitStatus
	if _, err := unix.Wait4(pid, &status, unix.WUNTRACED, nil); err != nil || !status.Stopped() {
		t.Fatalf("it does not stop: %v", err)
	}
	late.last = time.Now().Add(-time.Minute)
	if late.add(time.Second); late.total != time.Second {
		t.Errorf("of a process that is stopped a part counts %v", late.total)
	}
}
