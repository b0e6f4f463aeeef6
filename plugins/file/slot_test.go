package file

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/muxd/muxd/sink"
)

func TestMain(m *testing.M) {
	time.Local = time.UTC // which the format iso uses
	goleak.VerifyTestMain(m)
}

// slot is a stream's memory that outlives its writer.
type slot struct {
	intent, state, next []byte
	earlier             []byte // intent of the process before
}

func (s *slot) Intent() []byte    { return s.earlier }
func (s *slot) Intend(b []byte)   { s.intent = bytes.Clone(b) }
func (s *slot) SetState(b []byte) { s.next = bytes.Clone(b) }

// restart is what the SDK does when the process was killed.
func (s *slot) restart() { s.earlier, s.intent, s.next = s.intent, nil, nil }

// commit is what the SDK does when Write has returned nil.
func (s *slot) commit() { s.state, s.next, s.intent, s.earlier = s.next, nil, nil, nil }

var noon = time.Date(2026, 5, 4, 12, 0, 0, 123, time.UTC)

func criSettings() settings { return settings{format: cri{}, perm: 0o640, maxLine: 16 << 10} }

// quick is newFiles without long waits.
func quick() *files {
	fs := newFiles()
	fs.fsync = func(*os.File) error { return nil }
	fs.retryFirst, fs.retryMost, fs.lookAgain = time.Millisecond, 5*time.Millisecond, 0
	return fs
}

// quiet is for where no trouble is expected.
func quiet(t *testing.T) *troubles {
	return &troubles{report: func(err error) {
		if err != nil {
			t.Errorf("trouble: %v", err)
		}
	}}
}

func openStream(t *testing.T, fs *files, s settings, stream sink.Stream, path string) *testStream {
	t.Helper()
	w, err := newStream(fs, &s, target{stream, path}, quiet(t))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { w.close() })
	return &testStream{t: t, w: w}
}

// testStream is a stream with its slot.
type testStream struct {
	t    *testing.T
	w    *stream
	slot slot
}

func (s *testStream) put(at time.Time, text string, last bool) {
	s.t.Helper()
	p := part{data: []byte(text), state: s.slot.state, time: at, last: last}
	if err := s.w.put(context.Background(), p, &s.slot); err != nil {
		s.t.Fatalf("put %q: %v", text, err)
	}
	s.slot.commit()
}

func temp(t *testing.T) string { return filepath.Join(t.TempDir(), "log") }

func read(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func same(t *testing.T, what, got, want string) {
	t.Helper()
	if got != want {
		t.Fatalf("%s:\n got %q\nwant %q", what, got, want)
	}
}

// opening is a port whose memory and what is parked outlive the process that has it.
type opening struct {
	report  func(error)
	mem     []byte
	parked  map[string]*os.File
	dropped [2]atomic.Uint64
}

func (o *opening) Trouble(err error) { o.report(err) }

func (o *opening) Dropped(st sink.Stream, total uint64) { o.dropped[numberOf(st)].Store(total) }

func (o *opening) Memory(size int) ([]byte, error) {
	if o.mem == nil {
		o.mem = make([]byte, size)
	}
	return o.mem, nil
}

func (o *opening) Park(tag string, files ...syscall.Conn) error {
	f, err := duplicate(files[0].(*os.File))
	if o.parked == nil {
		o.parked = map[string]*os.File{}
	}
	o.parked[tag] = f
	return err
}

func (o *opening) Parked(tag string) []*os.File {
	f := o.parked[tag]
	if f == nil {
		return nil
	}
	delete(o.parked, tag)
	return []*os.File{f}
}
