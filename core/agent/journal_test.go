package agent

import (
	"bytes"
	"errors"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"

	"github.com/muxd/muxd/control/controlpb"
	"github.com/muxd/muxd/core/agent/agentpb"
	"github.com/muxd/muxd/internal/spec"
	"github.com/muxd/muxd/sink/sinkpb"
)

// opens opens the journal in dir as an agent of that keeper would.
func opens(t *testing.T, dir, keeper string, want origin, wantLost int) *journal {
	t.Helper()
	j, from, lost, err := openJournal(dir, keeper)
	if err != nil {
		t.Fatal(err)
	}
	if from != want || lost != wantLost {
		t.Fatalf("journal opened for keeper %q: origin %d with %d children lost, want %d with %d", keeper, from, lost, want, wantLost)
	}
	return j
}

func TestJournalOrigin(t *testing.T) {
	dir := t.TempDir()
	j := opens(t, dir, "boot1 10 100", ownFirst, 0)
	if err := j.write("abc", &agentpb.Child{Record: &controlpb.Child{Id: "abc"}}); err != nil {
		t.Fatal(err)
	}
	opens(t, dir, "boot1 10 100", ownAgain, 0)

	// Another keeper's agents find it as another's until one of them has claimed it.
	opens(t, dir, "boot1 10 200", others, 0)
	j = opens(t, dir, "boot1 10 200", others, 0)
	if all, err := j.read(); err != nil || len(all) != 1 || all[0].Record.Id != "abc" {
		t.Fatalf("the journal of another keeper has %v, %v", all, err)
	}
	if err := j.claim("boot1 10 200"); err != nil {
		t.Fatal(err)
	}
	opens(t, dir, "boot1 10 200", ownAgain, 0)

	// Of another run of the machine nothing lives.
	j = opens(t, dir, "boot2 10 200", ownFirst, 1)
	if all, err := j.read(); err != nil || len(all) != 0 {
		t.Fatalf("the journal of another run of the machine has %v, %v", all, err)
	}
}

// A record that was being written when its agent was killed does not count, wherever it was cut; what the next agent writes does.
func TestJournalHalfWritten(t *testing.T) {
	dir := t.TempDir()
	j := opens(t, dir, "boot 1 1", ownFirst, 0)
	put(t, j, "abc", 1)
	whole := j.log.size
	put(t, j, "abc", 2)
	put(t, j, "xyz", 1)
	path := filepath.Join(dir, "journal", logFile)
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, cut := range []int64{whole + 1, whole + 4, whole + 5, j.log.size - 1} {
		if err := os.WriteFile(path, b[:cut], 0o600); err != nil {
			t.Fatal(err)
		}
		for _, name := range []string{logFile + ".new", keeperFile + ".new"} {
			if err := os.WriteFile(filepath.Join(dir, "journal", name), []byte("half"), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		next := opens(t, dir, "boot 1 1", ownAgain, 0)
		want := map[string]uint32{"abc": 1}
		if cut > whole+5 {
			want["abc"] = 2
		}
		has(t, next, want)
		put(t, next, "new", 7)
		want["new"] = 7
		has(t, opens(t, dir, "boot 1 1", ownAgain, 0), want)
	}
}

// put writes a child down that is in its run-th run.
func put(t *testing.T, j *journal, id string, run uint32) {
	t.Helper()
	if err := j.write(id, &agentpb.Child{Record: &controlpb.Child{Id: id, Run: run}}); err != nil {
		t.Fatal(err)
	}
}

// has wants these children in the journal, and nothing else.
func has(t *testing.T, j *journal, want map[string]uint32) {
	t.Helper()
	all, err := j.read()
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]uint32{}
	for _, c := range all {
		got[c.Record.Id] = c.Record.Run
	}
	if !maps.Equal(got, want) {
		t.Fatalf("the journal has %v, want %v", got, want)
	}
}

// The log stays of the size of what counts, however much is written, and an environment that was put down once comes through it.
func TestJournalStaysSmall(t *testing.T) {
	dir := t.TempDir()
	j := opens(t, dir, "boot 1 1", ownFirst, 0)
	env := [][]byte{[]byte("A=1"), bytes.Repeat([]byte("x"), 100<<10)}
	if err := j.keep("abc", env); err != nil {
		t.Fatal(err)
	}
	put(t, j, "abc", 1)
	for run := range uint32(20000) {
		put(t, j, "busy", run)
		put(t, j, "gone", run)
		if err := j.remove("gone"); err != nil {
			t.Fatal(err)
		}
	}
	st, err := os.Stat(filepath.Join(dir, "journal", logFile))
	if err != nil {
		t.Fatal(err)
	}
	if most := 2*j.log.live + journalSlack + 1000; st.Size() != j.log.size || st.Size() > most {
		t.Errorf("the log has %d bytes, of which it knows %d; %d count", st.Size(), j.log.size, j.log.live)
	}
	j.close()
	j = opens(t, dir, "boot 1 1", ownAgain, 0)
	has(t, j, map[string]uint32{"abc": 1, "busy": 19999})
	if got, err := j.environment("abc"); err != nil || !slices.EqualFunc(got, env, bytes.Equal) {
		t.Errorf("the environment is of %d variables, %v", len(got), err)
	}
	if got, err := j.environment("busy"); err != nil || got != nil {
		t.Errorf("a child without one has the environment %q, %v", got, err)
	}
}

// What cannot be written changes nothing, and what comes after it stands behind the last whole record.
func TestJournalFull(t *testing.T) {
	dir := t.TempDir()
	j := opens(t, dir, "boot 1 1", ownFirst, 0)
	put(t, j, "abc", 1)
	size := j.log.size
	file := j.log.file
	full, err := os.OpenFile("/dev/full", os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	j.log.file = full
	if err := j.write("abc", &agentpb.Child{Record: &controlpb.Child{Id: "abc", Run: 2}}); !errors.Is(err, unix.ENOSPC) {
		t.Fatalf("writing to a full disk: %v", err)
	}
	full.Close()
	j.log.file = file
	if j.log.size != size {
		t.Errorf("a record that was not written counts")
	}
	put(t, j, "xyz", 1)
	has(t, opens(t, dir, "boot 1 1", ownAgain, 0), map[string]uint32{"abc": 1, "xyz": 1})
}

// What the journal has of a child makes the same child again.
func TestJournalChild(t *testing.T) {
	pipe := &choice{
		text: "file:x,format=raw", wiring: "pipe", streams: []sinkpb.Stream{sinkpb.Stream_STDOUT, sinkpb.Stream_STDERR},
		spec: spec.Spec{Name: "file", Arg: "x", Options: map[string]string{"format": "raw"}},
	}
	null := &choice{text: "null", wiring: "null", spec: spec.Spec{Name: "null"}, streams: []sinkpb.Stream{sinkpb.Stream_STDIN}}
	rec := &controlpb.Child{
		Id: "abc", Name: "web", State: stRunning, Pid: 7, Run: 2,
		Sinks: []*controlpb.Sink{{Stream: "stdout", State: "eof", Bytes: 9}, {Stream: "stderr", State: "open"}, {Stream: "stdin"}},
	}
	c := &child{
		spec: &controlpb.ChildSpec{Argv: [][]byte{[]byte("web")}}, rec: rec, key: "child/abc/2", sinks: []*choice{pipe, null},
		started: 1234, stopping: true, waited: true, cut: true, attached: true, request: "r",
		move: &agentpb.Move{Stream: "stderr", Spec: "file:y"}, backoff: time.Second, backoffFirst: 2, backoffMax: 3,
	}
	o := &opening{id: "abc/2/0", run: 2, child: c, choice: pipe}
	o.streams = []*stream{
		{kind: sinkpb.Stream_STDOUT, rec: rec.Sinks[0], done: true, holder: holderID{dev: 1, ino: 2}},
		{kind: sinkpb.Stream_STDERR, rec: rec.Sinks[1], holder: holderID{rdev: 3}},
	}
	c.openings = []*opening{o}

	again, err := childFrom(c.message())
	if err != nil {
		t.Fatal(err)
	}
	if want, got := c.message(), again.message(); !proto.Equal(want, got) {
		t.Errorf("the child that was made again is\n%v\nwant\n%v", got, want)
	}
	if s := again.openings[0].streams; s[0].moving || !s[1].moving {
		t.Error("the stream that is being moved is not, or another is")
	}

	for name, spoil := range map[string]func(*agentpb.Child){
		"a choice that is not there": func(m *agentpb.Child) { m.Openings[0].Choice = 2 },
		"a record that is not there": func(m *agentpb.Child) { m.Openings[0].Streams[0].Sink = 3 },
		"a user that is not there":   func(m *agentpb.Child) { m.Spec.User = "no-such-user-here" },
	} {
		m := proto.CloneOf(c.message())
		spoil(m)
		if _, err := childFrom(m); err == nil {
			t.Errorf("a child was made with %s", name)
		}
	}
}
