package sink

import (
	"fmt"

	"github.com/muxd/muxd/internal/spec"
	"github.com/muxd/muxd/sink/sinkpb"
)

// describe is the plugin's description on the wire.
func (p *Plugin) describe() *sinkpb.Description {
	d := &sinkpb.Description{Name: p.Name, Version: p.Version, Help: p.Help, KeepsLogs: p.Logs != nil, Copies: p.Copies, TakesBranch: p.OpenConsole != nil, Rewires: p.Open != nil, Gaps: p.Open != nil, CallsOnChannel: true}
	for _, s := range p.Carries {
		d.Carries = append(d.Carries, sinkpb.Stream(s))
	}
	for _, s := range p.ByName {
		d.ByName = append(d.ByName, sinkpb.Stream(s))
	}
	if p.Arg != nil {
		d.Arg = optionToWire(*p.Arg)
	}
	for _, o := range p.Options {
		d.Options = append(d.Options, optionToWire(o))
	}
	for _, m := range p.Metrics {
		d.Metrics = append(d.Metrics, &sinkpb.Metric{Name: m.Name, Help: m.Help, Gauge: m.Gauge})
	}
	return d
}

func optionToWire(o Option) *sinkpb.Option {
	return &sinkpb.Option{
		Name: o.Name, Type: sinkpb.Option_Type(o.Type), Default: o.Default, Help: o.Help,
		Values: o.Values, Required: o.Required,
	}
}

// request checks a spec from the wire against what the plugin declares.
func (p *Plugin) request(sp *sinkpb.Spec, child *sinkpb.Child, streams []sinkpb.Stream) (*Request, error) {
	given := spec.Spec{Name: p.Name, Arg: sp.GetArg(), Options: sp.GetOptions()}
	if err := given.Check(p.Arg, p.Options); err != nil {
		return nil, err
	}
	r := &Request{
		Child: Child{
			ID: child.GetId(), Name: child.GetName(), Run: int(child.GetRun()), Command: string(child.GetCommand()),
		},
		Arg:     given.Arg,
		Options: Values{},
	}
	for _, o := range p.Options {
		text, ok := given.Options[o.Name]
		if !ok {
			text = o.Default
		}
		if !ok && text == "" {
			continue
		}
		v, err := o.Parse(text)
		if err != nil {
			return nil, fmt.Errorf("sink %s: %w", p.Name, err)
		}
		r.Options[o.Name] = v
	}
	for _, s := range streams {
		if !p.carries(Stream(s)) {
			return nil, fmt.Errorf("sink %s cannot carry %s", p.Name, Stream(s))
		}
		r.Streams = append(r.Streams, Stream(s))
	}
	if len(r.Streams) == 0 {
		return nil, fmt.Errorf("sink %s: no stream was named", p.Name)
	}
	return r, nil
}

func (p *Plugin) carries(s Stream) bool {
	for _, c := range p.Carries {
		if c == s {
			return true
		}
	}
	return false
}
