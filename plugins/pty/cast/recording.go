package cast

import (
	"context"
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"
)

const (
	lookAgain  = time.Second // how seldom it is looked whether the path still leads to the file
	retryFirst = 100 * time.Millisecond
	retryMost  = 5 * time.Second
	queueMost  = 4096 // events that wait while the file cannot be written
)

// Memory is what a chunk of output offers to a successor of this process; a *sink.Chunk is one.
type Memory interface {
	Intent() []byte // nil where no earlier process had this chunk
	Intend([]byte)
	State() []byte
	SetState([]byte)
}

// Recording writes one console's recording. Output is exact: a successor that gets a chunk again finds out whether the
// earlier process had written it. Events in between are written as they come.
//
// Output is called by one goroutine at a time, the other methods by any.
type Recording struct {
	path    string
	version int
	trouble func(error)
	turn    chan struct{} // holds an element while nobody writes; who took it may touch what follows
	file    *file
	looked  time.Time
	buf     []byte

	mu       sync.Mutex // for what follows
	head     Header     // with the size that the console has now
	queue    []event
	lost     int // events that found no room in queue
	flushing bool
	flushers sync.WaitGroup
	ctx      context.Context // done when the recording is closed
	cancel   context.CancelFunc
}

type event struct {
	at   time.Time
	kind string
	data []byte
}

// Open begins a recording at path, or goes on with the one that is there. trouble is told when the file cannot be written,
// and with nil when it can again.
func Open(path string, version int, h Header, trouble func(error)) (*Recording, error) {
	f, err := openFile(path, version, h, time.Now())
	if err != nil {
		return nil, err
	}
	r := &Recording{path: path, version: version, trouble: trouble, turn: make(chan struct{}, 1), file: f, looked: time.Now(), head: h}
	r.ctx, r.cancel = context.WithCancel(context.Background())
	r.turn <- struct{}{}
	return r, nil
}

// Close writes what waits, as far as that can be done at once, and ends the recording.
func (r *Recording) Close() error {
	r.cancel()
	r.flushers.Wait()
	r.drain(r.ctx)
	return r.file.Close()
}

// Output records a chunk of output. It blocks while the file cannot be written, until ctx is done.
func (r *Recording) Output(ctx context.Context, data []byte, at time.Time, m Memory) error {
	text := append(append([]byte(nil), m.State()...), data...)
	n := whole(text)
	var lines []event
	if n > 0 {
		lines = append(lines, event{at, output, text[:n]})
	}
	if err := r.once(ctx, lines, at, m); err != nil {
		return err
	}
	m.SetState(text[n:])
	return nil
}

// End records the end of the console, with the exit status where that is not empty.
func (r *Recording) End(ctx context.Context, status string, at time.Time, m Memory) error {
	var lines []event
	if rest := m.State(); len(rest) > 0 {
		lines = append(lines, event{at, output, rest})
	}
	if status != "" && r.version == V3 {
		lines = append(lines, event{at, exit, []byte(status)})
	}
	return r.once(ctx, lines, at, m)
}

// intent is what is recorded before the lines of a chunk are written: enough to write the same lines again, and to
// find them.
type intent struct {
	id   identity
	end  int64         // where the first line begins
	last time.Duration // the event before it
	at   time.Duration // their own time
	done int           // how many lines of the chunk had been written before
}

func (i intent) encode() []byte {
	b := binary.LittleEndian.AppendUint64(nil, i.id.dev)
	for _, v := range []uint64{i.id.ino, uint64(i.end), uint64(i.last), uint64(i.at), uint64(i.done)} {
		b = binary.LittleEndian.AppendUint64(b, v)
	}
	return b
}

func decodeIntent(b []byte) (i intent, ok bool) {
	if len(b) != 6*8 {
		return i, false
	}
	at := func(k int) uint64 { return binary.LittleEndian.Uint64(b[8*k:]) }
	return intent{identity{at(0), at(1)}, int64(at(2)), time.Duration(at(3)), time.Duration(at(4)), int(at(5))}, true
}

// once writes the lines of a chunk, or what of them an earlier process has not written.
func (r *Recording) once(ctx context.Context, lines []event, at time.Time, m Memory) error {
	select {
	case <-r.turn:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	defer func() { r.turn <- struct{}{} }()
	done := 0
	if was, ok := decodeIntent(m.Intent()); ok {
		done = r.written(lines, was)
	}
	r.drain(ctx)
	if done == len(lines) {
		return nil
	}
	if err := r.follow(ctx); err != nil {
		return err
	}
	now := intent{r.file.id, r.file.end, r.file.last, r.since(at), done}
	m.Intend(now.encode())
	for _, l := range lines[done:] {
		if err := r.put(ctx, l.kind, l.data, now.at); err != nil {
			return err
		}
	}
	return nil
}

// written is how many of lines an earlier process has written. An unfinished one was taken back when the file was opened; in a file that
// has been renamed since it is taken back here.
func (r *Recording) written(lines []event, was intent) int {
	f := r.file
	if f.id != was.id {
		old := find(filepath.Dir(r.path), was.id)
		if old == nil {
			return was.done
		}
		defer old.Close()
		f = &file{File: old}
	}
	n, at, last := was.done, was.end, was.last
	for _, l := range lines[n:] {
		line := appendEvent(nil, r.number(was.at, last), l.kind, l.data)
		if !f.has(line, at) {
			if f != r.file {
				f.Truncate(at)
			}
			break
		}
		n, at, last = n+1, at+int64(len(line)), was.at
	}
	return n
}

// since is the time of an event, from the beginning of the recording. Time does not go backwards in it.
func (r *Recording) since(at time.Time) time.Duration {
	return max(at.Sub(r.file.start), r.file.last).Truncate(time.Microsecond)
}

// number is what stands for an event's time, in microseconds.
func (r *Recording) number(at, last time.Duration) int64 {
	if r.version == V3 {
		at -= last
	}
	return at.Microseconds()
}

// put appends an event. It blocks while the file cannot be written. The caller has the turn.
func (r *Recording) put(ctx context.Context, kind string, data []byte, at time.Duration) error {
	r.buf = appendEvent(r.buf[:0], r.number(at, r.file.last), kind, data)
	err := r.retry(ctx, func() error { return r.file.append(r.buf) })
	if err == nil {
		r.file.last = at
	}
	if cap(r.buf) > 4<<10 { // an idle console keeps little
		r.buf = nil
	}
	return err
}

// follow opens the file that the path leads to now, where that is another one: it was rotated. The caller has the turn.
func (r *Recording) follow(ctx context.Context) error {
	if time.Since(r.looked) < lookAgain {
		return nil
	}
	r.looked = time.Now()
	if info, err := os.Stat(r.path); err == nil && identityOf(info) == r.file.id {
		return nil
	}
	return r.retry(ctx, func() error {
		r.mu.Lock()
		h := r.head
		r.mu.Unlock()
		f, err := openFile(r.path, r.version, h, time.Now())
		if err == nil {
			r.file.Close()
			r.file = f
		}
		return err
	})
}

// retry does something until it can be done, or ctx is done.
func (r *Recording) retry(ctx context.Context, try func() error) error {
	err := try()
	if err == nil {
		return nil
	}
	r.trouble(fmt.Errorf("recording: %w", err))
	defer r.trouble(nil)
	for wait := retryFirst; err != nil; wait = min(2*wait, retryMost) {
		timer := time.NewTimer(wait)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return context.Cause(ctx)
		}
		err = try()
	}
	return nil
}

// Input records what was typed.
func (r *Recording) Input(p []byte) { r.add(event{time.Now(), input, append([]byte(nil), p...)}) }

// Resize records that the console has another size now.
func (r *Recording) Resize(rows, cols int) {
	r.mu.Lock()
	r.head.Rows, r.head.Cols = rows, cols
	r.mu.Unlock()
	r.add(event{time.Now(), resize, fmt.Appendf(nil, "%dx%d", cols, rows)})
}

// add has an event written soon, and does not block.
func (r *Recording) add(e event) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.queue) >= queueMost {
		r.lost++
		return
	}
	r.queue = append(r.queue, e)
	if !r.flushing {
		r.flushing = true
		r.flushers.Go(r.flush)
	}
}

// flush writes the events that wait.
func (r *Recording) flush() {
	select {
	case <-r.turn:
		r.drain(r.ctx)
		r.turn <- struct{}{}
	case <-r.ctx.Done():
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.flushing = false
	if len(r.queue) > 0 && r.ctx.Err() == nil {
		r.flushing = true
		r.flushers.Go(r.flush)
	}
}

// drain writes the events that wait, until ctx is done. The caller has the turn.
func (r *Recording) drain(ctx context.Context) {
	for {
		r.mu.Lock()
		if r.lost > 0 && len(r.queue) == 0 {
			fmt.Fprintf(os.Stderr, "recording %s: %d events were left out while it could not be written\n", r.path, r.lost)
			r.lost = 0
		}
		if len(r.queue) == 0 {
			r.queue = nil
			r.mu.Unlock()
			return
		}
		e := r.queue[0]
		r.queue = r.queue[1:]
		r.mu.Unlock()
		if r.follow(ctx) != nil || r.put(ctx, e.kind, e.data, r.since(e.at)) != nil {
			return
		}
	}
}

// Mark records a marker, and returns when it is in the file.
func (r *Recording) Mark(ctx context.Context, label string) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(r.ctx, cancel)()
	select {
	case <-r.turn:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	defer func() { r.turn <- struct{}{} }()
	r.drain(ctx)
	if err := r.follow(ctx); err != nil {
		return err
	}
	return r.put(ctx, marker, []byte(label), r.since(time.Now()))
}
