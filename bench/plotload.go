package main

import (
	"bytes"
	"fmt"
	"math"
	"slices"
)

// loads are the contenders of the trial about load, by how many children they have.
var loads = map[string]int{"few": someChildren, "100": 100, "1000": 1000, "many": manyChildren}

// plotLoad draws what a spawn and a line cost against the number of children, each as a multiple of the cost with few, on a
// logarithmic scale of children. nil: the result is of another trial, or has no figures.
func plotLoad(r *result) []byte {
	const width, height, left, bottom = 640.0, 360.0, 60.0, 40.0
	if r.trial.name != loadName {
		return nil
	}
	var b bytes.Buffer
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" width="%g" height="%g" font-family="sans-serif" font-size="12">`+"\n", width, height)
	fmt.Fprintf(&b, `<rect width="100%%" height="100%%" fill="white"/>`+"\n")
	x := func(n int) float64 {
		return left + (width-left-40)*math.Log10(float64(n)/someChildren)/math.Log10(manyChildren/someChildren)
	}
	y := func(ratio float64) float64 { return height - bottom - (height-bottom-40)*math.Min(ratio, 3)/3 }
	for _, ratio := range []float64{0, 1, 1.3, 2, 3} {
		fmt.Fprintf(&b, `<line x1="%g" x2="%g" y1="%.1f" y2="%.1f" stroke="#ccc"/><text x="%g" y="%.1f" text-anchor="end">%g×</text>`+"\n",
			left, width-40, y(ratio), y(ratio), left-6, y(ratio)+4, ratio)
	}
	names := make([]string, 0, len(loads))
	for name := range loads {
		names = append(names, name)
	}
	slices.SortFunc(names, func(a, b string) int { return loads[a] - loads[b] })
	for _, name := range names {
		fmt.Fprintf(&b, `<text x="%.1f" y="%g" text-anchor="middle">%d</text>`+"\n", x(loads[name]), height-bottom+18, loads[name])
	}
	drawn := false
	for i, l := range r.trial.lines {
		few, ok := r.of("few", l.metric)
		if !ok || few.Median <= 0 {
			continue
		}
		colour := []string{"#27c", "#c63"}[i%2]
		points := ""
		for _, name := range names {
			if s, ok := r.of(name, l.metric); ok {
				points += fmt.Sprintf("%.1f,%.1f ", x(loads[name]), y(s.Median/few.Median))
			}
		}
		fmt.Fprintf(&b, `<polyline points="%s" fill="none" stroke="%s" stroke-width="2"/><text x="%g" y="%d" fill="%s">%s</text>`+"\n",
			points, colour, left+10, 20+16*i, colour, escaped(l.metric))
		drawn = true
	}
	fmt.Fprintf(&b, `<text x="%g" y="%g" text-anchor="middle">children</text>`+"\n</svg>\n", width/2, height-6)
	if !drawn {
		return nil
	}
	return b.Bytes()
}
