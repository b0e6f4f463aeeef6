package screen

// rendition is SGR.
func (m *Model) rendition(p *params) {
	s := m.styles[m.cur.style]
	for i := 0; i < len(p.n); {
		// A parameter's sub-parameters are those that follow it behind colons.
		end := i + 1
		for end < len(p.n) && p.sub[end] {
			end++
		}
		switch n := p.at(i, 0); n {
		case 38, 48, 58:
			var c Color
			var ok bool
			if end > i+1 {
				c, ok = subColor(p.n[i+1 : end])
			} else {
				var took int
				c, took, ok = listColor(p, i+1)
				end += took
			}
			if ok {
				switch n {
				case 38:
					s.Fg = c
				case 48:
					s.Bg = c
				default:
					s.Under = c
				}
			}
		case 4:
			s.Underline = SingleUnderline
			if end > i+1 {
				if u := p.at(i+1, 1); u <= int(DashedUnderline) {
					s.Underline = Underline(u)
				}
			}
		default:
			simpleRendition(&s, n)
		}
		i = end
	}
	m.setStyle(s)
}

// subColor reads a colour behind colons: 5:N, 2:R:G:B, or 2:SPACE:R:G:B.
func subColor(n []int) (Color, bool) {
	switch {
	case len(n) >= 2 && n[0] == 5:
		return colorIndexed | Color(max(n[1], 0)&0xff), n[1] <= 0xff
	case len(n) >= 5 && n[0] == 2:
		return rgb(n[2], n[3], n[4])
	case len(n) == 4 && n[0] == 2:
		return rgb(n[1], n[2], n[3])
	}
	return 0, false
}

// listColor reads a colour behind semicolons, from parameter i on, and says how many parameters that took.
func listColor(p *params, i int) (c Color, took int, ok bool) {
	switch p.at(i, 0) {
	case 5:
		n := p.at(i+1, 0)
		return colorIndexed | Color(n&0xff), 2, n <= 0xff
	case 2:
		c, ok := rgb(p.at(i+1, 0), p.at(i+2, 0), p.at(i+3, 0))
		return c, 4, ok
	}
	return 0, 0, false
}

func rgb(r, g, b int) (Color, bool) {
	r, g, b = max(r, 0), max(g, 0), max(b, 0)
	return colorRGB | Color(r&0xff)<<16 | Color(g&0xff)<<8 | Color(b&0xff), max(r, g, b) <= 0xff
}

func simpleRendition(s *Style, n int) {
	switch {
	case n == 0:
		*s = Style{Attr: s.Attr & protected, Link: s.Link}
	case n == 1:
		s.Attr |= Bold
	case n == 2:
		s.Attr |= Faint
	case n == 3:
		s.Attr |= Italic
	case n == 5 || n == 6:
		s.Attr |= Blink
	case n == 7:
		s.Attr |= Reverse
	case n == 8:
		s.Attr |= Hidden
	case n == 9:
		s.Attr |= Strike
	case n == 21:
		s.Underline = DoubleUnderline
	case n == 22:
		s.Attr &^= Bold | Faint
	case n == 23:
		s.Attr &^= Italic
	case n == 24:
		s.Underline = NoUnderline
	case n == 25:
		s.Attr &^= Blink
	case n == 27:
		s.Attr &^= Reverse
	case n == 28:
		s.Attr &^= Hidden
	case n == 29:
		s.Attr &^= Strike
	case n >= 30 && n <= 37:
		s.Fg = colorIndexed | Color(n-30)
	case n == 39:
		s.Fg = 0
	case n >= 40 && n <= 47:
		s.Bg = colorIndexed | Color(n-40)
	case n == 49:
		s.Bg = 0
	case n == 53:
		s.Attr |= Overline
	case n == 55:
		s.Attr &^= Overline
	case n == 59:
		s.Under = 0
	case n >= 90 && n <= 97:
		s.Fg = colorIndexed | Color(n-90+8)
	case n >= 100 && n <= 107:
		s.Bg = colorIndexed | Color(n-100+8)
	}
}

// setStyle makes s the style of what is printed next.
func (m *Model) setStyle(s Style) {
	if len(m.styles) > linksMost {
		s.Link = ""
	}
	m.cur.style = m.number(s)
	m.cur.blank = 0
	if s.Bg != 0 {
		m.cur.blank = m.number(Style{Bg: s.Bg})
	}
}
