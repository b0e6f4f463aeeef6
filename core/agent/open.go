package agent

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/muxd/muxd/control/controlpb"
	"github.com/muxd/muxd/internal/fd"
	"github.com/muxd/muxd/internal/fdchan"
	"github.com/muxd/muxd/sink/sinkpb"
)

// checkCaller says whether what a client sent fits the sinks that were chosen.
func checkCaller(c *child, by caller) error {
	inherits := 0
	for _, ch := range c.sinks {
		if ch.wiring == wiringInherit {
			inherits += len(ch.streams)
		}
	}
	got := 0
	if by.fds != nil {
		got = len(by.fds.FDs)
	}
	switch {
	case inherits > 0 && c.spec.Restart != controlpb.Restart_NO:
		return errors.New("sink inherit: what a caller lent is gone when the child is started again; use another sink, or restart no")
	case by.forks && got == 0:
	case inherits != got:
		return fmt.Errorf("sink inherit: %d descriptors of the caller came for %d streams; it works with muxctl run and spawn only", got, inherits)
	}
	return nil
}

// open wires the streams of one choice: it makes the descriptors of the child, in near, and gives the far ends away.
func (a *Agent) open(ctx context.Context, c *child, ch *choice, n int, pbChild *sinkpb.Child, near *nearEnds, by caller) error {
	switch ch.wiring {
	case wiringNull:
		return a.openNull(c, ch, near)
	case wiringInherit:
		return a.openInherit(c, ch, near, by)
	case wiringSocket:
		return a.openSocket(ctx, c, ch, n, pbChild, near)
	}
	switch {
	case ch.from != nil:
		return nil // opened together with what copies the stream to it
	case ch.copies:
		return a.openCopied(ctx, c, ch, n, pbChild, near)
	}
	o, err := a.newOpening(ctx, c, ch, n)
	if err != nil {
		return err
	}
	req := &sinkpb.OpenRequest{
		Opening: o.id, Spec: wireSpec(ch.spec), Child: pbChild, Streams: ch.streams,
		Size: &sinkpb.Size{Rows: c.spec.Size.Rows, Cols: c.spec.Size.Cols},
	}
	if ch.piped() {
		err = a.openPipes(ctx, c, o, req, near)
	} else {
		err = a.openMade(ctx, c, o, req, near)
	}
	if err != nil {
		return a.unopened(o, err)
	}
	if err := a.openLog(ctx, c, o, pbChild, near.keep); err != nil {
		return err
	}
	for i, s := range o.streams {
		ns := ch.near()
		if s.holder, err = holderOf(near.std[ns[min(i, len(ns)-1)]].Int()); err != nil {
			return fmt.Errorf("look at a near end: %w", err)
		}
	}
	return nil
}

// newOpening notes the n-th opening of a run, whose plugin is started if it does not run.
func (a *Agent) newOpening(ctx context.Context, c *child, ch *choice, n int) (*opening, error) {
	p, err := a.host.Get(ctx, ch.spec.Name)
	if err != nil {
		return nil, invalid(err)
	}
	o := &opening{id: openingID(c.id(), c.rec.Run, n), run: c.rec.Run, child: c, choice: ch}
	o.plugin.Store(p)
	a.note(c, ch, o)
	return o, nil
}

// unopened says that nothing will be told of o, which could not be opened, so that undo need not wait for it. It returns err.
func (a *Agent) unopened(o *opening, err error) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, s := range o.streams {
		s.done = true
	}
	if p := o.plugin.Load(); p != nil && p.Bounds() != nil && status.Code(err) == codes.PermissionDenied {
		return status.Errorf(codes.PermissionDenied, "%s; what the plugin may reach are paths and read_paths in [plugins.%s] of the configuration",
			status.Convert(err).Message(), p.Name())
	}
	return plainStatus(err)
}

// openingID names the n-th opening of a run for ever.
func openingID(child string, run uint32, n int) string { return fmt.Sprintf("%s/%d/%d", child, run, n) }

// note records an opening, so that what its plugin tells finds it.
func (a *Agent) note(c *child, ch *choice, o *opening) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, s := range ch.streams {
		rec := &controlpb.Sink{
			Stream: ch.streamOf(s), Spec: ch.text, Plugin: ch.spec.Name, Wiring: ch.wiring, State: "open",
			Location: ch.location,
		}
		if ch.from != nil && !ch.copies {
			rec.Branch, rec.Policy = c.nextBranch(rec.Stream), policyName(ch.policy)
		}
		c.rec.Sinks = append(c.rec.Sinks, rec)
		if o == nil {
			rec.Plugin = ""
			continue
		}
		// Nothing is told of a stdin, or of what has no far end: these end with the child.
		untold := s == sinkpb.Stream_STDIN || ch.wiring == "direct"
		st := &stream{kind: s, rec: rec, as: ch, done: untold}
		if ch.from != nil {
			st.branch = o.id
		}
		o.streams = append(o.streams, st)
	}
	if o != nil {
		c.openings = append(c.openings, o)
		a.openings[o.id] = o
	}
}

// nextBranch numbers the next branch of a stream. Agent.mu is held.
func (c *child) nextBranch(stream string) uint32 {
	n := uint32(0)
	for _, r := range c.rec.Sinks {
		if r.Stream == stream {
			n = max(n, r.Branch)
		}
	}
	return n + 1
}

func (a *Agent) openNull(c *child, ch *choice, near *nearEnds) error {
	for _, i := range ch.near() {
		flags := os.O_WRONLY
		if i == 0 {
			flags = os.O_RDONLY
		}
		n, err := unix.Open(os.DevNull, flags|unix.O_CLOEXEC, 0)
		if err != nil {
			return spawnError(fmt.Errorf("open %s: %w", os.DevNull, err))
		}
		near.std[i] = fd.New(n)
	}
	a.note(c, ch, nil)
	return nil
}

// openInherit uses what the caller sent: one descriptor for each stream, in their order. Where the client forks the child
// they stay there.
func (a *Agent) openInherit(c *child, ch *choice, near *nearEnds, by caller) error {
	a.note(c, ch, nil)
	if c.forks {
		return nil
	}
	for k, s := range inherited(c) {
		if i := int(s) - 1; slices.Contains(ch.near(), i) {
			d, err := by.fds.FDs[k].Dup()
			if err != nil {
				return spawnError(err)
			}
			near.std[i] = d
		}
	}
	return nil
}

// inherited lists the streams of c that are the caller's own, in their order.
func inherited(c *child) []sinkpb.Stream {
	var out []sinkpb.Stream
	for _, ch := range c.sinks {
		if ch.wiring == wiringInherit {
			out = append(out, ch.streams...)
		}
	}
	slices.Sort(out)
	return out
}

// openPipes makes the ends of each stream and gives the far ones to the plugin.
func (a *Agent) openPipes(ctx context.Context, c *child, o *opening, req *sinkpb.OpenRequest, near *nearEnds) error {
	ours, far, err := o.choice.ends()
	for i, s := range o.choice.streams[:len(ours)] {
		near.std[int(s)-1] = ours[i]
		near.keep(farPrefix(c.id())+o.id+"/"+streamName(s), far[i])
	}
	if err != nil {
		return spawnError(err)
	}
	return o.plugin.Load().Give(ctx, fd.Ints(far), func(ctx context.Context, ticket []byte) error {
		req.Ticket = ticket
		_, err := o.sinks().Open(ctx, req)
		return err
	})
}

// openMade has the plugin make the near ends: a terminal, or files.
func (a *Agent) openMade(ctx context.Context, c *child, o *opening, req *sinkpb.OpenRequest, near *nearEnds) error {
	d, wait, err := o.plugin.Load().Take(ctx, func(ctx context.Context, ticket []byte) error {
		req.Ticket = ticket
		_, err := o.sinks().Open(ctx, req)
		return err
	})
	if err != nil {
		return err
	}
	if err := a.takeMade(ctx, c, o, d, near); err != nil {
		d.Refuse(err)
		wait()
		return spawnError(err)
	}
	if err := d.Ack(); err != nil {
		return spawnError(err)
	}
	return wait()
}

// takeMade checks what a plugin made, and puts it where it belongs. The keeper holds the far end of a terminal
// before the plugin is told that it is safe.
func (a *Agent) takeMade(ctx context.Context, c *child, o *opening, d *fdchan.Delivery, near *nearEnds) error {
	if o.choice.wiring == wiringPTY {
		if len(d.FDs) != 2 {
			return fmt.Errorf("sink %s gave %d descriptors for a terminal pair", o.choice.spec.Name, len(d.FDs))
		}
		tty, master := d.FDs[0], d.FDs[1]
		if err := checkPair(master, tty); err != nil {
			return fmt.Errorf("sink %s: %w", o.choice.spec.Name, err)
		}
		for _, i := range o.choice.near() {
			if near.std[i] != nil {
				continue // a stream of its own
			}
			n, err := tty.Dup()
			if err != nil {
				return err
			}
			near.std[i] = n
		}
		near.terminal = true
		tty.Close()
		name := farPrefix(c.id()) + o.id + "/console"
		if err := a.keeper.Hold(ctx, name, nil, master.Int()); err != nil {
			return err
		}
		return master.Close()
	}
	if len(d.FDs) != len(o.choice.streams) {
		return fmt.Errorf("sink %s gave %d descriptors for %d streams", o.choice.spec.Name, len(d.FDs), len(o.choice.streams))
	}
	for k, i := range o.choice.near() {
		near.std[i] = d.FDs[k]
		d.FDs[k] = nil
	}
	return nil
}

// checkPair says whether two descriptors are the two sides of one pseudoterminal (TIOCGPTN, ioctl_tty(2)).
func checkPair(master, tty *fd.FD) error {
	n, err := unix.IoctlGetInt(master.Int(), unix.TIOCGPTN)
	if err != nil {
		return fmt.Errorf("it gave something that is no PTY master: %w", err)
	}
	var st unix.Stat_t
	if err := unix.Fstat(tty.Int(), &st); err != nil {
		return err
	}
	// Unix98 terminal sides have majors 136 to 143 (Documentation/admin-guide/devices.txt).
	major, minor := unix.Major(st.Rdev), unix.Minor(st.Rdev)
	if st.Mode&unix.S_IFMT != unix.S_IFCHR || major < 136 || major > 143 || int(major-136)<<20+int(minor) != n {
		return errors.New("it gave something that is not the terminal of its master")
	}
	return nil
}
