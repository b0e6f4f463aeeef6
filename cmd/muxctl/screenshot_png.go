package main

import (
	"bytes"
	"fmt"
	"image"
	"image/color"
	"image/draw"
	"image/png"
	"maps"
	"os"
	"slices"
	"strings"
	"unicode/utf8"

	"golang.org/x/image/font"
	"golang.org/x/image/font/gofont/gomono"
	"golang.org/x/image/font/gofont/gomonobold"
	"golang.org/x/image/font/gofont/gomonobolditalic"
	"golang.org/x/image/font/gofont/gomonoitalic"
	"golang.org/x/image/font/opentype"
	"golang.org/x/image/font/sfnt"
	"golang.org/x/image/math/fixed"

	"github.com/muxd/muxd/control/controlpb"
)

// picture is a PNG while it is drawn.
type picture struct {
	img      *image.RGBA
	faces    [4]font.Face // by bold and italic
	font     *sfnt.Font   // tells what there is
	buf      sfnt.Buffer
	col, row int // size of a cell
	base     int // the line on which letters stand, from the top
	missing  map[rune]bool
}

func newPicture(rows, cols int) (*picture, error) {
	p := &picture{missing: map[rune]bool{}}
	for i, ttf := range [][]byte{gomono.TTF, gomonobold.TTF, gomonoitalic.TTF, gomonobolditalic.TTF} {
		f, err := opentype.Parse(ttf)
		if err != nil {
			return nil, err
		}
		if p.faces[i], err = opentype.NewFace(f, &opentype.FaceOptions{Size: 15, DPI: 72, Hinting: font.HintingFull}); err != nil {
			return nil, err
		}
		if i == 0 {
			p.font = f
		}
	}
	m := p.faces[0].Metrics()
	advance, _ := p.faces[0].GlyphAdvance('M')
	p.col, p.row, p.base = advance.Round(), (m.Ascent + m.Descent).Ceil(), m.Ascent.Ceil()
	p.img = image.NewRGBA(image.Rect(0, 0, cols*p.col, rows*p.row))
	return p, nil
}

// drawPNG draws a screen, and names on stderr what the font lacks.
func drawPNG(s *controlpb.ScreenResponse) ([]byte, error) {
	p, err := newPicture(int(s.Size.GetRows()), int(s.Size.GetCols()))
	if err != nil {
		return nil, err
	}
	for _, t := range tiles(s) {
		p.tile(s, t)
	}
	if len(p.missing) > 0 {
		var names []string
		for _, r := range slices.Sorted(maps.Keys(p.missing)) {
			names = append(names, fmt.Sprintf("%c (%U)", r, r))
		}
		fmt.Fprintf(os.Stderr, "muxctl: drawn as boxes, since Go Mono lacks them: %s\n", strings.Join(names, ", "))
	}
	var b bytes.Buffer
	err = png.Encode(&b, p.img)
	return b.Bytes(), err
}

func (p *picture) tile(s *controlpb.ScreenResponse, t tile) {
	x, y := t.col*p.col, t.row*p.row
	p.fill(x, y, t.width*p.col, p.row, t.bg)
	face := 0
	if t.style.Bold {
		face |= 1
	}
	if t.style.Italic {
		face |= 2
	}
	d := font.Drawer{Dst: p.img, Src: image.NewUniform(rgb(t.fg)), Face: p.faces[face]}
	at := x
	for _, c := range t.text {
		width := max(int(c.Width), 1) * p.col
		for _, r := range c.Text {
			d.Dot = fixed.P(at, y+p.base)
			p.glyph(&d, r, at, y, width, t.fg, utf8.RuneCountInString(c.Text) > 1)
		}
		at += width
	}
	under := t.fg
	if t.style.UnderlineColor != 0 {
		under = solid(s, t.style.UnderlineColor, 256)
	}
	if t.style.Underline > 0 {
		p.fill(x, y+p.base+1, at-x, 1, under)
	}
	if t.style.Underline == 2 {
		p.fill(x, y+p.base+3, at-x, 1, under)
	}
	if t.style.Strike {
		p.fill(x, y+p.row/2, at-x, 1, t.fg)
	}
	if t.style.Overline {
		p.fill(x, y, at-x, 1, t.fg)
	}
}

// glyph draws r, or a box where the font lacks it. Of a character of several, one that is lacking is left out.
func (p *picture) glyph(d *font.Drawer, r rune, x, y, width int, fg uint32, several bool) {
	if r == ' ' {
		return
	}
	if n, err := p.font.GlyphIndex(&p.buf, r); err == nil && n != 0 {
		d.DrawString(string(r))
		return
	}
	p.missing[r] = true
	if several {
		return
	}
	w, h := width-2, p.base-2
	p.fill(x+1, y+2, w, 1, fg)
	p.fill(x+1, y+1+h, w, 1, fg)
	p.fill(x+1, y+2, 1, h, fg)
	p.fill(x+w, y+2, 1, h, fg)
}

func (p *picture) fill(x, y, w, h int, c uint32) {
	draw.Draw(p.img, image.Rect(x, y, x+w, y+h), image.NewUniform(rgb(c)), image.Point{}, draw.Src)
}

func rgb(c uint32) color.RGBA { return color.RGBA{byte(c >> 16), byte(c >> 8), byte(c), 255} }
