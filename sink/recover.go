package sink

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/muxd/muxd/internal/fd"
	"github.com/muxd/muxd/internal/fdchan"
	"github.com/muxd/muxd/internal/stage"
	"github.com/muxd/muxd/sink/sinkpb"
)

// Names of what the SDK parks beside the engine's own.
const parkMemory = "mem/" // and the opening

// parkTry is how long an acknowledgement may take before what is parked is sent again: an agent may have been killed between taking
// it and answering.
const parkTry = 3 * time.Second

// park has muxd hold copies of fds under name until this process's successor wants them.
func (s *server) park(name string, fds ...int) error {
	for {
		ctx, cancel := context.WithTimeout(context.Background(), parkTry)
		err := s.ep.Park(ctx, name, fds...)
		cancel()
		if !errors.Is(err, context.DeadlineExceeded) {
			return err
		}
	}
}

// Recover keeps what a predecessor parked until the openings that it belongs to come again.
func (s *server) Recover(ctx context.Context, req *sinkpb.RecoverRequest) (*sinkpb.RecoverResponse, error) {
	t, err := fdchan.TicketFrom(req.Ticket)
	if err != nil {
		return nil, status.Error(codes.InvalidArgument, err.Error())
	}
	total := 0
	for _, p := range req.Parked {
		total += int(p.Fds)
	}
	d, err := s.ep.Take(ctx, t, total)
	if err != nil {
		return nil, openError(err)
	}
	var useless []string
	s.mu.Lock()
	for _, id := range req.Live {
		s.live[id] = true
	}
	rest := d.FDs
	for _, p := range req.Parked {
		fds := rest[:p.Fds]
		rest = rest[p.Fds:]
		id, isMemory := strings.CutPrefix(p.Name, parkMemory)
		if isMemory && !s.live[id] || s.recovered[p.Name] != nil {
			fd.CloseAll(fds)
			if isMemory {
				useless = append(useless, p.Name)
			}
			continue
		}
		s.recovered[p.Name] = fds
	}
	s.mu.Unlock()
	if err := d.Ack(); err != nil {
		return nil, openError(err)
	}
	for _, name := range useless {
		if err := s.park(name); err != nil {
			return nil, openError(err)
		}
	}
	return &sinkpb.RecoverResponse{}, nil
}

// engine makes the engine when it is first needed, from what a predecessor left if there was one.
func (s *server) engine() (*stage.Engine, error) {
	s.starting.Lock()
	defer s.starting.Unlock()
	if s.eng != nil {
		return s.eng, nil
	}
	parked := map[string][]*fd.FD{}
	s.mu.Lock()
	for name, fds := range s.recovered {
		if !strings.HasPrefix(name, parkMemory) {
			parked[name] = fds
			delete(s.recovered, name)
		}
	}
	s.mu.Unlock()
	eng, err := stage.New(stage.Options{
		Park: s.park, Parked: parked,
		Live: func(key string) bool {
			s.mu.Lock()
			defer s.mu.Unlock()
			return s.live[key[:max(strings.LastIndexByte(key, '/'), 0)]]
		},
	})
	s.eng = eng
	return eng, err
}

// parkedMemory is Opening.Memory.
func (o *opening) parkedMemory(size int) ([]byte, error) {
	if o.pub.memory != nil {
		if len(o.pub.memory) != size {
			return nil, fmt.Errorf("sink: memory of %d bytes, and it has %d", size, len(o.pub.memory))
		}
		return o.pub.memory, nil
	}
	name := parkMemory + o.pub.ID
	o.srv.mu.Lock()
	left := o.srv.recovered[name]
	delete(o.srv.recovered, name)
	o.srv.mu.Unlock()
	defer fd.CloseAll(left)
	var f *fd.FD
	if len(left) == 1 {
		f = left[0]
	} else {
		n, err := unix.MemfdCreate("muxd-opening", unix.MFD_CLOEXEC)
		if err != nil {
			return nil, fmt.Errorf("make memory: %w", err)
		}
		f = fd.New(n)
		defer f.Close()
		if err := unix.Ftruncate(n, int64(size)); err != nil {
			return nil, fmt.Errorf("size memory: %w", err)
		}
		if err := o.srv.park(name, n); err != nil {
			return nil, fmt.Errorf("park memory: %w", err)
		}
	}
	var st unix.Stat_t
	if err := unix.Fstat(f.Int(), &st); err != nil || st.Size != int64(size) {
		return nil, fmt.Errorf("memory of a predecessor has %d bytes, want %d", st.Size, size)
	}
	b, err := unix.Mmap(f.Int(), 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return nil, fmt.Errorf("map memory: %w", err)
	}
	o.pub.memory = b
	return b, nil
}

// dropMemory gives the opening's memory back, when nobody will come again for it.
func (o *opening) dropMemory(forget bool) {
	if o.pub.memory == nil {
		return
	}
	unix.Munmap(o.pub.memory)
	o.pub.memory = nil
	if forget {
		o.srv.park(parkMemory + o.pub.ID)
	}
}
