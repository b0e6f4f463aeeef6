package main

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"
)

// values are what one run of a contender measured, by metric: "MB/s", "CPU s/GB", "us".
type values map[string]float64

// role is what a contender is there for.
type role int

const (
	subject role = iota // muxd
	peer                // what people use today
	limit               // what the kernel can do, in a small loop
)

// contender does a case's work in one way.
type contender struct {
	name string
	role role
	run  func(ctx context.Context) (values, error)
}

// line is one row of the table: a metric of a case's subject against that of one of the others.
type line struct {
	metric  string
	against string  // a contender's name, or bestPeer; empty: target is absolute
	target  float64 // of subject / against, or of the subject itself
	atMost  bool    // the target is an upper bound
	note    string  // what has to be known to read the row
	unmet   string  // why the target may be out of reach, and what is in reach; told where it is not met
}

// bestPeer stands for the peer with the best median.
const bestPeer = "best peer"

// trial is work that several contenders do.
type trial struct {
	name       string
	contenders []contender
	lines      []line
	once       bool // it has nothing to warm, and measures enough in one run
}

// result is a trial's, over all rounds.
type result struct {
	trial   *trial
	samples map[string]map[string][]float64 // by contender and metric
	err     map[string]error                // contenders that could not run
	took    time.Duration
}

// run has the contenders do the work in turn: once untimed, so that memory is warm and programs are in the page
// cache, and then as often as rounds says. A contender that fails is left out from then on.
func (t *trial) run(ctx context.Context, rounds int, progress func(string)) *result {
	r := &result{trial: t, samples: map[string]map[string][]float64{}, err: map[string]error{}}
	begun := time.Now()
	defer func() { r.took = time.Since(begun) }()
	first := 0
	if t.once {
		first, rounds = 1, 1
	}
	for round := first; round <= rounds; round++ {
		for _, c := range t.contenders {
			if r.err[c.name] != nil || ctx.Err() != nil {
				continue
			}
			progress(fmt.Sprintf("%s: %s, round %d of %d", t.name, c.name, round, rounds))
			v, err := c.run(ctx)
			if err != nil {
				r.err[c.name] = err
				delete(r.samples, c.name)
				continue
			}
			if round == 0 {
				continue
			}
			if r.samples[c.name] == nil {
				r.samples[c.name] = map[string][]float64{}
			}
			for metric, x := range v {
				r.samples[c.name][metric] = append(r.samples[c.name][metric], x)
			}
		}
	}
	return r
}

// spread is the median, the least and the greatest of some samples.
type spread struct {
	Median float64 `json:"median"`
	Min    float64 `json:"min"`
	Max    float64 `json:"max"`
}

// of gives the spread of a contender's metric; false where it has none.
func (r *result) of(contender, metric string) (spread, bool) {
	s := slices.Clone(r.samples[contender][metric])
	if len(s) == 0 {
		return spread{}, false
	}
	slices.Sort(s)
	return spread{Median: s[len(s)/2], Min: s[0], Max: s[len(s)-1]}, true
}

// best is the contender of a role that has the best median of a metric.
func (r *result) best(of role, metric string, least bool) (name string, s spread, ok bool) {
	for _, c := range r.trial.contenders {
		got, has := r.of(c.name, metric)
		if c.role != of || !has {
			continue
		}
		if !ok || (cmp.Compare(got.Median, s.Median) < 0) == least {
			name, s, ok = c.name, got, true
		}
	}
	return name, s, ok
}

// subject is the name of the trial's subject.
func (t *trial) subject() string {
	for _, c := range t.contenders {
		if c.role == subject {
			return c.name
		}
	}
	return ""
}
