package host

import (
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/muxd/muxd/internal/fd"
)

// said collects what a plugin's log puts into muxd's.
type said struct {
	lines []string
	full  bool
}

func (s *said) put(line string) bool {
	if !s.full {
		s.lines = append(s.lines, line)
	}
	return !s.full
}

func (s *said) bytes() (n int) {
	for _, l := range s.lines {
		n += len(l) + 1
	}
	return n
}

// newLog is a log that nobody follows: the test gives it what comes.
func newLog(s *said) *pluginLog {
	return &pluginLog{name: "x", put: s.put, left: logBurst, since: time.Now()}
}

// feed is take as read calls it.
func (l *pluginLog) feed(text string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.take([]byte(text))
}

func TestLogLines(t *testing.T) {
	s := &said{}
	l := newLog(s)
	for _, b := range []string{"one\ntw", "o\n\n  \n", "\x1b[2Jthree\r\n", strings.Repeat("a", textMost+10), "\n", "part"} {
		l.feed(b)
	}
	want := []string{"plugin x: one", "plugin x: two", "plugin x:  [2Jthree ", "plugin x: " + strings.Repeat("a", textMost), "plugin x: aaaaaaaaaa"}
	if fmt.Sprint(s.lines) != fmt.Sprint(want) {
		t.Errorf("%q", s.lines)
	}
}

// A flood is bounded, whatever becomes of it is counted, and what comes after it is passed on again.
func TestLogFlood(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &said{}
		l := newLog(s)
		flood := strings.Repeat(strings.Repeat("x", 99)+"\n", 650)
		all := 0
		const seconds = 60
		for range seconds * 2 {
			l.feed(flood)
			all += 650
			time.Sleep(time.Second / 2)
		}
		time.Sleep(2 * logTell)
		l.feed("after\n")
		l.mu.Lock()
		defer l.mu.Unlock()
		if n, most := s.bytes(), logBurst+seconds*(logRate+200); n > most {
			t.Errorf("%d bytes of %d came into the log, want %d at most", n, len(flood)*2*seconds, most)
		}
		passed, missing := 0, 0
		for _, line := range s.lines {
			var lines, bytes int
			if _, err := fmt.Sscanf(line, "plugin x: (here are %d lines missing, of %d bytes", &lines, &bytes); err == nil {
				missing += lines
			} else {
				passed++
			}
		}
		if passed+missing != all+1 {
			t.Errorf("%d lines came, and %d are told as missing, of %d", passed, missing, all)
		}
		if last := s.lines[len(s.lines)-1]; last != "plugin x: after" {
			t.Errorf("last: %s", last)
		}
	})
}

// Where muxd's log takes nothing, nobody waits, and what is lost is told later.
func TestLogStuck(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &said{full: true}
		l := newLog(s)
		l.feed("one\ntwo\n")
		time.Sleep(5 * logTell)
		l.mu.Lock()
		s.full = false
		l.mu.Unlock()
		time.Sleep(2 * logTell)
		l.feed("three\n")
		l.mu.Lock()
		defer l.mu.Unlock()
		if len(s.lines) != 2 || !strings.HasPrefix(s.lines[0], "plugin x: (here are 2 lines missing, of 8 bytes") || s.lines[1] != "plugin x: three" {
			t.Errorf("%q", s.lines)
		}
	})
}

// The last words of a process are known when it has ended, and what it leaves behind can go on writing.
func TestLogEnds(t *testing.T) {
	r, w, err := fd.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	s := &said{}
	l := newPluginLog("x", r, s.put)
	out := w.File("stderr")
	fmt.Fprintln(out, "goodbye")
	if last := l.settle(); last != "goodbye" {
		t.Errorf("last words: %q", last)
	}
	done := make(chan struct{})
	go func() {
		l.follow()
		close(done)
	}()
	fmt.Fprint(out, "an orphan")
	out.Close()
	<-done
	if fmt.Sprint(s.lines) != "[plugin x: goodbye plugin x: an orphan]" {
		t.Errorf("%q", s.lines)
	}
}
