package host

import (
	"context"
	"fmt"
	"strconv"
	"strings"

	"github.com/muxd/muxd/internal/fd"
	"github.com/muxd/muxd/internal/fdchan"
	"github.com/muxd/muxd/sink/sinkpb"
)

// What a plugin parks is held by the keeper, a descriptor a name: park/PLUGIN/NAME/000, 001, ….

// farEnd begins the name of a far end that a plugin parks again, OPENING/STREAM: of an opening that is the agent's, so it is held as
// any far end is.
const farEnd = "far/"

// ParkPrefix begins the keeper's names of what a plugin has parked.
func ParkPrefix(name string) string { return "park/" + name + "/" }

func (p *Plugin) parkPrefix() string { return ParkPrefix(p.name) }

// park has the keeper hold what the plugin parks. It does not take ownership of fds.
func (p *Plugin) park(name string, fds []*fd.FD) error {
	ctx := context.Background()
	if rest, ok := strings.CutPrefix(name, farEnd); ok {
		child, _, _ := strings.Cut(rest, "/")
		if len(fds) != 1 {
			return fmt.Errorf("park %s: %d descriptors, want 1", name, len(fds))
		}
		return p.host.o.Keeper.Hold(ctx, farEnd+child+"/"+rest, nil, fds[0].Int())
	}
	prefix := p.parkPrefix() + name + "/"
	if len(fds) == 0 {
		return p.host.o.Keeper.Drop(ctx, prefix, true)
	}
	for i, f := range fds {
		if err := p.host.o.Keeper.Hold(ctx, prefix+number(i), nil, f.Int()); err != nil {
			return err
		}
	}
	// What was parked under the name before may have been more.
	for i := len(fds); i < fdchan.MaxFDs; i++ {
		f, err := p.host.o.Keeper.Fetch(ctx, prefix+number(i))
		if err != nil {
			return nil
		}
		f.Close()
		if err := p.host.o.Keeper.Drop(ctx, prefix+number(i), false); err != nil {
			return err
		}
	}
	return nil
}

// number is the number of a descriptor in a keeper's name: as text it sorts as it counts.
func number(i int) string { return fmt.Sprintf("%03d", i) }

// recover hands a plugin what its predecessor parked.
func (p *Plugin) recover(ctx context.Context) error {
	held, _, err := p.host.o.Keeper.List(ctx)
	if err != nil {
		return err
	}
	var batch []*fd.FD
	defer func() { fd.CloseAll(batch) }()
	req := &sinkpb.RecoverRequest{Live: p.host.o.Live(p.name), Crashed: p.host.crashed(p.name)}
	send := func() error {
		if len(batch) == 0 {
			return nil
		}
		err := p.Give(ctx, fd.Ints(batch), func(ctx context.Context, ticket []byte) error {
			req.Ticket = ticket
			_, err := p.sinks.Recover(ctx, req)
			return err
		})
		fd.CloseAll(batch)
		batch, req.Parked = nil, nil
		return err
	}
	for i := 0; i < len(held); {
		name, _, ok := cutNumber(strings.TrimPrefix(held[i].Name, p.parkPrefix()))
		if !ok || !strings.HasPrefix(held[i].Name, p.parkPrefix()) {
			i++
			continue
		}
		var fds []*fd.FD
		for ; i < len(held); i++ { // sorted: the descriptors of a name stand together
			other, n, ok := cutNumber(strings.TrimPrefix(held[i].Name, p.parkPrefix()))
			if !ok || other != name || n != len(fds) {
				break
			}
			f, err := p.host.o.Keeper.Fetch(ctx, held[i].Name)
			if err != nil {
				fd.CloseAll(fds)
				return fmt.Errorf("fetch %s: %w", held[i].Name, err)
			}
			fds = append(fds, f)
		}
		if len(batch)+len(fds) > fdchan.MaxFDs {
			if err := send(); err != nil {
				fd.CloseAll(fds)
				return err
			}
		}
		batch = append(batch, fds...)
		req.Parked = append(req.Parked, &sinkpb.RecoverRequest_Parked{Name: name, Fds: uint32(len(fds))})
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
