package file

import (
	"bytes"
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/muxd/muxd/sink"
)

// backlog is the queue between the streams of one file and the file, where the policy is not to wait for it: a ring of records in
// memory (or a file) that outlives the process.
//
// A chunk is appended record by record; from there, flight by flight, it is written as any chunk is, with an intent of its
// own. As long as the file takes what it gets, a chunk counts when it stands there, as with the policy block. When the file is in
// trouble, or one flight takes longer than patience, nobody waits: what does not fit is dropped by the policy, until
// all is written.
type backlog struct {
	settings settings
	writer   *stream                   // of what is in the queue; one goroutine at a time has it
	report   func(sink.Stream, uint64) // Opening.Dropped
	shared   *troubles
	books    books
	area     []byte // of the flight
	ring     []byte
	step     func(string)
	order    sync.Mutex // of the chunks: held while one is appended
	buf      []byte     // guarded by order

	mu       sync.Mutex
	change   *sync.Cond // of what is below
	now      ledger     // what books say, and more
	begun    time.Time  // when the flight was
	slow     *time.Timer
	working  bool   // a goroutine has writer
	again    bool   // the flight is of an earlier process
	reached  uint64 // how much of a flight stood in the file when its writing was given up
	late     bool   // nobody waits until the queue is empty
	wrong    error  // why the file cannot be written, or could not be last
	dropping bool   // that something is dropped is told
	waiting  bool   // shared is told
	given    bool   // the rest is given up
	gone     bool   // and it is counted as dropped
	reported [2]uint64

	ctx    context.Context // of the writing
	cancel context.CancelFunc
	jobs   sync.WaitGroup
}

// Steps of a queue's protocol, at which tests look at what a process leaves behind.
const (
	stepEntered  = "a record is in the ring, and does not count yet"
	stepAppended = "a chunk is in the queue"
	stepDropped  = "the oldest record is dropped"
	stepTaken    = "a flight is taken"
	stepFlight   = "its intent is recorded"
	stepWritten  = "it is written"
	stepFinished = "it is out of the queue"
)

// newBacklog makes a queue in page, of pageSize bytes, and ring, or finds what an earlier process has left there. What is in it
// is written by writer.
func newBacklog(page, ring []byte, s settings, writer *stream, report func(sink.Stream, uint64), shared *troubles) *backlog {
	q := &backlog{
		settings: s, writer: writer, report: report, shared: shared, books: booksIn(page),
		area: page[ledgerSize:], ring: ring, step: func(string) {},
	}
	q.change = sync.NewCond(&q.mu)
	q.now = q.books.read()
	q.again = q.now.flight.busy != 0
	q.ctx, q.cancel = context.WithCancel(context.Background())
	q.slow = time.AfterFunc(time.Hour, q.tooLong)
	q.slow.Stop()
	writer.troubles = &troubles{report: q.troubled}
	return q
}

// resume goes on with what an earlier process has left in the queue.
func (q *backlog) resume() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.start()
}

// halt ends the writing, and waits for it. What is in the queue stays there.
func (q *backlog) halt() {
	q.mu.Lock()
	q.cancel()
	q.change.Broadcast()
	q.mu.Unlock()
	q.jobs.Wait()
}

// end is the end of a queue that was halted.
func (q *backlog) end() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.slow.Stop()
	q.calm()
}

// commit makes now what counts. mu is held.
func (q *backlog) commit(step string) {
	q.books.write(&q.now)
	q.change.Broadcast()
	q.step(step)
}

// put appends a chunk of a stream, and returns when it is written, or when nobody waits for that any more. After the last one it
// does what the policy says about the end.
func (q *backlog) put(ctx context.Context, st sink.Stream, p part, m memory) error {
	stream := numberOf(st)
	q.order.Lock()
	q.mu.Lock()
	rest := q.append(stream, p)
	mark := q.now.head
	q.start()
	q.order.Unlock()
	for q.taken() < mark && q.waits() {
		q.change.Wait()
	}
	q.mu.Unlock()
	if q.settings.format != nil {
		m.SetState(rest)
	}
	if p.last {
		return q.finish(ctx, stream)
	}
	return nil
}

// append appends the records of a chunk, without those that an earlier process had appended, and returns the unfinished line
// behind them. order and mu are held.
func (q *backlog) append(stream int, p part) (rest []byte) {
	now := &q.now.stream[stream]
	if now.chunk != p.offset+1 {
		now.chunk, now.records = p.offset+1, 0
	}
	n := uint64(0)
	add := func(e entry, text []byte) {
		if n++; n > now.records {
			e.length, e.stream, e.nanos = len(text), stream, p.time.UnixNano()
			q.add(e, text)
			now.records++
		}
	}
	if f := q.settings.format; f == nil {
		for data := p.data; len(data) > 0; {
			k := piece(data)
			add(entry{size: uint64(k)}, data[:k])
			data = data[k:]
		}
	} else {
		stamp := f.stamp(nil, p.time, outputs[stream])
		r := records{format: f, stamp: stamp, most: q.settings.maxLine, carry: p.state, data: p.data, last: p.last, missed: p.missed}
		for before := len(r.carry) + len(r.data); ; {
			if missed := r.gap(); missed > 0 {
				add(entry{gap: true, size: missed}, nil)
			}
			text, full, ok := r.text()
			if !ok {
				break
			}
			left := len(r.carry) + len(r.data)
			q.buf = f.record(q.buf[:0], stamp, text, full)
			add(entry{size: uint64(before - left), partial: !full && f.goesOn()}, q.buf)
			before = left
		}
		rest = r.rest()
	}
	if p.last {
		now.ended = 1
	}
	q.commit(stepAppended)
	q.tellDropped()
	return rest
}

// tellDropped tells what was dropped since it was told last. mu is held.
func (q *backlog) tellDropped() {
	for i := range q.reported {
		if n := q.now.stream[i].dropped; n > q.reported[i] {
			q.reported[i] = n
			q.report(outputs[i], n)
		}
	}
}

// rawPiece is how much of raw output is dropped at a time, at most.
const rawPiece = 4 << 10

// piece is how much of raw output becomes an entry: whole lines where they are not longer.
func piece(data []byte) int {
	if len(data) <= rawPiece {
		return len(data)
	}
	if n := bytes.LastIndexByte(data[:rawPiece], '\n') + 1; n > 0 {
		return n
	}
	return rawPiece
}

// add appends one entry, or does what the policy says. It leaves the last commit to its caller. mu is held, and let go while the
// file takes what is in the queue.
func (q *backlog) add(e entry, text []byte) {
	p := &q.now.stream[e.stream]
	for need := entryHeader + e.length; !q.fits(need); {
		switch {
		case q.waits():
			q.commit(stepAppended)
			q.start()
			q.change.Wait()
		case q.settings.policy == dropNewest || q.now.tail == q.now.head:
			q.drop(e)
			return
		default:
			q.dropTail()
			q.commit(stepDropped) // before what was there is written over
		}
	}
	if p.gap > 0 && q.settings.policy == dropNewest {
		q.enter(entry{gap: true, stream: e.stream, size: p.gap, nanos: e.nanos}, nil)
		p.gap = 0
	}
	q.enter(e, text)
}

// fits says whether there is room, with some for what may have to be told of a gap before it.
func (q *backlog) fits(need int) bool {
	return q.now.head-q.now.tail+uint64(need+2*entryHeader) <= uint64(len(q.ring))
}

// drop counts what is not written: of an entry that tells of a gap, what that was is told with the next one. mu is held.
func (q *backlog) drop(e entry) {
	p := &q.now.stream[e.stream]
	p.gap += e.size
	if e.gap {
		return
	}
	p.dropped += e.size
	if !q.dropping {
		q.dropping = true
		q.tell(errFull{q.why(), q.settings.policy})
	}
}

// dropTail drops the oldest entry.
func (q *backlog) dropTail() {
	e := q.entryAt(q.now.tail)
	q.now.tail += uint64(entryHeader + e.length)
	q.drop(e)
}

// enter writes an entry at the head. It counts with the next commit.
func (q *backlog) enter(e entry, text []byte) {
	if q.now.head == q.now.tail {
		q.now.origin = q.now.head // a queue that is empty most of the time touches little memory
	}
	var h [entryHeader]byte
	e.encode(&h)
	q.copyIn(q.now.head, h[:])
	q.copyIn(q.now.head+entryHeader, text)
	q.now.head += uint64(entryHeader + e.length)
	q.step(stepEntered)
}

// entryAt reads the header of the entry at a position.
func (q *backlog) entryAt(at uint64) entry {
	var h [entryHeader]byte
	q.copyOut(h[:], at)
	return decodeEntry(&h)
}

func (q *backlog) copyIn(at uint64, b []byte) {
	i := (at - q.now.origin) % uint64(len(q.ring))
	n := copy(q.ring[i:], b)
	copy(q.ring, b[n:])
}

func (q *backlog) copyOut(b []byte, at uint64) {
	i := (at - q.now.origin) % uint64(len(q.ring))
	n := copy(b, q.ring[i:])
	copy(b[n:], q.ring)
}

// idle says whether nothing is left to write.
func (q *backlog) idle() bool {
	return q.now.flight.busy == 0 && q.now.tail == q.now.head && q.now.stream[0].gap+q.now.stream[1].gap == 0
}

// taken is up to where what was in the ring is written, or dropped.
func (q *backlog) taken() uint64 {
	if q.now.flight.busy != 0 {
		return q.now.flight.from
	}
	return q.now.tail
}

// waits says whether streams wait for the file.
func (q *backlog) waits() bool { return !q.late && q.ctx.Err() == nil }

// why is what is wrong with the file.
func (q *backlog) why() error {
	if q.wrong != nil {
		return q.wrong
	}
	return fmt.Errorf("write %s: it takes longer than %v", q.writer.at, patience)
}

// errFull is why output is dropped.
type errFull struct {
	why    error
	policy policy
}

func (e errFull) Unwrap() error { return e.why }

func (e errFull) Error() string {
	which := "oldest"
	if e.policy == dropNewest {
		which = "newest"
	}
	return e.why.Error() + "; the queue is full, and the " + which + " output is dropped"
}
