package main

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"
)

// row is a line of the table, filled in.
type row struct {
	What     string  `json:"what"`
	Metric   string  `json:"metric"`
	Muxd     spread  `json:"muxd"`
	Against  string  `json:"against,omitempty"`
	Other    spread  `json:"other"`
	BestPeer string  `json:"best_peer,omitempty"`
	Peer     spread  `json:"peer"`
	Limit    string  `json:"limit,omitempty"`
	Best     spread  `json:"limit_value"`
	Ratio    float64 `json:"ratio"` // of muxd to Other, or of muxd's figure to the target where that is absolute
	Target   float64 `json:"target"`
	AtMost   bool    `json:"at_most"`
	Met      bool    `json:"met"`
	Note     string  `json:"note,omitempty"`
	Why      string  `json:"why,omitempty"`     // the target is not met
	Missing  string  `json:"missing,omitempty"` // why there are no figures
}

func tabulate(results []*result) []row {
	var rows []row
	for _, r := range results {
		for _, l := range r.trial.lines {
			w := row{What: r.trial.name, Metric: l.metric, Against: l.against, Target: l.target, AtMost: l.atMost, Note: l.note}
			var ok bool
			if w.Muxd, ok = r.of(r.trial.subject(), l.metric); !ok {
				w.Missing = because(r, r.trial.subject())
			}
			if name, s, ok := r.best(peer, l.metric, l.atMost); ok {
				w.BestPeer, w.Peer = name, s
			}
			if name, s, ok := r.best(limit, l.metric, l.atMost); ok {
				w.Limit, w.Best = name, s
			}
			if l.against == bestPeer {
				w.Against = w.BestPeer
			}
			w.Ratio = w.Muxd.Median
			if l.against != "" && w.Missing == "" {
				if w.Other, ok = r.of(w.Against, l.metric); !ok {
					w.Missing = because(r, w.Against)
				} else {
					w.Ratio = w.Muxd.Median / w.Other.Median
				}
			}
			w.Met = w.Missing == "" && w.reaches(w.Ratio)
			if !w.Met && w.Missing == "" {
				w.Why = w.why(l.unmet)
			}
			rows = append(rows, w)
		}
	}
	return rows
}

// reaches says whether a ratio is as the target wants it.
func (w *row) reaches(ratio float64) bool {
	return w.AtMost && ratio <= w.Target || !w.AtMost && ratio >= w.Target
}

// why says why the target is not met: the reason that is known, and whether what the rounds scatter is more than what is missing.
func (w *row) why(known string) string {
	best, other := w.Muxd.Max, 1.0
	if w.AtMost {
		best = w.Muxd.Min
	}
	scatter := fmt.Sprintf("%s to %s in all rounds", figure(w.Muxd.Min), figure(w.Muxd.Max))
	if w.Against != "" {
		if other = w.Other.Min; w.AtMost {
			other = w.Other.Max
		}
		scatter += fmt.Sprintf(", %s %s to %s", w.Against, figure(w.Other.Min), figure(w.Other.Max))
	}
	if w.reaches(best / other) {
		scatter += ", which is more than what is missing"
	}
	if known == "" {
		return scatter
	}
	return known + " (" + scatter + ")"
}

// because says why a contender has no figures.
func because(r *result, name string) string {
	if err := r.err[name]; err != nil {
		return name + ": " + err.Error()
	}
	return name + ": was not run"
}

// figure writes x with three digits that count.
func figure(x float64) string {
	switch {
	case x == 0:
		return "0"
	case x >= 100:
		return fmt.Sprintf("%.0f", x)
	case x >= 10:
		return fmt.Sprintf("%.1f", x)
	case x >= 1:
		return fmt.Sprintf("%.2f", x)
	}
	return fmt.Sprintf("%.3f", x)
}

func printTable(out io.Writer, rows []row, results []*result) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "WHAT\tFIGURE\tMUXD\tBEST PEER\tLIMIT\tRATIO TO\t\tTARGET\tMET")
	for _, r := range rows {
		named := func(name string, s spread) string {
			if name == "" {
				return "-"
			}
			return figure(s.Median) + " " + name
		}
		bound := "≥ "
		if r.AtMost {
			bound = "≤ "
		}
		muxd, against, ratio, met := figure(r.Muxd.Median), r.Against, figure(r.Ratio), "no"
		switch {
		case r.Missing != "":
			muxd, ratio, met = "-", "-", "?"
		case r.Met:
			met = "yes"
		}
		if against == "" {
			against, ratio = "-", "-"
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n", r.What, r.Metric, muxd, named(r.BestPeer, r.Peer), named(r.Limit, r.Best),
			against, ratio, bound+figure(r.Target), met)
	}
	if err := w.Flush(); err != nil {
		return err
	}
	var notes []string
	for _, r := range rows {
		if r.Note != "" {
			notes = append(notes, r.What+", "+r.Metric+": "+r.Note)
		}
		if r.Why != "" {
			notes = append(notes, r.What+", "+r.Metric+": not met: "+r.Why)
		}
		if r.Missing != "" {
			notes = append(notes, r.What+", "+r.Metric+": no figure: "+r.Missing)
		}
	}
	for _, r := range results {
		for name, err := range r.err {
			if name != r.trial.subject() {
				notes = append(notes, r.trial.name+": "+name+" was left out: "+err.Error())
			}
		}
	}
	var took time.Duration
	longest := results[0]
	for _, r := range results {
		if took += r.took; r.took > longest.took {
			longest = r
		}
	}
	notes = append(notes, fmt.Sprintf("%v in all; the longest was %s with %v", took.Round(time.Second), longest.trial.name, longest.took.Round(time.Second)))
	fmt.Fprintf(out, "\n%s\n", strings.Join(notes, "\n"))
	return nil
}

func printJSON(out io.Writer, rows []row, results []*result) error {
	type figures struct {
		Trial     string            `json:"trial"`
		Contender string            `json:"contender"`
		Figures   map[string]spread `json:"figures,omitempty"`
		Error     string            `json:"error,omitempty"`
	}
	doc := struct {
		Rows    []row              `json:"rows"`
		Figures []figures          `json:"figures"`
		Seconds map[string]float64 `json:"seconds"` // that each trial took
	}{Rows: rows, Seconds: map[string]float64{}}
	for _, r := range results {
		doc.Seconds[r.trial.name] = r.took.Seconds()
		for _, c := range r.trial.contenders {
			f := figures{Trial: r.trial.name, Contender: c.name, Figures: map[string]spread{}}
			for metric := range r.samples[c.name] {
				f.Figures[metric], _ = r.of(c.name, metric)
			}
			if err := r.err[c.name]; err != nil {
				f.Error = err.Error()
			}
			doc.Figures = append(doc.Figures, f)
		}
	}
	e := json.NewEncoder(out)
	e.SetIndent("", "  ")
	return e.Encode(doc)
}
