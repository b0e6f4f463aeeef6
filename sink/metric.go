package sink

import (
	"fmt"
	"slices"

	"github.com/muxd/muxd/internal/spec"
	"github.com/muxd/muxd/internal/stage"
	"github.com/muxd/muxd/sink/sinkpb"
)

// Metric declares a number that sinks keep of each output stream, for people: it is shown by muxctl inspect.
type Metric struct {
	Name  string // as an option's
	Help  string // one sentence
	Gauge bool   // it goes up and down (Opening.Gauge); otherwise it counts something, from 0 (Opening.Count)
}

// MetricsMost bounds Plugin.Metrics.
const MetricsMost = stage.NumbersMost

// validMetrics says what is wrong with the author's.
func validMetrics(all []Metric) error {
	seen := map[string]bool{}
	for _, m := range all {
		switch {
		case !spec.ValidName(m.Name):
			return fmt.Errorf("Plugin.Metrics: the name %q is none: want lower-case letters, digits and hyphens", m.Name)
		case seen[m.Name]:
			return fmt.Errorf("Plugin.Metrics: %s is there twice", m.Name)
		}
		seen[m.Name] = true
	}
	if len(all) > MetricsMost {
		return fmt.Errorf("Plugin.Metrics: %d, and %d at most are kept", len(all), MetricsMost)
	}
	return nil
}

// Count adds n to a number of an output stream, which Plugin.Metrics declares: it panics where that does not. The number is the
// stream's, and goes on in the next process; what is counted for a chunk that comes Again is counted again. It may be called from Plugin.Open until
// Sink.Close, at any time, and does not block.
func (o *Opening) Count(st Stream, name string, n uint64) { o.live.number(st, name, int64(n), false) }

// Gauge has a number of an output stream be now, as Count.
func (o *Opening) Gauge(st Stream, name string, now int64) { o.live.number(st, name, now, true) }

// earlyNumber is what a number has come to before its stream is read.
type earlyNumber struct {
	stream Stream
	i      int
	n      int64
	set    bool
}

func (o *opening) number(st Stream, name string, n int64, set bool) {
	i := o.srv.plugin.metric(name, set)
	if st == Stdin || !slices.Contains(o.pub.Streams, st) {
		return
	}
	o.srv.mu.Lock()
	defer o.srv.mu.Unlock()
	if o.shut {
		return
	}
	for _, f := range o.flows {
		if f.stream == st {
			f.number(i, n, set)
			return
		}
	}
	o.early = append(o.early, earlyNumber{st, i, n, set})
}

// metric finds a declared metric.
func (p *Plugin) metric(name string, gauge bool) int {
	for i, m := range p.Metrics {
		if m.Name == name && m.Gauge == gauge {
			return i
		}
	}
	panic(fmt.Sprintf("sink: Plugin.Metrics does not declare %q so", name))
}

// numbered is a source that keeps numbers.
type numbered interface {
	Number(i int) int64
	AddNumber(i int, n int64)
	SetNumber(i int, n int64)
}

func (f *flow) number(i int, n int64, set bool) {
	switch src, ok := f.src.(numbered); {
	case !ok:
	case set:
		src.SetNumber(i, n)
	default:
		src.AddNumber(i, n)
	}
}

// numbersBegin has what was told before f was read take effect. server.mu is held.
func (f *flow) numbersBegin() {
	for _, e := range f.op.early {
		if e.stream == f.stream {
			f.number(e.i, e.n, e.set)
		}
	}
}

// metrics are the numbers of f.
func (f *flow) metrics() (out []*sinkpb.MetricStat) {
	src, ok := f.src.(numbered)
	if !ok {
		return nil
	}
	for i, m := range f.op.srv.plugin.Metrics {
		out = append(out, &sinkpb.MetricStat{Name: m.Name, Value: src.Number(i)})
	}
	return out
}
