package file

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/muxd/muxd/sink"
)

// port is what an opening gives to its streams.
type port interface {
	Trouble(err error)
	Dropped(st sink.Stream, total uint64)
	Memory(size int) ([]byte, error)
	Park(tag string, files ...syscall.Conn) error
	Parked(tag string) []*os.File
}

// fileSink is the streams of one opening.
type fileSink struct {
	open    *files
	writers []*stream
	queues  map[sink.Stream]*backlog // with the others: streams that share a file share a queue, and a writer
	rings   [][]byte                 // that are mapped from files
}

// newFileSink opens the file of every stream, so that what cannot work fails before the child starts. Where the child
// runs already, since an earlier process of this plugin had the streams, they wait instead until it works.
func newFileSink(open *files, s settings, id string, p port, again bool) (*fileSink, error) {
	k := &fileSink{open: open}
	shared := &troubles{report: p.Trouble}
	for _, t := range s.targets {
		if s.policy != block && !s.apart && len(k.writers) > 0 {
			w := k.writers[0]
			w.carried = append(w.carried, t.stream)
			continue
		}
		w, err := newStream(open, &s, t, shared)
		if err != nil && again {
			w, err = bareStream(open, &s, t, shared), nil
		}
		if err != nil {
			k.Close()
			return nil, err
		}
		w.claim, w.fresh = claim{id, t.stream}, !again
		k.writers = append(k.writers, w)
	}
	if s.policy != block {
		if err := k.queue(s, p, shared); err != nil {
			k.Close()
			return nil, err
		}
	}
	open.mu.Lock()
	defer open.mu.Unlock()
	open.sinks[k] = p.Trouble
	return k, nil
}

// queue puts a queue before every writer.
func (k *fileSink) queue(s settings, p port, shared *troubles) error {
	k.queues = map[sink.Stream]*backlog{}
	n, ring := len(k.writers), s.queue
	if s.policy == spill {
		ring = 0
	}
	mem, err := p.Memory(n * (pageSize + ring))
	if err != nil {
		return fmt.Errorf("memory for the queue: %w", err)
	}
	for i, w := range k.writers {
		page := mem[i*pageSize : (i+1)*pageSize]
		at := n*pageSize + i*ring
		r := mem[at : at+ring]
		if s.policy == spill {
			var fresh bool
			if r, fresh, err = openSpill(s, p, "spill-"+strconv.Itoa(i)); err != nil {
				return err
			}
			if k.rings = append(k.rings, r); fresh {
				clear(page[:ledgerSize])
			}
		}
		label(page, n, w.carried[0])
		q := newBacklog(page, r, s, w, p.Dropped, shared)
		for _, st := range w.carried {
			k.queues[st] = q
		}
		q.resume()
	}
	return nil
}

// openSpill maps the file of a ring, which has no name and so goes with its last descriptor, or that of an earlier process. All of
// its blocks are there from the beginning: a full disk is found out now.
func openSpill(s settings, p port, tag string) (ring []byte, fresh bool, err error) {
	var f *os.File
	if files := p.Parked(tag); len(files) == 1 {
		f = files[0]
	} else {
		fresh = true
		n, err := unix.Open(s.spillDir, unix.O_TMPFILE|unix.O_RDWR|unix.O_CLOEXEC, 0o600)
		if err != nil {
			return nil, false, fmt.Errorf("make a spill file in %s: %w; choose another directory with spill-dir=", s.spillDir, err)
		}
		f = os.NewFile(uintptr(n), "spill file")
		if err := unix.Fallocate(n, 0, 0, int64(s.queue)); err != nil {
			f.Close()
			return nil, false, fmt.Errorf("reserve %d bytes for the spill file in %s: %w; choose another directory with spill-dir=, "+
				"or less with queue=", s.queue, s.spillDir, err)
		}
	}
	defer f.Close()                        // the mapping stays
	if err := p.Park(tag, f); err != nil { // of an earlier process's too, for a successor
		return nil, false, err
	}
	raw, err := f.SyscallConn()
	if err != nil {
		return nil, false, err
	}
	var mapErr error
	err = raw.Control(func(fd uintptr) {
		ring, mapErr = unix.Mmap(int(fd), 0, s.queue, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	})
	if err := errors.Join(err, mapErr); err != nil {
		return nil, false, fmt.Errorf("map the spill file: %w", err)
	}
	return ring, fresh, nil
}

// Write puts out one chunk.
func (k *fileSink) Write(ctx context.Context, c *sink.Chunk) error {
	p := part{offset: c.Offset, data: c.Data, state: c.State(), missed: c.Missed, time: c.Time, last: c.Last, again: c.Again}
	if q := k.queues[c.Stream]; q != nil {
		return q.put(ctx, c.Stream, p, c)
	}
	return k.writer(c.Stream).put(ctx, p, c)
}

// writer is what writes a stream, with the policy block.
func (k *fileSink) writer(st sink.Stream) *stream {
	return k.writers[slices.IndexFunc(k.writers, func(w *stream) bool { return w.stream == st })]
}

// Rotate rotates the file of each stream, once where they share it.
func (k *fileSink) Rotate(ctx context.Context) error {
	rotated := map[string]bool{}
	for _, w := range k.writers {
		if path := pathAt(w.path, time.Now()); !rotated[path] {
			rotated[path] = true
			if err := w.rotate(ctx); err != nil {
				return err
			}
		}
	}
	return nil
}

// Close closes the files that no other opening writes.
func (k *fileSink) Close() error {
	var all []error
	k.open.mu.Lock()
	delete(k.open.sinks, k)
	k.open.mu.Unlock()
	for _, q := range k.queues {
		q.halt()
	}
	for _, q := range k.queues {
		q.end()
	}
	for _, w := range k.writers {
		all = append(all, w.close())
	}
	for _, ring := range k.rings {
		all = append(all, unix.Munmap(ring))
	}
	return errors.Join(all...)
}
