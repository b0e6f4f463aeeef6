package host

import (
	"context"
	"fmt"
	"path"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/muxd/muxd/internal/fd"
	"github.com/muxd/muxd/internal/fdchan"
	"github.com/muxd/muxd/sink/sinkpb"
)

// What a plugin parks is held by the keeper, a descriptor a name: park/PLUGIN/NAME/000, 001, ….

// parkedMost is the most descriptors under one name.
const parkedMost = 10

// farEnd begins the name of a far end that a plugin parks again, OPENING/STREAM: of an opening that is the agent's, so it is held as
// any far end is.
const farEnd = "far/"

// ParkRoot begins all of them.
const ParkRoot = "park/"

// ParkPrefix begins the keeper's names of what a plugin has parked.
func ParkPrefix(name string) string { return ParkRoot + name + "/" }

func (p *Plugin) parkPrefix() string { return ParkPrefix(p.name) }

// park has the keeper hold what the plugin parks. It does not take ownership of fds.
func (p *Plugin) park(name string, fds []*fd.FD) error {
	ctx := context.Background()
	if rest, ok := strings.CutPrefix(name, farEnd); ok {
		return p.parkFar(ctx, rest, fds)
	}
	if err := p.account(ctx, name, len(fds)); err != nil {
		return err
	}
	err := p.host.o.Keeper.HoldSeries(ctx, p.parkPrefix()+name+"/", fd.Ints(fds))
	if err != nil {
		p.parks = parkCount{} // what is held is looked at anew
	}
	return err
}

// parkedShare is the part of the descriptors that muxd may have open which one plugin may have parked: the others need some too.
const parkedShare = 4

// parkCount is how many descriptors a plugin has parked, in all and by name; by is nil where that is not known.
type parkCount struct {
	by  map[string]int
	all int
}

// account notes that n descriptors are parked under name from now on, or says that they are too many.
func (p *Plugin) account(ctx context.Context, name string, n int) error {
	if n > parkedMost {
		return fmt.Errorf("park %.100q: %d descriptors, and a name has %d at most", name, n, parkedMost)
	}
	if p.parks.by == nil { // an earlier agent or process may have parked something
		held, _, err := p.host.o.Keeper.List(ctx)
		if err != nil {
			return err
		}
		p.parks.by = map[string]int{}
		for _, h := range held {
			if rest, ok := strings.CutPrefix(h.Name, p.parkPrefix()); ok {
				if of, _, ok := cutNumber(rest); ok {
					p.parks.by[of]++
					p.parks.all++
				}
			}
		}
	}
	all := p.parks.all - p.parks.by[name] + n
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		return err
	}
	if n > p.parks.by[name] && uint64(all) > limit.Cur/parkedShare {
		return fmt.Errorf("park %.100q: plugin %s would have %d descriptors parked, and may have a quarter of muxd's limit of %d open files",
			name, p.name, all, limit.Cur)
	}
	p.parks.all = all
	if p.parks.by[name] = n; n == 0 {
		delete(p.parks.by, name)
	}
	return nil
}

// parkFar has the keeper hold a far end again. It may come late, from a call of an agent that died: a stream that has ended meanwhile is
// not held for ever, and the write end of a stdin that is closed would keep the child from reading its end. Whatever ends a stream
// does so before it has the keeper drop the far end, so either that drop comes after the hold, or the end is seen here.
func (p *Plugin) parkFar(ctx context.Context, rest string, fds []*fd.FD) error {
	if len(fds) != 1 {
		return fmt.Errorf("park %s%s: %d descriptors, want 1", farEnd, rest, len(fds))
	}
	opening, stream := path.Split(rest)
	opening = strings.TrimSuffix(opening, "/")
	if !p.host.o.Wants(opening, stream) {
		return nil
	}
	child, _, _ := strings.Cut(rest, "/")
	name := farEnd + child + "/" + rest
	if err := p.host.o.Keeper.Hold(ctx, name, nil, fds[0].Int()); err != nil {
		return err
	}
	if !p.host.o.Wants(opening, stream) {
		return p.host.o.Keeper.Drop(ctx, name, false)
	}
	return nil
}

// recover hands a plugin what its predecessor parked.
func (p *Plugin) recover(ctx context.Context) error {
	held, _, err := p.host.o.Keeper.List(ctx)
	if err != nil {
		return err
	}
	req := &sinkpb.RecoverRequest{Live: p.host.o.Live(p.name), Crashed: p.host.crashed(p.name)}
	var names []string
	send := func() error {
		if len(names) == 0 {
			return nil
		}
		fds, err := p.host.o.Keeper.FetchAll(ctx, names)
		defer fd.CloseAll(fds)
		if err != nil {
			return fmt.Errorf("fetch what it parked: %w", err)
		}
		err = p.Give(ctx, fd.Ints(fds), func(ctx context.Context, ticket []byte) error {
			req.Ticket = ticket
			_, err := p.sinks.Recover(ctx, req)
			return err
		})
		names, req.Parked = nil, nil
		return err
	}
	for i := 0; i < len(held); {
		name, _, ok := cutNumber(strings.TrimPrefix(held[i].Name, p.parkPrefix()))
		if !ok || !strings.HasPrefix(held[i].Name, p.parkPrefix()) {
			i++
			continue
		}
		var series []string
		for ; i < len(held); i++ { // sorted: the descriptors of a name stand together
			other, n, ok := cutNumber(strings.TrimPrefix(held[i].Name, p.parkPrefix()))
			if !ok || other != name || n != len(series) {
				break
			}
			series = append(series, held[i].Name)
		}
		if len(names)+len(series) > fdchan.MaxFDs {
			if err := send(); err != nil {
				return err
			}
		}
		names = append(names, series...)
		req.Parked = append(req.Parked, &sinkpb.RecoverRequest_Parked{Name: name, Fds: uint32(len(series))})
	}
	return send()
}

// crashed says whether the plugin's last process ended by itself, or hung.
func (h *Host) crashed(name string) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	s := h.history[name]
	return s != nil && s.crashed
}

// cutNumber cuts the number of a descriptor off a keeper's name.
func cutNumber(s string) (name string, n int, ok bool) {
	i := strings.LastIndexByte(s, '/')
	if i < 0 {
		return "", 0, false
	}
	n, err := strconv.Atoi(s[i+1:])
	return s[:i], n, err == nil
}
