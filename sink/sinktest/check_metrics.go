package sinktest

import (
	"context"
	"errors"
	"fmt"

	"github.com/muxd/muxd/internal/spec"
	"github.com/muxd/muxd/sink/sinkpb"
)

// goodMetrics says what is wrong with the declarations of a sink's own numbers.
func goodMetrics(all []*sinkpb.Metric) error {
	seen := map[string]bool{}
	for _, m := range all {
		switch {
		case !spec.ValidName(m.Name):
			return fmt.Errorf("metric %q: its name is none: want lower-case letters, digits and hyphens", m.Name)
		case seen[m.Name]:
			return fmt.Errorf("metric %q is there twice", m.Name)
		case !aLine(m.Help):
			return fmt.Errorf("metric %q: its help is no line of text", m.Name)
		}
		seen[m.Name] = true
	}
	return nil
}

func metricsCheck(s *session) error {
	if len(s.desc.Metrics) == 0 {
		return notApplicable("it declares no numbers of its own")
	}
	h, o, err := s.openNew()
	if err != nil {
		return err
	}
	before := map[string]int64{}
	look := func() error {
		ctx, cancel := s.soon()
		defer cancel()
		now, err := o.numbers(ctx, s.desc.Metrics)
		if err != nil {
			return err
		}
		for _, m := range s.desc.Metrics {
			if now[m.Name] < before[m.Name] && !m.Gauge {
				return fmt.Errorf("%s, which counts, was %d and is %d", m.Name, before[m.Name], now[m.Name])
			}
		}
		before = now
		return nil
	}
	if err := look(); err != nil {
		return err
	}
	l := &lines{}
	for i := range 2 {
		if err := s.write(o, first(l, 100<<10), 0); err != nil {
			return err
		}
		ctx, cancel := s.soon()
		err := s.taken(ctx, o)
		if err == nil {
			err = look()
		}
		if err == nil && i == 0 {
			if err = h.restart(ctx); err == nil && o.reader != nil {
				err = o.reader.opened(ctx, o)
			}
			if !s.target.exact {
				before = nil
			}
		}
		cancel()
		if err != nil {
			return err
		}
		if err := look(); err != nil {
			return fmt.Errorf("in the next process: %w", err)
		}
	}
	ctx, cancel := s.soon()
	defer cancel()
	if err := o.exit(ctx); err != nil {
		return err
	}
	if err := o.flushed(ctx, s.target.exact); err != nil {
		return err
	}
	if err := look(); err != nil {
		return err
	}
	return o.forget(ctx)
}

// numbers are the sink's own of the opening's output stream.
func (o *opening) numbers(ctx context.Context, declared []*sinkpb.Metric) (map[string]int64, error) {
	st, err := o.stat(ctx)
	if err != nil {
		return nil, err
	}
	out := map[string]int64{}
	for _, m := range st.Metrics {
		if _, twice := out[m.Name]; twice {
			return nil, fmt.Errorf("the call Stat tells %s twice", m.Name)
		}
		out[m.Name] = m.Value
	}
	for _, m := range declared {
		if _, ok := out[m.Name]; !ok {
			return nil, fmt.Errorf("the call Stat does not tell %s, which is declared", m.Name)
		}
	}
	if len(out) != len(declared) {
		return nil, errors.New("the call Stat tells numbers that are not declared")
	}
	return out, nil
}
