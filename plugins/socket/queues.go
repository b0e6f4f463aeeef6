package socket

import (
	"fmt"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// openQueues makes n queues in the opening's memory, or finds those of an earlier process. Those that have no owner are free.
func openQueues(s settings, p port, n int) ([]*queue, error) {
	ring := s.queue
	if s.policy == spill {
		ring = 0
	}
	ring = (ring + 7) &^ 7 // so that the next queue's words are aligned
	each := queueHeader + ring
	mem, err := p.Memory(n * each)
	if err != nil {
		return nil, fmt.Errorf("memory for the queue: %w", err)
	}
	f := newFraming(s.framing, p.child, !s.network.packets(), s.facility)
	var out []*queue
	for i := range n {
		m := mem[i*each : (i+1)*each]
		q := newQueue(m[:queueHeader], m[queueHeader:], f, s.policy, p.retries.New(), s.location())
		q.number, q.packets = i, s.network.packets()
		out = append(out, q)
	}
	return out, nil
}

// open gives a queue that has an owner what it needs beside its memory: the pipe, and with the policy spill the file of its
// ring. Both are parked.
func (q *queue) open(s settings, p port) (err error) {
	number := strconv.Itoa(q.number)
	if s.policy == spill && len(q.ring) == 0 {
		if err := q.openSpill(s, p, "spill-"+number); err != nil {
			return err
		}
	}
	if !s.network.spliced() || q.pipe != nil {
		return nil
	}
	tag := "pipe-" + number
	if q.pipe, err = newPipe(p.Parked(tag)); err != nil {
		return err
	}
	return p.Park(tag, q.pipe.r, q.pipe.w)
}

// openSpill makes the file of the ring, which has no name and so goes with its last descriptor, or finds that of an earlier
// process. All of its blocks are there from the beginning: a full disk is found out now.
func (q *queue) openSpill(s settings, p port, tag string) error {
	var f *os.File
	if files := p.Parked(tag); len(files) == 1 {
		f = files[0]
	} else {
		n, err := unix.Open(s.spillDir, unix.O_TMPFILE|unix.O_RDWR|unix.O_CLOEXEC, 0o600)
		if err != nil {
			return fmt.Errorf("make a spill file in %s: %w; choose another directory with spill-dir=", s.spillDir, err)
		}
		f = os.NewFile(uintptr(n), "spill file")
		if err := unix.Fallocate(n, 0, 0, int64(s.queue)); err != nil {
			f.Close()
			return fmt.Errorf("reserve %d bytes for the spill file in %s: %w; choose another directory with spill-dir=, "+
				"or less with queue=", s.queue, s.spillDir, err)
		}
		if err := p.Park(tag, f); err != nil {
			f.Close()
			return err
		}
	}
	var err error
	ctlErr := control(f, func(fd int) {
		q.ring, err = unix.Mmap(fd, 0, s.queue, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	})
	if ctlErr != nil || err != nil {
		f.Close()
		return fmt.Errorf("map the spill file: %w", err)
	}
	q.file = f
	return nil
}

// close lets go of what open has got; what is parked stays parked.
func (q *queue) close() {
	if q == nil {
		return
	}
	q.pipe.close()
	q.pipe = nil
	if q.file != nil {
		unix.Munmap(q.ring)
		q.file.Close()
		q.ring, q.file = nil, nil
	}
}
