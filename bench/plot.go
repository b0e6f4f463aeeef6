package main

import (
	"bytes"
	"encoding/xml"
	"fmt"
	"math"
)

// Sizes of the plot, in pixels.
const (
	plotWidth = 1000
	plotLabel = 380 // for the names
	plotRow   = 18
	plotTop   = 40
)

// plotRatios draws each row as a bar on a logarithmic scale: how much better than its target muxd is, to the right of
// the line, or worse, to the left.
func plotRatios(rows []row) []byte {
	var b bytes.Buffer
	height := plotTop + plotRow*len(rows) + 20
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d" font-family="sans-serif" font-size="12">`+"\n", plotWidth, height)
	fmt.Fprintf(&b, `<rect width="100%%" height="100%%" fill="white"/>`+"\n")
	const decades = 1.5 // on each side
	middle := float64(plotLabel + (plotWidth-plotLabel)/2)
	half := float64(plotWidth-plotLabel)/2 - 60
	at := func(x float64) float64 {
		return middle + half*math.Max(-1, math.Min(1, math.Log10(x)/decades))
	}
	for _, x := range []float64{0.1, 0.5, 1, 2, 5, 10, 30} {
		fmt.Fprintf(&b, `<line x1="%.1f" x2="%.1f" y1="%d" y2="%d" stroke="#ccc"/><text x="%.1f" y="%d" text-anchor="middle">%g×</text>`+"\n",
			at(x), at(x), plotTop-8, height-16, at(x), plotTop-14, x)
	}
	for i, r := range rows {
		y := plotTop + plotRow*i
		fmt.Fprintf(&b, `<text x="%d" y="%d" text-anchor="end">%s</text>`+"\n", plotLabel-8, y+13, escaped(r.What+", "+r.Metric))
		if r.Missing != "" || r.Ratio <= 0 || r.Target <= 0 {
			continue
		}
		better := r.Ratio / r.Target
		if r.AtMost {
			better = 1 / better
		}
		colour := "#2a7"
		if !r.Met {
			colour = "#c33"
		}
		from, to := at(1), at(better)
		fmt.Fprintf(&b, `<rect x="%.1f" y="%d" width="%.1f" height="%d" fill="%s"/><text x="%.1f" y="%d">%s×</text>`+"\n",
			math.Min(from, to), y+3, math.Abs(to-from), plotRow-6, colour, math.Max(from, to)+4, y+13, figure(better))
	}
	fmt.Fprintf(&b, `<line x1="%.1f" x2="%.1f" y1="%d" y2="%d" stroke="black"/>`+"\n</svg>\n", middle, middle, plotTop-8, height-16)
	return b.Bytes()
}

func escaped(s string) string {
	var b bytes.Buffer
	xml.EscapeText(&b, []byte(s)) // a bytes.Buffer takes everything
	return b.String()
}
