package main

import (
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"github.com/muxd/muxd/control/controlpb"
)

func (a *app) screenshotCmd() *cobra.Command {
	var format string
	c := &cobra.Command{
		Use: "screenshot ID", Short: "Print a picture of a child's console", Args: args(cobra.ExactArgs(1)),
		Long: `screenshot prints what the screen of a console shows now: as a picture (svg, png), as text, or as the sequence that draws it on
a terminal of the same size (ansi). A png is drawn in Go Mono; characters that it lacks are boxes, and named.`,
		Example: "  muxctl screenshot editor -o png > editor.png", ValidArgsFunction: a.completeThen(),
		RunE: func(c *cobra.Command, argv []string) error {
			draw, ok := map[string]func(*controlpb.ScreenResponse) ([]byte, error){
				"svg":  func(s *controlpb.ScreenResponse) ([]byte, error) { return drawSVG(s), nil },
				"png":  drawPNG,
				"text": func(s *controlpb.ScreenResponse) ([]byte, error) { return []byte(screenText(s)), nil },
				"ansi": func(s *controlpb.ScreenResponse) ([]byte, error) { return s.Redraw, nil },
			}[format]
			if !ok {
				return usageError("-o %s: want svg, png, text or ansi", format)
			}
			if stdout, err := descriptor(os.Stdout); err == nil && format == "png" && isTerminal(stdout) {
				return usageError("-o png: a terminal cannot show it; redirect it to a file")
			}
			s, err := a.screen(c, argv[0])
			if err != nil {
				return err
			}
			b, err := draw(s)
			if err != nil {
				return fmt.Errorf("screenshot of %s: %w", argv[0], err)
			}
			_, err = os.Stdout.Write(b)
			return err
		},
	}
	c.Flags().StringVarP(&format, "output", "o", "text", "`FORMAT`: svg, png, text or ansi")
	return c
}

// tile is a run of cells of one look, in colours that are there to be painted.
type tile struct {
	row, col, width int
	text            []*controlpb.Cell
	fg, bg          uint32 // 0xRRGGBB
	style           *controlpb.Style
}

// tiles divides a screen. The cursor is a tile of its own, with its colours exchanged.
func tiles(s *controlpb.ScreenResponse) []tile {
	var out []tile
	rows, cols := int(s.Size.GetRows()), int(s.Size.GetCols())
	for y := range rows {
		var line []*controlpb.Cell
		if y < len(s.Lines) {
			line = s.Lines[y].Cells
		}
		for x := 0; x < cols; {
			c := &controlpb.Cell{Text: " ", Width: 1}
			if x < len(line) {
				c = line[x]
			}
			cursor := s.Cursor.GetVisible() && int(s.Cursor.Row) == y && int(s.Cursor.Col) == x
			st := screenStyle(s, c)
			fg, bg := paint(s, st, cursor)
			width := max(int(c.Width), 1)
			if n := len(out); n > 0 && !cursor && out[n-1].row == y && out[n-1].style == st && out[n-1].bg == bg && out[n-1].fg == fg {
				out[n-1].text, out[n-1].width = append(out[n-1].text, c), out[n-1].width+width
			} else {
				out = append(out, tile{y, x, width, []*controlpb.Cell{c}, fg, bg, st})
			}
			x += width
		}
	}
	return out
}

// paint is the colours of a style on the screen s.
func paint(s *controlpb.ScreenResponse, st *controlpb.Style, cursor bool) (fg, bg uint32) {
	fg, bg = solid(s, st.Fg, 256), solid(s, st.Bg, 257)
	reverse := st.Reverse != cursor
	for _, m := range s.Modes {
		if m == "reverse" {
			reverse = !reverse
		}
	}
	if reverse {
		fg, bg = bg, fg
	}
	if st.Faint {
		fg = (fg>>1)&0x7f7f7f + (bg>>1)&0x7f7f7f
	}
	if st.Hidden {
		fg = bg
	}
	return fg, bg
}

// solid is a colour as it is painted; otherwise is the palette's entry for the terminal's own.
func solid(s *controlpb.ScreenResponse, c uint32, otherwise int) uint32 {
	switch {
	case c > 256:
		return c & 0xffffff
	case c > 0:
		otherwise = int(c) - 1
	}
	if otherwise < len(s.Palette) {
		return s.Palette[otherwise] & 0xffffff
	}
	return 0
}
