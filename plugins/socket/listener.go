package socket

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/muxd/muxd/sink"
)

// listener is a sink that readers connect to. The listening socket and the readers' connections are parked, so they survive
// this process.
//
// Each reader has a queue. With no reader there is one queue all the same, the waiting one, which the next reader gets:
// so nothing is lost between two readers.
//
//	free → (a reader comes) → a reader's → (it leaves, others stay) → free
//	a reader's → (it leaves, as the last) → waiting → (a reader comes) → a reader's
type listener struct {
	port
	settings
	taken *paths
	ln    *os.File    // the listening socket
	file  os.FileInfo // of a Unix socket's file

	ctx    context.Context // done at Close
	cancel context.CancelFunc
	work   sync.WaitGroup
	coming atomic.Int32 // readers that are being let in

	mu      sync.Mutex
	queues  []*queue  // no outputs: none
	readers []*reader // in the order in which they came
	waiting *queue    // while there is no reader
	gone    [2]uint64 // what readers that have left had dropped
	left    int       // output streams that have not ended
	ended   bool      // no output comes any more
	closed  bool
	bad     *sink.Retry // told while readers are refused
}

// reader is somebody who has connected. Its queue is nil where the child's output is not carried.
type reader struct {
	conn
	number int
	queue  *queue
	stop   context.CancelFunc // ends what sends to it
	sent   chan struct{}      // closed when nothing sends to it any more
	left   chan struct{}      // closed when it has left
}

// readersMost is how many readers there can be at a time.
const readersMost = 32

// parkedListener is the tag of the listening socket; readers have parkedReader and their number.
const (
	parkedListener = "listener"
	parkedReader   = "reader-"
)

// openListener listens, or takes over what an earlier process of this plugin listened on.
func openListener(ctx context.Context, s settings, p port, taken *paths) (_ *listener, err error) {
	if err := taken.take(s.address, owner(p.child)); err != nil {
		return nil, err
	}
	l := &listener{port: p, settings: s, taken: taken, left: p.outputs, bad: p.retries.New()}
	l.ctx, l.cancel = context.WithCancel(context.Background())
	defer func() {
		if err != nil {
			l.Close()
		}
	}()
	if l.ln, l.file, err = s.listenAgain(ctx, p); err != nil {
		return nil, err
	}
	if err := p.Park(parkedListener, l.ln); err != nil {
		return nil, err
	}
	if p.outputs > 0 {
		if l.queues, err = openQueues(s, p, readersMost); err != nil {
			return nil, err
		}
	}
	if err := l.takeOver(); err != nil {
		return nil, err
	}
	l.work.Go(l.acceptAll)
	return l, nil
}

// takeOver goes on with the readers and the queues of an earlier process.
func (l *listener) takeOver() error {
	for i := range readersMost {
		for _, f := range l.Parked(parkedReader + strconv.Itoa(i)) {
			c, err := l.connOf(f)
			if err != nil {
				continue // it has left
			}
			if err := l.join(c, i); err != nil {
				return err
			}
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, q := range l.queues {
		if !q.used() || slices.ContainsFunc(l.readers, func(r *reader) bool { return r.queue == q }) {
			continue
		}
		if len(l.readers) == 0 && l.waiting == nil {
			l.waiting = q
		} else {
			l.free(q) // its reader left just then
		}
	}
	if l.waiting != nil {
		return l.waiting.open(l.settings, l.port)
	}
	return l.await()
}

// await makes a waiting queue where there is no reader. mu is held.
func (l *listener) await() error {
	if len(l.readers) > 0 || l.waiting != nil || len(l.queues) == 0 {
		return nil
	}
	q := l.queues[0]
	if !q.used() {
		q.begin()
	}
	l.waiting = q
	return q.open(l.settings, l.port)
}

// free frees the queue of a reader that has left. mu is held.
func (l *listener) free(q *queue) {
	for i, n := range q.end() {
		l.gone[i] += n
	}
}

// receivers are the queues that a chunk goes to.
func (l *listener) receivers() []*queue {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.waiting != nil {
		return []*queue{l.waiting}
	}
	var all []*queue
	for _, r := range l.readers {
		all = append(all, r.queue)
	}
	return all
}

// put puts the chunk at offset into the queues, and returns what is left of it: an unfinished line. After the last chunk it
// blocks until the readers have been sent all, as long as the policy wants it to.
func (l *listener) put(ctx context.Context, offset uint64, p part) (rest []byte, err error) {
	if err := l.settle(ctx); err != nil {
		return nil, err
	}
	for _, q := range l.receivers() {
		records, left := p.records(q.framing, l.longest)
		if err := q.append(ctx, streamNumber(p.stream), offset, records); err != nil {
			return nil, err
		}
		rest = left
	}
	l.tellDropped()
	if !p.last {
		return rest, nil
	}
	for _, q := range l.receivers() {
		if flushErr := q.flush(ctx, streamNumber(p.stream)); flushErr != nil {
			err = flushErr
		}
	}
	l.tellDropped()
	l.mu.Lock()
	l.left--
	over := l.left == 0
	l.mu.Unlock()
	if over && err == nil {
		l.finish(ctx)
	}
	return nil, err
}

// tellDropped tells how much was dropped, for all readers together.
func (l *listener) tellDropped() {
	l.mu.Lock()
	sum := l.gone
	for _, q := range l.queues {
		if q.used() {
			for i, n := range q.dropped() {
				sum[i] += n
			}
		}
	}
	l.mu.Unlock()
	tellDropped(&l.port, sum)
}

// finish tells every reader that no output comes any more, and gives them all together lingerTime to take it in. Nobody can come after
// that.
func (l *listener) finish(ctx context.Context) {
	if l.settle(ctx) != nil { // those that came after the last byte get an end all the same
		return
	}
	deadline := time.Now().Add(lingerTime)
	l.mu.Lock()
	l.ended = true
	readers := slices.Clone(l.readers)
	l.mu.Unlock()
	for _, r := range readers {
		r.CloseWrite() // where it fails the reader is gone
	}
	for _, r := range readers {
		linger(ctx, r, deadline, false)
	}
	if l.file != nil { // now, since nobody does it where the process dies before Close, and muxd has heard of the end already
		unbind(l.name, l.file)
	}
}

// settle returns when those who have connected are readers, so that they get what comes from now on, or after lingerTime.
func (l *listener) settle(ctx context.Context) error {
	if !l.pending() && l.coming.Load() == 0 {
		return nil
	}
	deadline := time.Now().Add(lingerTime)
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	for (l.pending() || l.coming.Load() > 0) && time.Now().Before(deadline) {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

// pending says whether a reader waits to be accepted.
func (l *listener) pending() bool {
	ready := false
	control(l.ln, func(fd int) {
		n, _ := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 0)
		ready = n > 0
	})
	return ready
}

// acceptAll accepts readers until Close.
func (l *listener) acceptAll() {
	try := l.retries.New()
	defer try.Over()
	for {
		c, err := l.accept()
		switch {
		case err == nil:
			try.Over()
			l.work.Go(func() {
				defer l.coming.Add(-1)
				l.admit(c)
			})
		case errors.Is(err, net.ErrClosed), try.Wait(l.ctx, l.explain(err)) != nil:
			return
		}
	}
}

// accept blocks until somebody connects, whom it counts as coming, or the listener is closed.
func (l *listener) accept() (conn, error) {
	raw, err := l.ln.SyscallConn()
	if err != nil {
		return nil, net.ErrClosed
	}
	n := -1
	var acceptErr error
	closedErr := raw.Read(func(fd uintptr) bool {
		l.coming.Add(1) // while it is still to be seen in the socket's queue
		if n, _, acceptErr = unix.Accept4(int(fd), unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK); acceptErr != nil {
			l.coming.Add(-1)
		}
		return acceptErr != unix.EAGAIN && acceptErr != unix.EINTR && acceptErr != unix.ECONNABORTED
	})
	switch {
	case closedErr != nil:
		return nil, net.ErrClosed
	case acceptErr == nil:
		c, err := l.connOf(os.NewFile(uintptr(n), l.address.String()))
		if err != nil {
			l.coming.Add(-1)
		}
		return c, err
	}
	return nil, os.NewSyscallError("accept4", acceptErr)
}

func (l *listener) explain(err error) error {
	return fmt.Errorf("accept a reader on %s: %w; raise the limit of open files if that is the cause", l.address, cause(err))
}

// admit takes ownership of c, and makes it a reader if it may be one.
func (l *listener) admit(raw conn) {
	c, err := raw, error(nil)
	if err = l.allow.admits(c); err == nil && l.network == secure {
		c, err = handshake(l.ctx, raw.(*net.TCPConn), l.tls, true)
	}
	if err == nil {
		l.seeOff()
		err = l.join(c, -1)
	}
	if err != nil {
		raw.Close()
		l.refused(fmt.Errorf("%s: %w", l.address, err))
	}
}

// seeOff returns when readers that have hung up have left, so that the next one gets what they have not been sent.
func (l *listener) seeOff() {
	l.mu.Lock()
	readers := slices.Clone(l.readers)
	l.mu.Unlock()
	for _, r := range readers {
		if hungUp(r) {
			r.SetReadDeadline(time.Unix(1, 0)) // listenTo ends
			<-r.left
		}
	}
}

// refused tells of a reader that was not let in; what it tells is over at once.
func (l *listener) refused(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.closed {
		l.bad.Begin(err)
		l.bad.Over()
	}
}

// join makes c a reader with that number, or with a free one where it is negative. It takes ownership of c unless it
// returns an error.
func (l *listener) join(c conn, number int) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return net.ErrClosed
	}
	r := &reader{conn: c, number: number, sent: make(chan struct{}), left: make(chan struct{})}
	if number < 0 {
		if r.number = l.number(); r.number < 0 {
			return fmt.Errorf("a reader was refused: there are %d already", readersMost)
		}
	}
	if l.network != secure {
		if err := l.Park(parkedReader+strconv.Itoa(r.number), c); err != nil {
			return err
		}
	}
	if len(l.queues) > 0 {
		r.queue = l.queues[r.number]
		if !r.queue.used() {
			r.queue.begin()
		}
		if err := r.queue.open(l.settings, l.port); err != nil {
			l.free(r.queue)
			return err
		}
		l.waiting = nil
	}
	if l.ended {
		c.CloseWrite()
	}
	l.readers = append(l.readers, r)
	var ctx context.Context
	ctx, r.stop = context.WithCancel(l.ctx)
	l.work.Go(func() { l.sendAll(ctx, r) })
	l.work.Go(func() { l.listenTo(r) })
	return nil
}

// number is that of the waiting queue, or a free one; -1 where there is none. mu is held.
func (l *listener) number() int {
	if l.waiting != nil {
		return l.waiting.number
	}
	for i := range readersMost {
		if !slices.ContainsFunc(l.readers, func(r *reader) bool { return r.number == i }) {
			return i
		}
	}
	return -1
}

// sendAll sends r what is in its queue, until it leaves or Close.
func (l *listener) sendAll(ctx context.Context, r *reader) {
	defer close(r.sent)
	if r.queue == nil {
		return
	}
	for r.queue.take(ctx) == nil {
		if r.queue.send(ctx, r) != nil {
			r.SetReadDeadline(time.Unix(1, 0)) // so that listenTo sees it
			return
		}
	}
}

// listenTo gives the child what r sends, until it has left. One that has sent all may still read, and one whose input the
// child does not take any more too.
func (l *listener) listenTo(r *reader) {
	if l.input != nil {
		if err := l.feed(l.input, r); err == nil || errors.Is(err, sink.ErrInputOver) {
			awaitHangup(r)
		}
	} else {
		awaitHangup(r)
	}
	l.leave(r)
}

// leave closes a reader's connection, and frees its queue, or keeps it for the next reader where there is no other. At Close
// the connection stays parked for a successor, if one will come.
func (l *listener) leave(r *reader) {
	defer close(r.left)
	r.stop()
	<-r.sent
	l.mu.Lock()
	defer l.mu.Unlock()
	i := slices.Index(l.readers, r)
	l.readers = slices.Delete(l.readers, i, i+1)
	if l.closed {
		r.Close()
		return
	}
	control(r, func(fd int) { unix.Shutdown(fd, unix.SHUT_RDWR) }) // a copy is parked until the next line
	l.Park(parkedReader + strconv.Itoa(r.number))
	r.Close()
	if r.queue == nil {
		return
	}
	if len(l.readers) == 0 {
		l.waiting = r.queue
	} else {
		l.free(r.queue)
	}
}

// Close lets everything go, and returns when nobody sends or reads. With the last of the opening goes a Unix socket's file.
func (l *listener) Close() error {
	l.cancel()
	l.mu.Lock()
	l.closed = true
	readers := slices.Clone(l.readers)
	l.mu.Unlock()
	var err error
	if l.ln != nil {
		if l.file != nil && l.Over() {
			err = unbind(l.name, l.file)
		}
		if closeErr := l.ln.Close(); err == nil {
			err = closeErr
		}
	}
	for _, r := range readers {
		r.SetReadDeadline(time.Unix(1, 0)) // listenTo ends
	}
	if l.input != nil {
		l.input.Close()
	}
	l.work.Wait()
	for _, q := range l.queues {
		q.close()
	}
	l.taken.giveBack(l.address)
	return err
}
