package host

import (
	"context"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/muxd/muxd/core/keeper"
	"github.com/muxd/muxd/sink/sinkpb"
)

// fileID tells one content of an executable from another: an executable that runs cannot be written to (ETXTBSY, open(2)), so a new one
// is another file, and a script that is changed has another time or size.
type fileID struct {
	Dev   uint64 `json:"dev"`
	Ino   uint64 `json:"ino"`
	Size  int64  `json:"size"`
	Mtime int64  `json:"mtime"` // Unix nanoseconds
}

// path is where c is executed.
func (c Command) path() string {
	if c.Self {
		return keeper.Self
	}
	return c.Path
}

// file looks at c's executable.
func (c Command) file() (fileID, error) {
	var st unix.Stat_t
	if err := unix.Stat(c.path(), &st); err != nil {
		return fileID{}, &os.PathError{Op: "stat", Path: c.Path, Err: err}
	}
	return fileID{Dev: st.Dev, Ino: st.Ino, Size: st.Size, Mtime: st.Mtim.Nano()}, nil
}

// Changed says whether the plugin would be another program if it were started now.
func (p *Plugin) Changed() (bool, error) {
	c, err := p.host.o.Lookup(p.name)
	if err != nil {
		return false, err
	}
	now, err := c.file()
	return now != p.file, err
}

// Builtin says whether the plugin is part of this program.
func (p *Plugin) Builtin() bool { return p.command.Self }

// Try starts the plugin of that name once more, beside the one that runs, and ends it after the handshake: it says whether that would
// work.
func (h *Host) Try(name string) error {
	h.mu.Lock()
	h.starts++
	p := newPlugin(h, name, fmt.Sprintf("%s%s/%d-%d-%d", KeyPrefix, name, time.Now().UnixNano(), os.Getpid(), h.starts))
	h.mu.Unlock()
	err := p.launch(func(context.Context) error { return nil })
	if err != nil {
		h.fail(p, err)
		return err
	}
	p.client.Kill()
	<-p.exited
	p.fds.Close()
	p.removeSocket()
	h.dropEnds(p.key)
	h.o.Keeper.Forget(context.Background(), p.key)
	return nil
}

// Replace ends the process for a successor to go on, when it has put out what it has taken, and waits for it.
func (p *Plugin) Replace() {
	p.stopping.Store(true)
	p.pause()
	p.Kill()
}

// pauseMost is how long the plugin may take to put out the chunks that it has in hand.
const pauseMost = 5 * time.Second

// pause has the plugin take nothing more from its streams, and returns when it has put out what it has taken, or does not in time: what
// is left then its successor finds.
func (p *Plugin) pause() {
	ctx, cancel := context.WithTimeout(context.Background(), pauseMost)
	defer cancel()
	p.sinks.Pause(ctx, &sinkpb.PauseRequest{}) // an error is that of a plugin that cannot: it dies as any plugin may
}
