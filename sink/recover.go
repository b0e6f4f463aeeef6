package sink

import (
	"context"
	"fmt"
	"strings"

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
	d, err := s.ep().Take(ctx, t, total)
	if err != nil {
		return nil, openError(err)
	}
	var useless []string
	s.mu.Lock()
	s.crashed = req.Crashed
	for _, id := range req.Live {
		s.live[id] = true
	}
	rest := d.FDs
	for _, p := range req.Parked {
		fds := rest[:p.Fds]
		rest = rest[p.Fds:]
		id, isOwn := strings.CutPrefix(p.Name, parkMemory)
		if !isOwn {
			id, _, isOwn = ownName(p.Name)
		}
		if isOwn && !s.live[id] || s.recovered[p.Name] != nil {
			fd.CloseAll(fds)
			if isOwn {
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
	eng, err := stage.New(s.stageOptions(func(name string) bool {
		return !strings.HasPrefix(name, parkMemory) && !strings.HasPrefix(name, parkOwn) && !strings.HasPrefix(name, stage.ParkFan)
	}))
	if err != nil {
		return nil, err
	}
	s.eng = eng
	if s.plugin.Recover != nil {
		var chunks []Pending
		for _, p := range eng.Pending() {
			at := strings.LastIndexByte(p.Key, '/')
			chunks = append(chunks, Pending{Opening: p.Key[:at], Stream: streamNamed(p.Key[at+1:]), Intent: p.Intent})
		}
		memories, unmap, err := s.leftMemories()
		if err != nil {
			return nil, err
		}
		s.plugin.Recover(append(chunks, memories...))
		unmap()
	}
	return eng, nil
}

// leftMemories maps what a predecessor had as its openings' memories.
func (s *server) leftMemories() (left []Pending, unmap func(), err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	unmap = func() {
		for _, p := range left {
			unix.Munmap(p.Memory)
		}
	}
	for name, fds := range s.recovered {
		id, ok := strings.CutPrefix(name, parkMemory)
		if !ok || len(fds) != 1 {
			continue
		}
		var st unix.Stat_t
		if err := unix.Fstat(fds[0].Int(), &st); err != nil || st.Size == 0 {
			continue
		}
		b, err := unix.Mmap(fds[0].Int(), 0, int(st.Size), unix.PROT_READ, unix.MAP_SHARED)
		if err != nil {
			unmap()
			return nil, nil, fmt.Errorf("map the memory of a predecessor: %w", err)
		}
		left = append(left, Pending{Opening: id, Memory: b})
	}
	return left, unmap, nil
}

// stageOptions are those of an engine that takes what a predecessor parked under such names.
func (s *server) stageOptions(mine func(name string) bool) stage.Options {
	parked := map[string][]*fd.FD{}
	s.mu.Lock()
	crashed := s.crashed
	for name, fds := range s.recovered {
		if mine(name) {
			parked[name] = fds
			delete(s.recovered, name)
		}
	}
	s.mu.Unlock()
	return stage.Options{
		Park: s.park, Parked: parked, Crashed: crashed,
		Live: func(key string) bool {
			s.mu.Lock()
			defer s.mu.Unlock()
			return s.live[key[:max(strings.LastIndexByte(key, '/'), 0)]]
		},
	}
}

// streamNamed is the stream of that name; 0: there is none.
func streamNamed(name string) Stream {
	for s, n := range streamNames {
		if n == name {
			return s
		}
	}
	return 0
}

// parkedMemory is Opening.Memory.
func (o *opening) parkedMemory(size int) ([]byte, error) {
	own := 0 // behind it, for the SDK itself
	if o.srv.plugin.OpenConsole != nil {
		own = typedBytes()
	}
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
	defer func() { fd.CloseAll(left) }()
	var f *fd.FD
	if len(left) == 1 {
		f, left = left[0], nil
	} else {
		n, err := unix.MemfdCreate("muxd-opening", unix.MFD_CLOEXEC)
		if err != nil {
			return nil, fmt.Errorf("make memory: %w", err)
		}
		f = fd.New(n)
		if err := unix.Ftruncate(n, int64(size+own)); err != nil {
			f.Close()
			return nil, fmt.Errorf("size memory: %w", err)
		}
		o.parking.Lock()
		defer o.parking.Unlock()
		o.setMemory(f)
		if err := o.srv.park(name, n); err != nil {
			o.setMemory(nil)
			f.Close()
			return nil, fmt.Errorf("park memory: %w", err)
		}
	}
	var st unix.Stat_t
	if err := unix.Fstat(f.Int(), &st); err != nil || st.Size != int64(size+own) {
		o.setMemory(nil)
		f.Close()
		return nil, fmt.Errorf("memory of a predecessor has %d bytes, want %d", st.Size, size+own)
	}
	b, err := unix.Mmap(f.Int(), 0, size+own, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		o.setMemory(nil)
		f.Close()
		return nil, fmt.Errorf("map memory: %w", err)
	}
	o.setMemory(f)
	o.mapped, o.pub.memory = b, b[:size:size]
	if own > 0 {
		o.leftTyped(b[size:])
	}
	return o.pub.memory, nil
}

func (o *opening) setMemory(f *fd.FD) {
	o.srv.mu.Lock()
	defer o.srv.mu.Unlock()
	o.memoryFD = f
}

// dropMemory gives the opening's memory back, when nobody will come again for it.
func (o *opening) dropMemory(forget bool) {
	if o.pub.memory == nil {
		return
	}
	o.srv.mu.Lock()
	o.typedTable = nil // viewers have left
	o.srv.mu.Unlock()
	unix.Munmap(o.mapped)
	o.mapped, o.pub.memory = nil, nil
	o.srv.mu.Lock()
	o.memoryFD.Close()
	o.srv.mu.Unlock()
	if forget {
		o.parking.Lock()
		defer o.parking.Unlock()
		o.srv.park(parkMemory + o.pub.ID)
	}
}

// Repark parks everything again: whoever held it has died.
func (s *server) Repark(ctx context.Context, _ *sinkpb.ReparkRequest) (*sinkpb.ReparkResponse, error) {
	s.starting.Lock()
	eng, copier := s.eng, s.copier
	s.starting.Unlock()
	if eng != nil {
		if err := eng.Repark(); err != nil {
			return nil, openError(err)
		}
	}
	if copier != nil {
		if err := copier.Repark(); err != nil {
			return nil, openError(err)
		}
	}
	s.mu.Lock()
	var all []*opening
	for _, o := range s.openings {
		all = append(all, o)
	}
	s.mu.Unlock()
	for _, o := range all {
		select {
		case <-o.opened: // for an agent that died: what the call makes is there by now
		case <-ctx.Done():
			return nil, openError(context.Cause(ctx))
		}
		if err := o.repark(ctx); err != nil {
			return nil, openError(err)
		}
	}
	return &sinkpb.ReparkResponse{}, nil
}

// repark parks what o has, the far ends of its streams, and the pipes of its branches.
func (o *opening) repark(ctx context.Context) error {
	o.parking.Lock()
	defer o.parking.Unlock()
	copies := map[string][]*fd.FD{}
	defer func() {
		for _, fds := range copies {
			fd.CloseAll(fds)
		}
	}()
	keep := func(name string, f *fd.FD, err error) {
		if err == nil { // what is closed has just ended
			copies[name] = append(copies[name], f)
		}
	}
	o.srv.mu.Lock()
	flows := o.flows
	o.srv.mu.Unlock()
	for _, f := range flows {
		if src, ok := f.src.(*stage.Source); ok {
			if d, err := src.DupGaps(); d != nil {
				keep("far/"+o.pub.ID+"/gaps", d, err)
			}
		}
		if f.into != nil {
			for end, d := range f.into.DupBranches() {
				keep("far/"+end, d, nil)
			}
		}
	}
	o.srv.mu.Lock()
	if o.memoryFD.Int() >= 0 {
		f, err := o.memoryFD.Dup()
		keep(parkMemory+o.pub.ID, f, err)
	}
	for _, f := range o.flows {
		if !f.flushed && f.failed == "" {
			d, err := f.src.Dup()
			keep("far/"+o.pub.ID+"/"+f.stream.String(), d, err)
		}
	}
	if o.pub.Input != nil && o.input == nil {
		d, err := fd.DupFile(o.pub.Input.file)
		keep("far/"+o.pub.ID+"/"+Stdin.String(), d, err)
	}
	for tag, files := range o.parked {
		for _, f := range files {
			d, err := dupConn(f)
			keep(parkOwn+o.pub.ID+"/"+tag, d, err)
		}
	}
	o.srv.mu.Unlock()
	for name, fds := range copies {
		if err := o.srv.parkFor(ctx, name, fd.Ints(fds)...); err != nil {
			return err
		}
	}
	return nil
}
