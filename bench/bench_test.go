package main

import (
	"bytes"
	"encoding/json"
	"encoding/xml"
	"errors"
	"io"
	"slices"
	"strings"
	"testing"
	"testing/iotest"
)

// written is what a child of that shape writes.
func written(s shape, blocks int64) []byte {
	var out bytes.Buffer
	b := s.block()
	for i := range blocks {
		number(b, uint64(i))
		out.Write(b)
	}
	return out.Bytes()
}

// TestExpectFindsWhatIsWrong: a comparison that lets something through would make every figure worthless.
func TestExpectFindsWhatIsWrong(t *testing.T) {
	for _, s := range shapes {
		whole := written(s, 3)
		if err := s.expect(iotest.HalfReader(bytes.NewReader(whole)), 3); err != nil {
			t.Errorf("%s: %v", s.name, err)
		}
		n := s.size()
		for name, wrong := range map[string][]byte{
			"a byte less":   whole[:len(whole)-1],
			"a byte more":   append(bytes.Clone(whole), 'x'),
			"a lost line":   append(bytes.Clone(whole[:n]), whole[n+s.line:]...),
			"a double line": append(bytes.Clone(whole[:n+s.line]), whole[n:]...),
			"blocks in another order": bytes.Join([][]byte{
				whole[n : 2*n], whole[:n], whole[2*n:],
			}, nil),
		} {
			if err := s.expect(bytes.NewReader(wrong), 3); err == nil {
				t.Errorf("%s: %s was let through", s.name, name)
			}
		}
	}
}

func TestUnwrap(t *testing.T) {
	for name, c := range map[string]struct {
		unwrap func(io.Reader) io.Reader
		log    string
	}{
		"cri":    {fromCRI, "2026-05-04T12:00:00Z stdout P a b\n2026-05-04T12:00:00Z stdout F  c\n2026-05-04T12:00:00Z stdout F \n"},
		"tai64n": {fromTAI64N, "@400000006b021e39001a2d3e a b c\n@400000006b021e39001a2d3e \n"},
		"iso":    {fromISO, "2026-11-21 22:41:24.005385007  a b c\n2026-11-21 22:41:24.005385007  \n"},
	} {
		got, err := io.ReadAll(c.unwrap(strings.NewReader(c.log)))
		if err != nil || string(got) != "a b c\n\n" {
			t.Errorf("%s: %q, %v", name, got, err)
		}
		if _, err := io.ReadAll(c.unwrap(strings.NewReader(c.log + "cut"))); err != io.ErrUnexpectedEOF {
			t.Errorf("%s: a torn record gives %v", name, err)
		}
	}
}

// TestTrials: a target that names no contender could never be met, nor missed.
func TestTrials(t *testing.T) {
	seen := map[string]bool{}
	for _, trial := range (&bench{bytes: 1}).trials() {
		if seen[trial.name] || trial.subject() == "" || len(trial.lines) == 0 {
			t.Errorf("%s: twice, without a subject, or without a line", trial.name)
		}
		seen[trial.name] = true
		names := map[string]bool{"": true, bestPeer: true}
		for _, c := range trial.contenders {
			names[c.name] = true
		}
		for _, l := range trial.lines {
			if !names[l.against] {
				t.Errorf("%s: there is no %q", trial.name, l.against)
			}
		}
	}
}

func TestTabulate(t *testing.T) {
	trial := &trial{name: "t", contenders: []contender{{name: "m", role: subject}, {name: "p", role: peer}, {name: "q", role: peer}}, lines: []line{
		{metric: "x", against: bestPeer, target: 2}, {metric: "x", against: "q", target: 0.5, atMost: true, unmet: "it is slow"}, {metric: "y", target: 3},
		{metric: "x", target: 20},
	}}
	r := &result{trial: trial, samples: map[string]map[string][]float64{
		"m": {"x": {9, 10, 50}}, "p": {"x": {5, 5, 5}}, "q": {"x": {4, 4, 4}},
	}}
	rows := tabulate([]*result{r})
	if a := rows[0]; a.Against != "p" || a.Ratio != 2 || !a.Met || a.Muxd != (spread{10, 9, 50}) {
		t.Errorf("%+v", a)
	}
	if b := rows[1]; b.Ratio != 2.5 || b.Met {
		t.Errorf("%+v", b)
	}
	if c := rows[2]; c.Met || c.Missing == "" {
		t.Errorf("a figure that was not measured counts: %+v", c)
	}
	if d := rows[3]; d.Met || d.Why != "9.00 to 50.0 in all rounds, which is more than what is missing" {
		t.Errorf("%+v", d)
	}
	if b := rows[1]; b.Why != "it is slow (9.00 to 50.0 in all rounds, q 4.00 to 4.00)" {
		t.Errorf("%+v", b)
	}
	var table, doc bytes.Buffer
	if err := errors.Join(printTable(&table, rows, []*result{r}), printJSON(&doc, rows, []*result{r})); err != nil {
		t.Fatal(err)
	}
	for _, w := range rows { // whoever reads the table sees why
		if !w.Met && (!strings.Contains(table.String(), w.Why) || !strings.Contains(table.String(), w.Missing) || w.Why+w.Missing == "") {
			t.Errorf("no reason for %+v in\n%s", w, table.String())
		}
	}
	var back struct{ Rows []row }
	if err := json.Unmarshal(doc.Bytes(), &back); err != nil || !slices.Equal(back.Rows, rows) {
		t.Errorf("%v, %+v, want %+v", err, back.Rows, rows)
	}
}

// The plot of cost against children has a line for each metric, through all loads, and other trials have none.
func TestPlotLoad(t *testing.T) {
	r := &result{trial: &trial{name: loadName, lines: []line{{metric: "us a spawn"}, {metric: "CPU us a line"}}}, samples: map[string]map[string][]float64{}}
	if plotLoad(r) != nil {
		t.Error("a plot was made of nothing")
	}
	for name, n := range loads {
		r.samples[name] = map[string][]float64{"us a spawn": {100 + float64(n)/100}, "CPU us a line": {5}}
	}
	svg := string(plotLoad(r))
	if got := strings.Count(svg, "<polyline"); got != 2 {
		t.Errorf("%d lines, want 2:\n%s", got, svg)
	}
	if err := xml.Unmarshal([]byte(svg), new(struct{})); err != nil {
		t.Errorf("the plot is no XML: %v", err)
	}
	r.trial.name = "another"
	if plotLoad(r) != nil {
		t.Error("a plot was made of another trial")
	}
}
