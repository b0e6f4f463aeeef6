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
	before := map[string]time.Duration{"1": 100, "2": 50}
	after := map[string]time.Duration{"1": 110, "2": 90, "3": 5}
	if got := longestWait(before, after); got != 40 {
		t.Errorf("longest wait %v, want 40", got)
	}
	if got := longestWait(after, nil); got != 0 {
		t.Errorf("longest wait of a process that has ended: %v", got)
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
