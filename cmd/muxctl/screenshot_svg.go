package main

import (
	"bytes"
	"encoding/xml"
	"fmt"
	"strings"

	"github.com/muxd/muxd/control/controlpb"
)

// Sizes of a cell in an SVG, in its units.
const (
	svgCol  = 9
	svgRow  = 18
	svgBase = 14 // the line on which letters stand, from the top
)

// drawSVG draws a screen. Each run of a style is one text, stretched to the places that it takes, so that it fits
// whatever font there is.
func drawSVG(s *controlpb.ScreenResponse) []byte {
	var b bytes.Buffer
	w, h := int(s.Size.GetCols())*svgCol, int(s.Size.GetRows())*svgRow
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d" viewBox="0 0 %d %d">`+"\n", w, h, w, h)
	if s.Title != "" {
		fmt.Fprintf(&b, "<title>%s</title>\n", escapeXML(s.Title))
	}
	_, back := paint(s, &controlpb.Style{}, false)
	fmt.Fprintf(&b, `<rect width="100%%" height="100%%" fill="#%06x"/>`+"\n", back)
	fmt.Fprintln(&b, `<g font-family="Go Mono,DejaVu Sans Mono,Menlo,Consolas,monospace" font-size="15">`)
	for _, t := range tiles(s) {
		x, y := t.col*svgCol, t.row*svgRow
		if t.bg != back {
			fmt.Fprintf(&b, `<rect x="%d" y="%d" width="%d" height="%d" fill="#%06x"/>`+"\n", x, y, t.width*svgCol, svgRow, t.bg)
		}
		var text strings.Builder
		for _, c := range t.text {
			text.WriteString(c.Text)
		}
		if strings.TrimSpace(text.String()) == "" && t.style.Underline == 0 && !t.style.Strike && !t.style.Overline {
			continue
		}
		fmt.Fprintf(&b, `<text x="%d" y="%d" textLength="%d" lengthAdjust="spacingAndGlyphs" xml:space="preserve" fill="#%06x"%s>%s</text>`+"\n",
			x, y+svgBase, t.width*svgCol, t.fg, svgStyle(s, t.style), escapeXML(text.String()))
	}
	b.WriteString("</g>\n</svg>\n")
	return b.Bytes()
}

func svgStyle(s *controlpb.ScreenResponse, st *controlpb.Style) string {
	var b strings.Builder
	if st.Bold {
		b.WriteString(` font-weight="bold"`)
	}
	if st.Italic {
		b.WriteString(` font-style="italic"`)
	}
	var lines []string
	if st.Underline > 0 {
		lines = append(lines, "underline")
	}
	if st.Strike {
		lines = append(lines, "line-through")
	}
	if st.Overline {
		lines = append(lines, "overline")
	}
	if len(lines) > 0 {
		kind := ""
		if int(st.Underline) < 6 {
			kind = [...]string{"", "", " double", " wavy", " dotted", " dashed"}[st.Underline]
		}
		color := ""
		if st.UnderlineColor != 0 {
			color = fmt.Sprintf(" #%06x", solid(s, st.UnderlineColor, 256))
		}
		fmt.Fprintf(&b, ` style="text-decoration:%s%s%s"`, strings.Join(lines, " "), kind, color)
	}
	return b.String()
}

func escapeXML(s string) string {
	var b strings.Builder
	xml.EscapeText(&b, []byte(s))
	return b.String()
}
