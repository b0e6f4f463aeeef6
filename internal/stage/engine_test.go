package stage

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/muxd/muxd/internal/fd"
)

// collector is a handler that keeps what it gets.
type collector struct {
	t     *testing.T
	mu    sync.Mutex
	buf   bytes.Buffer
	eof   uint64
	last  bool
	done  chan struct{}
	err   error
	block chan struct{} // closed: go on
	want  error
}

func newCollector(t *testing.T) *collector {
	return &collector{t: t, done: make(chan struct{})}
}

func (c *collector) Chunk(k *Chunk) error {
	if c.block != nil {
		<-c.block
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if k.Offset != uint64(c.buf.Len()) {
		c.t.Errorf("chunk at %d, want %d", k.Offset, c.buf.Len())
	}
	if c.last {
		c.t.Error("chunk after the last")
	}
	c.buf.Write(k.Data)
	c.last = k.Last
	k.Slot.SetIntent([]byte("intent"))
	k.Slot.SetState(k.Data[:min(len(k.Data), 10)])
	return c.want
}

func (c *collector) Held(error) {}

func (c *collector) Eof(n uint64) { c.eof = n }

func (c *collector) Done(n uint64, err error) {
	c.err = err
	close(c.done)
}

var keys atomic.Int64

func newKey() string { return fmt.Sprint("source ", keys.Add(1)) }

func newEngine(t *testing.T) *Engine {
	before, err := fd.Count()
	if err != nil {
		t.Fatal(err)
	}
	e, err := New(Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		e.Close()
		if after, _ := fd.Count(); after != before {
			t.Errorf("%d descriptors are open, %d were before", after, before)
		}
	})
	return e
}

func TestEngineKeepsEveryByte(t *testing.T) {
	e := newEngine(t)
	var wg sync.WaitGroup
	for range 20 {
		r, w, err := fd.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		c := newCollector(t)
		s, err := e.Add(r, newKey(), c)
		if err != nil {
			t.Fatal(err)
		}
		wg.Add(1)
		go func() {
			defer wg.Done()
			sum := sha256.New()
			f := w.File("writer")
			total := 0
			for total < 600<<10 {
				b := make([]byte, 1+rand.IntN(1<<rand.IntN(18)))
				for i := range b {
					b[i] = byte(rand.Uint32())
				}
				sum.Write(b)
				f.Write(b)
				total += len(b)
			}
			f.Close()
			<-c.done
			got := sha256.Sum256(c.buf.Bytes())
			if !bytes.Equal(got[:], sum.Sum(nil)) || c.err != nil || !c.last || c.eof != uint64(total) {
				t.Errorf("%d bytes of %d, last %v, eof %d, error %v", c.buf.Len(), total, c.last, c.eof, c.err)
			}
			if s.Committed() != uint64(total) {
				t.Errorf("committed %d, want %d", s.Committed(), total)
			}
			s.Forget()
		}()
	}
	wg.Wait()
}

// A handler that blocks holds up its own stream only.
func TestEngineBlockedHandler(t *testing.T) {
	e := newEngine(t)
	gate := make(chan struct{})
	var blocked []*collector
	for range 40 {
		r, w, err := fd.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		c := newCollector(t)
		c.block = gate
		blocked = append(blocked, c)
		if _, err := e.Add(r, newKey(), c); err != nil {
			t.Fatal(err)
		}
		f := w.File("writer")
		f.WriteString("stuck")
		f.Close()
	}
	r, w, _ := fd.Pipe()
	free := newCollector(t)
	if _, err := e.Add(r, newKey(), free); err != nil {
		t.Fatal(err)
	}
	f := w.File("writer")
	f.WriteString("flows")
	f.Close()
	<-free.done
	if free.buf.String() != "flows" {
		t.Errorf("got %q", free.buf.String())
	}
	close(gate)
	for _, c := range blocked {
		<-c.done
		if c.buf.String() != "stuck" {
			t.Errorf("got %q", c.buf.String())
		}
	}
}

func TestCutEndsAnOpenStream(t *testing.T) {
	e := newEngine(t)
	r, w, _ := fd.Pipe()
	defer w.Close()
	c := newCollector(t)
	s, err := e.Add(r, newKey(), c)
	if err != nil {
		t.Fatal(err)
	}
	file, _ := fd.Dup(w.Int())
	f := file.File("writer")
	defer f.Close()
	io.WriteString(f, "all of this")
	s.Cut()
	<-c.done
	if c.buf.String() != "all of this" || c.err != nil {
		t.Errorf("got %q, %v", c.buf.String(), c.err)
	}
	s.Forget()
}

// What is written and then cut just after the reader has found nothing is read.
func TestCutWhereNothingWasToRead(t *testing.T) {
	r, w, _ := fd.Pipe()
	f := w.File("writer")
	defer f.Close()
	var s *Source
	var once sync.Once
	added := make(chan struct{})
	e, err := New(Options{Step: func(step Step) {
		if step == StepEmpty {
			once.Do(func() {
				<-added
				io.WriteString(f, "written and then cut")
				s.Cut()
			})
		}
	}})
	if err != nil {
		t.Fatal(err)
	}
	defer e.Close()
	c := newCollector(t)
	if s, err = e.Add(r, newKey(), c); err != nil {
		t.Fatal(err)
	}
	close(added)
	s.kick()
	<-c.done
	if c.buf.String() != "written and then cut" || c.err != nil {
		t.Errorf("got %q, %v", c.buf.String(), c.err)
	}
	s.Forget()
}

func TestFailedHandlerKeepsTheFarEnd(t *testing.T) {
	e := newEngine(t)
	r, w, _ := fd.Pipe()
	c := newCollector(t)
	c.want = os.ErrPermission
	s, err := e.Add(r, newKey(), c)
	if err != nil {
		t.Fatal(err)
	}
	f := w.File("writer")
	defer f.Close()
	f.WriteString("x")
	<-c.done
	if c.err != os.ErrPermission {
		t.Errorf("error %v", c.err)
	}
	if _, err := f.WriteString("y"); err != nil {
		t.Errorf("the writer got %v, want back-pressure only", err)
	}
	s.Forget()
}

func TestSlotCommit(t *testing.T) {
	m, err := newMemory()
	if err != nil {
		t.Fatal(err)
	}
	defer m.close()
	s := m.slot(3)
	for i := range 5 {
		if got := s.Committed(); got != uint64(10*i) {
			t.Fatalf("committed %d, want %d", got, 10*i)
		}
		s.take(10, 10, false, 1)
		if s.Intent() != nil {
			t.Fatalf("intent %q of a new chunk", s.Intent())
		}
		s.SetIntent([]byte{byte(i)})
		s.SetIntent([]byte{byte(i), 7})
		if got := s.Intent(); !bytes.Equal(got, []byte{byte(i), 7}) {
			t.Fatalf("intent %v", got)
		}
		old := bytes.Clone(s.State())
		s.SetState([]byte{byte(100 + i)})
		if !bytes.Equal(s.State(), old) {
			t.Fatal("the new state counts before the commit")
		}
		s.written()
		s.commit()
		if got := s.State(); !bytes.Equal(got, []byte{byte(100 + i)}) {
			t.Fatalf("state %v after the commit", got)
		}
	}
	s.take(0, 0, true, 1)
	s.written()
	s.commit()
	if s.load()&phaseMask != phaseEnded {
		t.Error("not ended after the last chunk")
	}
	if got := s.State(); !bytes.Equal(got, []byte{104}) {
		t.Errorf("state %v is not kept by a chunk that sets none", got)
	}
}

// In a pause the chunk in hand is finished, and no other begun.
func TestPause(t *testing.T) {
	e := newEngine(t)
	r, w, err := fd.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	f := w.File("writer")
	c := newCollector(t)
	c.block = make(chan struct{})
	s, err := e.Add(r, newKey(), c)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteString("one"); err != nil {
		t.Fatal(err)
	}
	until(t, e, "the chunk is in hand", func() bool { return e.serving == 1 })
	over, cancel := context.WithCancel(context.Background())
	cancel()
	if err := e.Pause(over, time.Hour); err == nil {
		t.Error("a pause begins while a chunk is in hand")
	}
	close(c.block)
	if err := e.Pause(context.Background(), time.Hour); err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteString("two"); err != nil {
		t.Fatal(err)
	}
	f.Close()
	until(t, e, "the source is ready", func() bool { return len(e.ready) == 1 && e.serving == 0 })
	c.mu.Lock()
	got := c.buf.String()
	c.mu.Unlock()
	if got != "one" || s.Unread() != len("two") {
		t.Errorf("in the pause the handler got %q, and %d bytes wait; want \"one\" and 3", got, s.Unread())
	}
	e.goOn()
	<-c.done
	if got := c.buf.String(); got != "onetwo" || c.err != nil {
		t.Errorf("the handler got %q, %v", got, c.err)
	}
}

// until waits for something of e.
func until(t *testing.T, e *Engine, what string, f func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(time.Millisecond) {
		e.mu.Lock()
		ok := f()
		e.mu.Unlock()
		if ok {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("not in time: %s", what)
		}
	}
}
