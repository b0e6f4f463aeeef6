package socket

import (
	"context"
	"encoding/binary"
	"iter"
	"os"
	"sync"
	"time"
	"unsafe"

	"github.com/muxd/muxd/sink"
)

// queue is what one peer has not got yet: a ring of records, and a flight of them that is being sent. All of it is in memory
// (or a file) that outlives the process. A chunk is appended record by record, and what does not fit is dealt with as
// the policy says. One goroutine at a time sends.
type queue struct {
	number  int
	books   books
	file    *os.File // of the ring, with the policy spill
	ring    []byte
	ends    *[endsMost]uint32
	flight  []byte
	packets bool  // each record is a packet
	pipe    *pipe // what is sent goes through it; nil where the connection cannot be spliced to
	framing framing
	policy  policy
	full    *sink.Retry // told while records are dropped
	where   string      // for what full is told
	step    func(string)

	mu     sync.Mutex
	change *sync.Cond // of now, and of closed
	now    ledger     // what books say
	closed bool       // the peer is gone for good: what is appended is thrown away
	buf    []byte
}

// policy says what becomes of records that do not fit.
type policy string

const (
	block      policy = "block"
	dropOldest policy = "drop-oldest"
	dropNewest policy = "drop-newest"
	spill      policy = "spill" // like dropOldest, with a ring in a file
)

// newQueue makes a queue in mem, of queueHeader bytes, or finds what an earlier process has left there.
func newQueue(mem, ring []byte, f framing, p policy, full *sink.Retry, where string) *queue {
	q := &queue{
		books: booksIn(mem), ring: ring, ends: (*[endsMost]uint32)(unsafe.Pointer(&mem[endsAt])),
		flight: mem[flightAt : flightAt+flightMost], framing: f, policy: p, full: full, where: where,
		step: func(string) {},
	}
	q.change = sync.NewCond(&q.mu)
	q.now = q.books.read()
	return q
}

// commit makes now what counts. mu is held.
func (q *queue) commit(step string) {
	q.books.write(q.now)
	q.change.Broadcast()
	q.step(step)
}

// begin gives a free queue to an owner.
func (q *queue) begin() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.now, q.closed = ledger{used: 1}, false
	q.commit("begun")
}

// end frees the queue, with all that is in it, and returns what it had dropped of each stream.
func (q *queue) end() (dropped [2]uint64) {
	q.mu.Lock()
	defer q.mu.Unlock()
	dropped = q.droppedNow()
	q.now, q.closed = ledger{}, true
	q.full.Over()
	q.commit("ended")
	return dropped
}

// used says whether the queue has an owner.
func (q *queue) used() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.now.used != 0
}

// dropped is how much of each stream has been dropped.
func (q *queue) dropped() [2]uint64 {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.droppedNow()
}

func (q *queue) droppedNow() [2]uint64 {
	return [2]uint64{q.now.streams[0].dropped, q.now.streams[1].dropped}
}

// await blocks until ready says so, or ctx is done: then it returns ctx's error. mu is held, and let go meanwhile.
func (q *queue) await(ctx context.Context, ready func() bool) error {
	if ready() {
		return nil
	}
	stop := context.AfterFunc(ctx, func() {
		q.mu.Lock()
		defer q.mu.Unlock()
		q.change.Broadcast()
	})
	defer stop()
	for !ready() {
		if err := ctx.Err(); err != nil {
			return err
		}
		q.change.Wait()
	}
	return nil
}

// append appends the records of the chunk at offset of a stream, 0 for stdout and 1 for stderr, without those that an
// earlier process had appended. It blocks where the policy is block and there is no room, until ctx is done.
func (q *queue) append(ctx context.Context, stream int, offset uint64, records iter.Seq[record]) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	p := &q.now.streams[stream]
	if p.chunk != offset+1 {
		p.chunk, p.records = offset+1, 0
	}
	n := uint64(0)
	for r := range records {
		if n++; n <= p.records {
			continue
		}
		if q.closed {
			return nil
		}
		if err := q.add(ctx, stream, r); err != nil {
			return err
		}
	}
	q.commit("appended")
	return nil
}

// entryHeader is what stands before a record in the ring: its length, its stream, how many bytes of that it is, and how many it tells to
// be missing.
const entryHeader = 24

// add appends one record, or does what the policy says. It leaves the last commit to its caller.
func (q *queue) add(ctx context.Context, stream int, r record) error {
	p := &q.now.streams[stream]
	stamp := 0
	q.buf = q.buf[:0]
	if p.gap > 0 && q.policy == dropNewest {
		q.buf = q.framing.stamp(q.buf, r.stream, r.time, p.gap)
		stamp = len(q.buf)
	}
	if r.missed > 0 {
		q.buf = q.framing.stamp(q.buf, r.stream, r.time, r.missed)
	} else {
		q.buf = q.framing.render(q.buf, r)
	}
	need := entryHeader + len(q.buf)
	if stamp > 0 {
		need += entryHeader
	}
	for !q.fits(need) {
		switch q.policy {
		case dropNewest:
			q.drop(stream, uint64(r.size), r.missed)
			p.records++
			return nil
		case dropOldest, spill:
			q.dropTail()
			q.commit("dropped") // before what was there is written over
		default:
			q.commit("full")
			if err := q.await(ctx, func() bool { return q.fits(need) || q.closed }); err != nil || q.closed {
				return err
			}
		}
	}
	if stamp > 0 {
		q.put(stream, q.buf[:stamp], 0, 0)
		p.gap = 0
	}
	q.put(stream, q.buf[stamp:], r.size, r.missed)
	p.records++
	return nil
}

func (q *queue) fits(need int) bool { return uint64(need)+q.now.head-q.now.tail <= uint64(len(q.ring)) }

// drop counts bytes of a stream that are not sent, and those that were missing before and of which nothing is told by that.
func (q *queue) drop(stream int, size, missed uint64) {
	p := &q.now.streams[stream]
	p.dropped += size
	p.gap += size + missed
	q.full.Begin(errFull{q.policy, q.where})
}

// dropTail drops the oldest entry.
func (q *queue) dropTail() {
	length, stream, size, missed := q.entry(q.now.tail)
	q.now.tail += entryHeader + uint64(length)
	if q.now.streams[stream].given == 0 { // otherwise it is counted
		q.drop(stream, size, missed)
	}
}

// put writes an entry at the head. It counts with the next commit.
func (q *queue) put(stream int, b []byte, size int, missed uint64) {
	if q.now.head == q.now.tail {
		q.now.origin = q.now.head // a queue that is empty most of the time touches little memory
	}
	var h [entryHeader]byte
	binary.LittleEndian.PutUint32(h[0:], uint32(len(b)))
	binary.LittleEndian.PutUint32(h[4:], uint32(stream))
	binary.LittleEndian.PutUint64(h[8:], uint64(size))
	binary.LittleEndian.PutUint64(h[16:], missed)
	q.copyIn(q.now.head, h[:])
	q.copyIn(q.now.head+entryHeader, b)
	q.now.head += entryHeader + uint64(len(b))
}

// entry reads the header of the entry at a position.
func (q *queue) entry(at uint64) (length, stream int, size, missed uint64) {
	var h [entryHeader]byte
	q.copyOut(h[:], at)
	return int(binary.LittleEndian.Uint32(h[0:])), int(binary.LittleEndian.Uint32(h[4:])), binary.LittleEndian.Uint64(h[8:]), binary.LittleEndian.Uint64(h[16:])
}

func (q *queue) copyIn(at uint64, b []byte) {
	i := (at - q.now.origin) % uint64(len(q.ring))
	n := copy(q.ring[i:], b)
	copy(q.ring, b[n:])
}

func (q *queue) copyOut(b []byte, at uint64) {
	i := (at - q.now.origin) % uint64(len(q.ring))
	n := copy(b, q.ring[i:])
	copy(b[n:], q.ring)
}

// take makes a flight of the oldest records. It blocks until there are some, or ctx is done. Where an earlier process, or an
// earlier connection, has left a flight, that is the one.
func (q *queue) take(ctx context.Context) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	if err := q.await(ctx, func() bool { return q.now.flight.phase != idle || q.left() || q.closed }); err != nil {
		return err
	}
	if q.closed {
		return context.Canceled
	}
	if q.now.flight.phase != idle {
		return nil
	}
	f := flight{phase: filling, from: q.now.tail}
	for i := range q.now.streams {
		if gap := q.now.streams[i].gap; gap > 0 && q.policy != dropNewest {
			q.load(&f, q.framing.stamp(q.buf[:0], outputs[i], time.Now(), gap), i)
			q.now.streams[i].gap = 0
		}
	}
	for q.now.tail != q.now.head && f.count < endsMost {
		length, stream, _, _ := q.entry(q.now.tail)
		if f.size+uint64(length) > flightMost {
			break
		}
		if q.now.streams[stream].given == 0 {
			q.copyOut(q.flight[f.size:f.size+uint64(length)], q.now.tail+entryHeader)
			q.loaded(&f, length, stream)
		}
		q.now.tail += entryHeader + uint64(length)
	}
	q.now.flight = f
	if q.now.head-q.now.tail <= uint64(len(q.ring))/2 {
		q.full.Over()
	}
	q.commit("taken")
	return nil
}

// load puts b into a flight, as a record if it is not empty.
func (q *queue) load(f *flight, b []byte, stream int) {
	if len(b) > 0 {
		copy(q.flight[f.size:], b)
		q.loaded(f, len(b), stream)
	}
}

// loaded counts a record that was put into a flight.
func (q *queue) loaded(f *flight, length, stream int) {
	f.size += uint64(length)
	q.ends[f.count] = uint32(f.size)<<1 | uint32(stream)
	f.count++
}

// sent blocks until all that is in the queue now has been sent, or ctx is done: then it says false.
func (q *queue) sent(ctx context.Context) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	mark := q.now.head
	return q.await(ctx, func() bool {
		return q.closed || q.now.tail >= mark && (q.now.flight.phase == idle || q.now.flight.from >= mark)
	}) == nil
}

// left passes over what is given up at the ring's tail, and says whether there is anything behind it. mu is held.
func (q *queue) left() bool {
	for q.now.tail != q.now.head {
		length, stream, _, _ := q.entry(q.now.tail)
		if q.now.streams[stream].given == 0 {
			return true
		}
		q.now.tail += entryHeader + uint64(length)
	}
	return false
}

// abandon gives up what is in the queue of a stream that has ended: it counts as dropped. What is of the other one stays, and so does
// the flight, until that is given up too.
func (q *queue) abandon(stream int) {
	q.mu.Lock()
	defer q.mu.Unlock()
	p := &q.now.streams[stream]
	for at := q.now.tail; at != q.now.head; {
		length, of, size, _ := q.entry(at)
		if of == stream {
			p.dropped += size
		}
		at += entryHeader + uint64(length)
	}
	p.given, p.gap = 1, 0
	if other := q.now.streams[1-stream]; other.chunk == 0 || other.given != 0 { // it has put nothing here, or nothing comes
		for f := q.now.flight; f.phase != idle && f.base < f.size; {
			end, of := q.next(f)
			q.now.streams[of].dropped += end - f.base // as it is sent: what it was of the stream is not known any more
			f.base = end
		}
		q.now.flight, q.now.tail = flight{}, q.now.head
		q.full.Over()
	}
	q.commit("abandoned")
}

// outputs are the streams by their number in a queue.
var outputs = [2]sink.Stream{sink.Stdout, sink.Stderr}

// errFull is why records are dropped.
type errFull struct {
	policy policy
	where  string
}

func (e errFull) Error() string {
	which := "oldest"
	if e.policy == dropNewest {
		which = "newest"
	}
	return e.where + ": the peer does not take the output, the queue is full, and the " + which + " output is dropped"
}

// flush returns when all that is in the queue now has been sent, after the last chunk of a stream. With the policies block and spill it
// waits as long as ctx lasts, otherwise for lingerTime, and then drops the rest of that stream, which is no error.
func (q *queue) flush(ctx context.Context, stream int) error {
	if q.policy == block || q.policy == spill {
		if !q.sent(ctx) {
			return errRest(q.rest(), q.where)
		}
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, lingerTime)
	defer cancel()
	if !q.sent(ctx) {
		q.abandon(stream)
	}
	return nil
}

// streamNumber is a stream's number in a queue.
func streamNumber(st sink.Stream) int {
	if st == sink.Stderr {
		return 1
	}
	return 0
}
