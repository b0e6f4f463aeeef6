package keeper

import (
	"errors"
	"fmt"
	"net"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"

	"github.com/muxd/muxd/core/keeper/keeperpb"
	"github.com/muxd/muxd/internal/fd"
	"github.com/muxd/muxd/internal/fdchan"
)

// session is the keeper channel with one agent, from its start to its death. Two goroutines own it, one that
// receives and handles, one that sends; end waits for both.
type session struct {
	k      *keeper
	conn   *fdchan.Conn
	uc     *net.UnixConn // the same
	served bool          // it has sent a request; guarded by keeper.mu

	both sync.WaitGroup

	mu     sync.Mutex
	queue  []parcel
	closed bool
	more   chan struct{} // the queue has something, or closed is set
}

// parcel is a message to send, and its descriptors, which it owns.
type parcel struct {
	id  uint64
	b   []byte
	fds []*fd.FD
}

// newSession takes ownership of f.
func newSession(k *keeper, f *fd.FD) (*session, error) {
	conn, uc, err := newChannel(f)
	if err != nil {
		return nil, err
	}
	return &session{k: k, conn: conn, uc: uc, more: make(chan struct{}, 1)}, nil
}

func (s *session) start() {
	s.both.Add(2)
	go s.receive()
	go s.send()
}

// end takes what the agent has sent so far, and closes the channel.
func (s *session) end() {
	s.uc.CloseRead() // what is queued is still received, then comes the end of file
	s.both.Wait()
}

func (s *session) receive() {
	defer s.both.Done()
	for {
		m, fds, err := receive(s.conn)
		switch {
		case errors.Is(err, fdchan.ErrTruncated), errors.Is(err, fdchan.ErrMalformed):
			s.k.logf("a message of the agent was dropped: %v", err)
			continue
		case err != nil:
			s.hangUp()
			return
		}
		s.dispatch(m, fds)
	}
}

// hangUp closes the channel. An agent that closed its end and lives on would never be heard of again: it dies
// for that, and the next one starts.
func (s *session) hangUp() {
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	poke(s.more)
	s.conn.Close()

	k := s.k
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.session == s && k.agent.pid != 0 && !k.ending {
		k.signalAgent(syscall.SIGKILL)
	}
}

// dispatch handles one message. Whatever descriptors a handler has not taken (and put nil in their place) are
// closed here.
func (s *session) dispatch(m *keeperpb.Message, fds []*fd.FD) {
	defer func() { fd.CloseAll(fds) }()
	r := m.GetRequest()
	if r == nil {
		s.k.logf("a message of the agent was dropped: it is no request")
		return
	}
	k := s.k
	k.mu.Lock()
	defer k.mu.Unlock()
	if !s.served {
		s.served = true
		poke(k.serving)
	}
	if w, ok := r.GetWhat().(*keeperpb.Request_Spawn); ok {
		// Not under the lock: the queue of spawns may be full.
		k.mu.Unlock()
		s.queueSpawn(r.GetId(), w.Spawn, fds)
		k.mu.Lock()
		return
	}
	if reply, out := k.handle(s, r, fds); reply != nil {
		s.answer(reply, out...)
	}
	if k.reapSoon { // after the answer, since the exit comes after it
		k.reapSoon = false
		k.reapLocked()
	}
}

// handle does what r asks and returns the reply, whose descriptors are owned by the caller. k.mu is held.
func (k *keeper) handle(s *session, r *keeperpb.Request, fds []*fd.FD) (*keeperpb.Reply, []*fd.FD) {
	var err *Error
	reply := &keeperpb.Reply{Id: r.GetId()}
	var out []*fd.FD
	switch w := r.GetWhat().(type) {
	case *keeperpb.Request_Signal:
		if p := k.procs[w.Signal.GetKey()]; p == nil {
			err = fail(syscall.ESRCH, "no process has the key %s", w.Signal.GetKey())
		} else {
			err = p.signal(syscall.Signal(w.Signal.GetSignal()), w.Signal.GetGroup())
		}
	case *keeperpb.Request_Kill:
		err = k.kill(w.Kill.GetKey(), w.Kill.GetCgroup())
	case *keeperpb.Request_Hold:
		err = k.hold(w.Hold, fds)
	case *keeperpb.Request_Fetch:
		out, err = k.fetch(w.Fetch.GetName())
	case *keeperpb.Request_Drop:
		k.drop(w.Drop.GetName(), w.Drop.GetPrefix())
	case *keeperpb.Request_List:
		reply.Held, reply.Processes = k.holdings(), k.list()
	case *keeperpb.Request_Forget:
		if prefix := w.Forget.GetDrop(); prefix != "" {
			k.drop(prefix, true)
		}
		if err = k.forget(w.Forget.GetKey()); err == nil {
			k.groups.remove(w.Forget.GetCgroup())
		}
	case *keeperpb.Request_Watch:
		reply.Process, err = k.watch(w.Watch, fds)
	case *keeperpb.Request_Follow:
		reply.Process, err = k.follow(w.Follow, fds)
	case *keeperpb.Request_Accept:
		err = k.accept(w.Accept)
	case *keeperpb.Request_Arm:
		err = k.arm(w.Arm.GetNames())
	case *keeperpb.Request_Upgrade:
		if err = k.queueUpgrade(r.GetId(), fds); err == nil {
			return nil, nil
		}
	case *keeperpb.Request_Profile:
		if err = k.queueProfile(s, r.GetId(), w.Profile, fds); err == nil {
			return nil, nil
		}
	case *keeperpb.Request_Ready:
		k.before.Close()
	case *keeperpb.Request_Stop:
		poke(k.stop)
		return nil, nil
	default:
		err = fail(syscall.ENOSYS, "this keeper does not know the request (is the agent a newer muxd?)")
	}
	if err != nil {
		return err.reply(r.GetId()), nil
	}
	return reply, out
}

// answer queues a reply. It takes ownership of fds.
func (s *session) answer(r *keeperpb.Reply, fds ...*fd.FD) {
	s.put(r.GetId(), &keeperpb.Message{What: &keeperpb.Message_Reply{Reply: r}}, fds)
}

// tell queues a message that is no reply. A nil session drops it: the next agent asks with List.
func (s *session) tell(m *keeperpb.Message) {
	if s != nil {
		s.put(0, m, nil)
	}
}

// put never blocks: an agent that does not read holds up neither the reaper nor a spawn. The queue is bounded
// by what the agent has asked for and by the number of processes.
func (s *session) put(id uint64, m *keeperpb.Message, fds []*fd.FD) {
	b, err := proto.Marshal(m)
	if err == nil && len(b) > maxMessage {
		err = fmt.Errorf("answer of %d bytes, the most is %d: %w", len(b), maxMessage, syscall.EMSGSIZE)
	}
	if err != nil {
		fd.CloseAll(fds)
		b, fds = failure(id, err), nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		fd.CloseAll(fds)
		return
	}
	s.queue = append(s.queue, parcel{id: id, b: b, fds: fds})
	poke(s.more)
}

// failure is the reply that says that the reply could not be sent.
func failure(id uint64, cause error) []byte {
	e := &Error{Text: cause.Error()}
	errors.As(cause, &e.Errno)
	b, err := proto.Marshal(&keeperpb.Message{What: &keeperpb.Message_Reply{Reply: e.reply(id)}})
	if err != nil { // a text that is no UTF-8
		return nil
	}
	return b
}

func (s *session) send() {
	defer s.both.Done()
	for range s.more {
		s.mu.Lock()
		queue, closed := s.queue, s.closed
		s.queue = nil
		s.mu.Unlock()
		for _, p := range queue {
			err := send(s.conn, p.b, fd.Ints(p.fds)...)
			if errors.Is(err, unix.ETOOMANYREFS) || errors.Is(err, unix.EMFILE) {
				send(s.conn, failure(p.id, err)) // of any other error the receiver hears too
			}
			fd.CloseAll(p.fds)
		}
		if closed {
			return
		}
	}
}
