package sink

import (
	"context"
	"errors"
	"fmt"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/muxd/muxd/sink/sinkpb"
)

// Screen is what a console shows.
type Screen struct {
	Rows, Cols       int
	Offset           uint64 // of the output, up to which it has been followed
	Cursor           ScreenCursor
	Modes            []string // that are set, by name: alternate-screen, paste, mouse-sgr, ...
	Title, IconTitle string
	Styles           []ScreenStyle // that the cells refer to
	Lines            []ScreenLine  // Rows at most
	Palette          []uint32      // 0xRRGGBB: 256 colours, and those of text, behind it and of the cursor where none is set
	Redraw           []byte        // makes a terminal of this size look and act like it
}

// ScreenCursor is where the cursor is, counted from 0.
type ScreenCursor struct {
	Row, Col int
	Visible  bool
	Shape    int  // as in DECSCUSR
	Pending  bool // the last column was written: the next character goes to the next line
}

// ScreenLine is a line, to the last place that shows something.
type ScreenLine struct {
	Cells   []ScreenCell
	Wrapped bool // it goes on in the next one
}

// ScreenCell is a place.
type ScreenCell struct {
	Text  string // " " where there is nothing
	Width int    // 1 or 2 places; 0: the second place of the cell before
	Style int    // a number in Screen.Styles
}

// ScreenStyle is how text looks. A colour is 0 for the terminal's own, 1 to 256 for the palette's, from 1, and otherwise 0x1000000 and 0xRRGGBB.
type ScreenStyle struct {
	Fg, Bg, UnderlineColor                                        uint32
	Bold, Faint, Italic, Blink, Reverse, Hidden, Strike, Overline bool
	Underline                                                     int    // as in SGR 4:n
	Link                                                          string // a URI
}

// Screen tells what a console shows.
func (s *server) Screen(_ context.Context, req *sinkpb.ScreenRequest) (*sinkpb.ScreenResponse, error) {
	if len(req.Remains) > 0 {
		return s.screenOf(req.Remains)
	}
	o, err := s.console(req.Opening)
	if err != nil {
		return nil, err
	}
	return s.screen(o.console)
}

func (s *server) screen(c ConsoleSink) (*sinkpb.ScreenResponse, error) {
	screen, err := c.Screen()
	switch {
	case errors.Is(err, errors.ErrUnsupported):
		return nil, status.Errorf(codes.Unimplemented, "sink %s does not know what its consoles show", s.plugin.Name)
	case err != nil:
		return nil, openError(fmt.Errorf("screen: %w", err))
	}
	return screen.wire(), nil
}

// wire is s as it is sent.
func (s *Screen) wire() *sinkpb.ScreenResponse {
	out := &sinkpb.ScreenResponse{
		Size: &sinkpb.Size{Rows: uint32(s.Rows), Cols: uint32(s.Cols)}, Offset: s.Offset, Modes: s.Modes, Title: s.Title, IconTitle: s.IconTitle,
		Palette: s.Palette, Redraw: s.Redraw,
		Cursor: &sinkpb.Cursor{
			Row: uint32(s.Cursor.Row), Col: uint32(s.Cursor.Col), Visible: s.Cursor.Visible, Shape: uint32(s.Cursor.Shape), Pending: s.Cursor.Pending,
		},
	}
	for _, t := range s.Styles {
		out.Styles = append(out.Styles, &sinkpb.Style{
			Fg: t.Fg, Bg: t.Bg, UnderlineColor: t.UnderlineColor, Bold: t.Bold, Faint: t.Faint, Italic: t.Italic, Blink: t.Blink,
			Reverse: t.Reverse, Hidden: t.Hidden, Strike: t.Strike, Overline: t.Overline, Underline: uint32(t.Underline), Link: t.Link,
		})
	}
	for _, l := range s.Lines {
		line := &sinkpb.Line{Wrapped: l.Wrapped, Cells: make([]*sinkpb.Cell, len(l.Cells))}
		all := make([]sinkpb.Cell, len(l.Cells))
		for i, c := range l.Cells {
			all[i].Text, all[i].Width, all[i].Style = c.Text, uint32(c.Width), uint32(c.Style)
			line.Cells[i] = &all[i]
		}
		out.Lines = append(out.Lines, line)
	}
	return out
}
