package socket

import (
	"context"
	"errors"
	"fmt"
	"sort"

	"golang.org/x/sys/unix"
)

// send sends the flight to c, from where an earlier connection or process left it, and returns nil when all of it is with
// the kernel. It blocks until then, until c is dead, or ctx is done. After an error the flight goes on with
// the next connection: from the record that was torn, or, in a framing without records, from the very byte.
func (q *queue) send(ctx context.Context, c conn) error {
	switch {
	case q.pipe != nil:
		return q.sendSpliced(ctx, c)
	case q.packets:
		return q.sendPackets(ctx, c)
	}
	for f := q.current(); f.phase != idle; f = q.current() {
		n, err := write(ctx, c, q.flight[f.base:f.size])
		if err != nil {
			q.advance("torn", f.phase, q.record(f, f.base+uint64(n)), 0)
			return err
		}
		q.advance("sent", idle, 0, 0)
	}
	return nil
}

// current is the flight as it is.
func (q *queue) current() flight {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.now.flight
}

// advance takes the flight's next step. At idle the flight is over.
func (q *queue) advance(step string, phase, base, upto uint64) {
	q.mu.Lock()
	defer q.mu.Unlock()
	switch {
	case q.now.flight.phase == idle: // it was abandoned
	case phase == idle:
		q.now.flight = flight{}
	default:
		q.now.flight.phase, q.now.flight.base, q.now.flight.upto = phase, base, upto
	}
	q.commit(step)
}

// sendSpliced puts the flight into the pipe, and splices it from there: how much is left in the pipe is the kernel's record
// of what has been sent, whatever becomes of this process.
func (q *queue) sendSpliced(ctx context.Context, c conn) error {
	for {
		switch f := q.current(); f.phase {
		case idle:
			return nil
		case filling:
			n, err := q.pipe.fill(q.flight[f.base:f.size])
			if err != nil {
				return err
			}
			q.advance("filled", filled, f.base, f.base+uint64(n))
		case filled:
			if err := q.pipe.drain(ctx, c); err != nil {
				left, pipeErr := q.pipe.pending()
				if pipeErr != nil {
					return errors.Join(err, pipeErr)
				}
				q.advance("torn", filling, q.record(f, f.upto-uint64(left)), 0)
				return err
			}
			q.step("drained")
			if f.upto == f.size {
				q.advance("sent", idle, 0, 0)
			} else {
				q.advance("sent a part", filling, f.upto, 0)
			}
		}
	}
}

// sendPackets sends each record as a packet of its own. One that is too long for the socket is dropped.
func (q *queue) sendPackets(ctx context.Context, c conn) error {
	for f := q.current(); f.phase != idle; f = q.current() {
		end, stream := q.next(f)
		_, err := write(ctx, c, q.flight[f.base:end])
		switch {
		case errors.Is(err, unix.EMSGSIZE):
			q.mu.Lock()
			q.now.streams[stream].dropped += end - f.base
			q.now.streams[stream].gap += end - f.base
			q.mu.Unlock()
		case err != nil:
			return err
		}
		if end == f.size {
			q.advance("sent", idle, 0, 0)
		} else {
			q.advance("sent a packet", filling, end, 0)
		}
	}
	return nil
}

// record is where the record that byte at of a flight belongs to begins. Without records in the framing it is at itself.
func (q *queue) record(f flight, at uint64) uint64 {
	if !q.framing.whole() {
		return at
	}
	i := sort.Search(int(f.count), func(i int) bool { return uint64(q.ends[i]>>1) > at })
	if i == 0 {
		return 0
	}
	return uint64(q.ends[i-1] >> 1)
}

// next is the end and the stream of the record that begins at the flight's base.
func (q *queue) next(f flight) (end uint64, stream int) {
	i := sort.Search(int(f.count), func(i int) bool { return uint64(q.ends[i]>>1) > f.base })
	return uint64(q.ends[i] >> 1), int(q.ends[i] & 1)
}

// rest is how much of the flight and of the queue behind it has not been sent, in bytes as they are sent.
func (q *queue) rest() uint64 {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.now.head - q.now.tail + q.now.flight.size - q.now.flight.base
}

func errRest(n uint64, where string) error {
	return fmt.Errorf("%s: about %d bytes were not taken by the peer", where, n)
}
