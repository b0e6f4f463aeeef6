package keeper

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/muxd/muxd/internal/fd"
)

// A service manager that started muxd holds copies of what the keeper holds for plugins and their streams (sd_notify(3), FDSTORE), and
// gives them to the muxd that it starts next (sd_listen_fds(3)). So they outlive keeper, agent and plugin, killed together. A
// plugin's fd channel is not stored: that it ends is how the plugin knows.
//
// Nothing waits for the service manager: what it does not take now is told again later.
type store struct {
	sock  *fd.FD
	named map[string]bool // what it has under that name, as far as this process knows
	known bool            // it has nothing else
	dirty map[string]bool // names of which it has to be told
	retry *time.Timer     // nil: none is needed
	full  bool            // it was said already that not everything can be stored
}

// storePrefix begins the names that muxd's descriptors have there. Names have at most storeNameMost bytes of printable ASCII, and no
// colon.
const (
	storePrefix   = "muxd-"
	storeNameMost = 255
	storeRetry    = 100 * time.Millisecond
)

// openStore returns nil where no service manager is there. With fresh it has nothing of an earlier muxd.
func openStore(fresh bool) (*store, error) {
	path := os.Getenv("NOTIFY_SOCKET")
	if path == "" {
		return nil, nil
	}
	n, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("make a socket for the service manager: %w", err)
	}
	s := &store{sock: fd.New(n), named: map[string]bool{}, known: fresh, dirty: map[string]bool{}}
	if err := unix.Connect(n, &unix.SockaddrUnix{Name: path}); err != nil { // an @ becomes the zero of an abstract one
		s.sock.Close()
		return nil, fmt.Errorf("connect to the service manager at NOTIFY_SOCKET=%s: %w", path, err)
	}
	return s, nil
}

// stored says whether what the keeper holds under name is to be there.
func stored(name string) bool {
	return strings.HasPrefix(name, "far/") || strings.HasPrefix(name, "park/")
}

// changed has the service manager told of what the keeper holds under name now. k.mu is held.
func (k *keeper) changed(name string) {
	if k.store == nil || !stored(name) {
		return
	}
	k.store.dirty[name] = true
	if k.store.retry == nil {
		k.tellStore()
	}
}

// tellStore tells the service manager what it has to be told, as far as it takes it. k.mu is held.
func (k *keeper) tellStore() {
	s := k.store
	for name := range s.dirty {
		id := storeName(name)
		if id == "" {
			delete(s.dirty, name)
			continue
		}
		if s.named[name] || !s.known {
			if !k.send("FDSTOREREMOVE=1\nFDNAME="+id, nil) {
				return
			}
			delete(s.named, name)
		}
		if h := k.held.get(name); h != nil {
			if !k.send("FDSTORE=1\nFDPOLL=0\nFDNAME="+id, h.fd) {
				return
			}
			s.named[name] = true
		}
		delete(s.dirty, name)
	}
}

// send says false where the service manager does not take the message now; then it is tried again.
func (k *keeper) send(text string, f *fd.FD) bool {
	s := k.store
	var rights []byte
	if f != nil {
		rights = unix.UnixRights(f.Int())
	}
	err := unix.Sendmsg(s.sock.Int(), []byte(text), rights, nil, unix.MSG_NOSIGNAL)
	switch err {
	case nil:
		return true
	case unix.EAGAIN, unix.ENOBUFS, unix.EINTR, unix.ETOOMANYREFS:
		s.retry = time.AfterFunc(storeRetry, func() {
			k.mu.Lock()
			defer k.mu.Unlock()
			s.retry = nil
			if !k.ending {
				k.tellStore()
			}
		})
		return false
	}
	if !s.full {
		s.full = true
		k.logf("the service manager does not take copies of descriptors: %v", err)
	}
	return true
}

// storeName is name as the service manager takes it; "" where it cannot be.
func storeName(name string) string {
	var b strings.Builder
	b.WriteString(storePrefix)
	for i := range len(name) {
		if c := name[i]; c <= ' ' || c >= 0x7f || c == ':' || c == '%' {
			fmt.Fprintf(&b, "%%%02x", c)
		} else {
			b.WriteByte(c)
		}
	}
	if b.Len() > storeNameMost {
		return ""
	}
	return b.String()
}

// nameOf is the name of which storeName has made id.
func nameOf(id string) (string, bool) {
	id, ok := strings.CutPrefix(id, storePrefix)
	if !ok {
		return "", false
	}
	var b strings.Builder
	for i := 0; i < len(id); i++ {
		if id[i] != '%' {
			b.WriteByte(id[i])
			continue
		}
		if i+2 >= len(id) {
			return "", false
		}
		c, err := strconv.ParseUint(id[i+1:i+3], 16, 8)
		if err != nil {
			return "", false
		}
		b.WriteByte(byte(c))
		i += 2
	}
	return b.String(), b.Len() > 0
}

// listenFDs takes what the service manager gives to this process, by name, and the variables that say so out of the environment, so that
// no other process believes them.
func listenFDs() map[string]*fd.FD {
	pid, _ := strconv.Atoi(os.Getenv("LISTEN_PID"))
	n, _ := strconv.Atoi(os.Getenv("LISTEN_FDS"))
	names := strings.Split(os.Getenv("LISTEN_FDNAMES"), ":")
	for _, v := range []string{"LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"} {
		os.Unsetenv(v)
	}
	if pid != os.Getpid() {
		return nil
	}
	out := map[string]*fd.FD{}
	for i := range n {
		f := fd.New(3 + i) // SD_LISTEN_FDS_START
		unix.CloseOnExec(f.Int())
		name, ok := "", false
		if i < len(names) {
			name, ok = nameOf(names[i])
		}
		if !ok || !stored(name) || out[name] != nil {
			f.Close()
			continue
		}
		out[name] = f
	}
	return out
}

// takeStored holds what the service manager has kept.
func (k *keeper) takeStored(kept map[string]*fd.FD) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for name, f := range kept {
		k.held.tree.ReplaceOrInsert(&held{name: name, fd: f})
		if k.store != nil {
			k.store.named[name] = true
		}
	}
	if len(kept) > 0 {
		k.logf("the service manager has kept %d descriptors of the muxd before", len(kept))
	}
}
