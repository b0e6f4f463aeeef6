package file

import (
	"context"
	"fmt"
	"strings"
	"time"
)

// start has a goroutine write what is in the queue, unless one does. mu is held.
func (q *backlog) start() {
	if q.working || q.idle() || q.given || q.ctx.Err() != nil {
		return
	}
	q.working = true
	q.jobs.Go(q.work)
}

// work writes flight after flight until there is none, or the writing is given up.
func (q *backlog) work() {
	buf := q.writer.files.buffers.Get().(*buffers)
	defer q.writer.files.buffers.Put(buf)
	q.mu.Lock()
	defer q.mu.Unlock()
	defer func() {
		q.working = false
		q.change.Broadcast()
	}()
	for q.ctx.Err() == nil {
		text, ok := q.take(buf.out[:0])
		if !ok {
			return
		}
		p := part{data: text, rendered: true, time: timeOf(q.now.flight.nanos), again: q.again}
		q.begun = time.Now()
		q.slow.Reset(patience)
		q.mu.Unlock()
		reached, err := q.writer.putOut(q.ctx, p, inFlight{q})
		q.mu.Lock()
		q.slow.Stop()
		if err != nil {
			q.reached = reached
			return
		}
		q.step(stepWritten)
		q.again = false
		q.now.flight = flight{}
		q.commit(stepFinished)
		if q.idle() {
			q.late, q.dropping, q.wrong = false, false, nil
			q.calm()
		}
	}
}

// take makes a flight of the oldest entries, where there is none of an earlier process, and appends its text to b. It says false
// where there is nothing. mu is held.
func (q *backlog) take(b []byte) (text []byte, ok bool) {
	if q.now.flight.busy != 0 {
		text, _ = q.load(&q.now.flight, b, nil)
		return text, true
	}
	if q.idle() {
		return nil, false
	}
	n := &q.now
	f := flight{
		busy: 1, from: n.tail, nanos: time.Now().UnixNano(), open: [2]uint64{n.stream[0].open, n.stream[1].open},
	}
	gaps := func(into *[2]uint64) {
		for i := range n.stream {
			into[i], n.stream[i].gap = n.stream[i].gap, 0
		}
	}
	if q.settings.policy != dropNewest { // what is missing is in front of the oldest
		gaps(&f.before)
	}
	for n.tail != n.head {
		e := q.entryAt(n.tail)
		size := uint64(entryHeader + e.length)
		if f.size == 0 {
			f.nanos = e.nanos
		} else if f.size+size > uint64(len(q.area)) || !q.together(f.nanos, e.nanos) {
			break
		}
		q.copyOut(q.area[f.size:f.size+size], n.tail)
		f.size += size
		n.tail += size
	}
	if n.tail == n.head {
		gaps(&f.after)
	}
	n.flight = f
	text, open := q.load(&n.flight, b, nil)
	for i := range open {
		n.stream[i].open = open[i]
	}
	q.commit(stepTaken)
	return text, true
}

// together says whether what was read at these times goes into one file.
func (q *backlog) together(a, b int64) bool {
	s, x, y := q.settings, timeOf(a), timeOf(b)
	return a == b || !s.rotation.expired(x, y) && (!strings.Contains(q.writer.path, dateMark) || dateOf(x) == dateOf(y))
}

// load appends the text of a flight to b, and says which streams' last record tells that its line goes on. each, where it is
// not nil, is told of every entry and how long the text is with it. mu is held.
func (q *backlog) load(f *flight, b []byte, each func(e entry, end int)) (text []byte, open [2]uint64) {
	begin := len(b)
	open = f.open
	nanos := f.nanos
	for i, n := range f.before {
		b = q.tellGap(b, i, n, f.nanos, &open)
	}
	for area := q.area[:f.size]; len(area) > 0; {
		e := decodeEntry((*[entryHeader]byte)(area))
		text := area[entryHeader : entryHeader+e.length]
		nanos = e.nanos
		if area = area[entryHeader+e.length:]; e.gap {
			b = q.tellGap(b, e.stream, e.size, e.nanos, &open)
		} else {
			b = append(b, text...)
			open[e.stream] = 0
			if e.partial {
				open[e.stream] = 1
			}
		}
		if each != nil {
			each(e, len(b)-begin)
		}
	}
	for i, n := range f.after { // not before what it comes after
		b = q.tellGap(b, i, n, nanos, &open)
	}
	return b, open
}

// tellGap appends what the log says where output is missing: a record of its own, so a line that goes on is ended before. Raw
// output has none.
func (q *backlog) tellGap(b []byte, stream int, missing uint64, nanos int64, open *[2]uint64) []byte {
	f := q.settings.format
	if missing == 0 || f == nil {
		return b
	}
	at := timeOf(nanos)
	if open[stream] != 0 {
		b = f.record(b, f.stamp(nil, at, outputs[stream]), nil, true)
		open[stream] = 0
	}
	return tellDropped(f, b, at, outputs[stream], missing)
}

// inFlight is the memory of a flight.
type inFlight struct{ *backlog }

// Intent is what an earlier process, or an earlier try, recorded.
func (q inFlight) Intent() []byte {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.now.flight.intended == 0 {
		return nil
	}
	b := q.now.flight.intent
	return b[:]
}

func (q inFlight) Intend(b []byte) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.now.flight.intended = 1
	copy(q.now.flight.intent[:], b)
	q.commit(stepFlight)
}

func (inFlight) SetState([]byte) {}

// tooLong is called when a flight takes longer than patience.
func (q *backlog) tooLong() {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.working && q.now.flight.busy != 0 && time.Since(q.begun) >= patience {
		q.late = true
		q.change.Broadcast()
	}
}

// troubled is told by the writer when the file cannot be written, and with nil when it can.
func (q *backlog) troubled(err error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if err != nil {
		q.wrong, q.late, q.dropping = err, true, false
		q.tell(err)
	}
	q.change.Broadcast()
}

// tell tells what is wrong with the file. mu is held.
func (q *backlog) tell(err error) {
	if q.waiting {
		q.shared.report(err)
		return
	}
	q.waiting = true
	q.shared.begin(err)
}

// calm tells that all is well again. mu is held.
func (q *backlog) calm() {
	if q.waiting {
		q.waiting = false
		q.shared.end()
	}
}

// finish returns when all of a stream that has ended is written. The policies that drop give that lingerTime once no stream is left,
// and drop the rest then; with spill it takes as long as ctx lasts.
func (q *backlog) finish(ctx context.Context, stream int) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	mark := q.now.head
	if q.settings.policy != spill {
		left := 0
		for _, st := range q.writer.carried {
			left += int(1 - q.now.stream[numberOf(st)].ended)
		}
		if left == 0 {
			linger := time.AfterFunc(lingerTime, q.giveUp)
			defer linger.Stop()
		}
	}
	stop := context.AfterFunc(ctx, func() {
		q.mu.Lock()
		defer q.mu.Unlock()
		q.change.Broadcast()
	})
	defer stop()
	written := func() bool {
		n := &q.now
		return q.taken() >= mark && n.stream[stream].gap == 0 && n.flight.before[stream]+n.flight.after[stream] == 0
	}
	for !q.gone && !written() {
		if ctx.Err() == nil {
			q.start()
			q.change.Wait()
			continue
		}
		if q.settings.policy == spill {
			if n := q.rest(stream); n > 0 {
				return fmt.Errorf("the stream was given up, and %d bytes of it were not put out: %w", n, q.why())
			}
			return nil
		}
		q.mu.Unlock()
		q.giveUp()
		q.mu.Lock()
	}
	if q.gone || !q.settings.synced() {
		return nil
	}
	for q.working {
		q.change.Wait()
	}
	q.working = true
	q.mu.Unlock()
	err := q.writer.put(ctx, part{rendered: true, last: true, time: time.Now()}, inFlight{q})
	q.mu.Lock()
	q.working = false
	q.change.Broadcast()
	return err
}

// giveUp drops all that is in the queue.
func (q *backlog) giveUp() {
	q.mu.Lock()
	q.given = true
	q.mu.Unlock()
	q.halt()
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, st := range q.writer.carried {
		i := numberOf(st)
		q.now.stream[i].dropped += q.rest(i)
		q.now.stream[i].gap = 0
	}
	q.now.tail, q.now.flight, q.gone = q.now.head, flight{}, true
	q.tellDropped()
	q.commit(stepFinished)
	q.calm()
}

// rest is how many bytes of a stream are in the queue and not in the file. mu is held.
func (q *backlog) rest(stream int) (n uint64) {
	begin, reached := 0, int(q.reached)
	q.load(&q.now.flight, nil, func(e entry, end int) {
		if !e.gap && e.stream == stream && end > reached {
			n += e.size
			if q.settings.format == nil { // what stands there of a record does not count
				n -= uint64(max(0, reached-begin))
			}
		}
		begin = end
	})
	for at := q.now.tail; at < q.now.head; {
		e := q.entryAt(at)
		if !e.gap && e.stream == stream {
			n += e.size
		}
		at += uint64(entryHeader + e.length)
	}
	return n
}
