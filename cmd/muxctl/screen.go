package main

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/muxd/muxd/control/controlpb"
)

func (a *app) screenCmd() *cobra.Command {
	return &cobra.Command{
		Use: "screen ID", Short: "Print what a child's console shows", Args: args(cobra.ExactArgs(1)),
		Long: `screen prints the text that is on the screen of a console now. With -o json it tells everything: each cell with its style, the
cursor, the modes that are set, the title, and how much output has been shown.`,
		Example: "  muxctl screen editor\n  muxctl screen editor -o json | jq .cursor", ValidArgsFunction: a.completeThen(),
		RunE: func(c *cobra.Command, argv []string) error {
			s, err := a.screen(c, argv[0])
			if err != nil {
				return err
			}
			if a.output == "json" {
				return printJSON(viewScreen(s))
			}
			fmt.Print(screenText(s))
			return nil
		},
	}
}

func (a *app) screen(c *cobra.Command, id string) (*controlpb.ScreenResponse, error) {
	m, err := a.muxd()
	if err != nil {
		return nil, err
	}
	return m.API.Screen(c.Context(), &controlpb.ScreenRequest{Child: id})
}

// screenText is the screen's text, without blank ends of lines.
func screenText(s *controlpb.ScreenResponse) string {
	var b strings.Builder
	for _, l := range s.Lines {
		var line strings.Builder
		for _, c := range l.Cells {
			line.WriteString(c.Text)
		}
		b.WriteString(strings.TrimRight(line.String(), " ") + "\n")
	}
	return b.String()
}

// screenView is a screen as -o json gives it. Its fields' names are stable.
type screenView struct {
	Rows   uint32     `json:"rows"`
	Cols   uint32     `json:"cols"`
	Offset uint64     `json:"offset"`
	Cursor cursorView `json:"cursor"`
	Modes  []string   `json:"modes"`
	Title  string     `json:"title"`
	Icon   string     `json:"icon_title"`
	Lines  []lineView `json:"lines"`
}

type cursorView struct {
	Row     uint32 `json:"row"` // from 0
	Col     uint32 `json:"col"`
	Visible bool   `json:"visible"`
	Shape   uint32 `json:"shape"`
	Pending bool   `json:"pending"`
}

type lineView struct {
	Text    string     `json:"text"`
	Wrapped bool       `json:"wrapped"`
	Cells   []cellView `json:"cells"`
}

type cellView struct {
	Text      string `json:"text"`
	Width     uint32 `json:"width"`
	Fg        string `json:"fg,omitempty"` // a number in the palette, or #RRGGBB
	Bg        string `json:"bg,omitempty"`
	UnderFg   string `json:"underline_color,omitempty"`
	Bold      bool   `json:"bold,omitempty"`
	Faint     bool   `json:"faint,omitempty"`
	Italic    bool   `json:"italic,omitempty"`
	Blink     bool   `json:"blink,omitempty"`
	Reverse   bool   `json:"reverse,omitempty"`
	Hidden    bool   `json:"hidden,omitempty"`
	Strike    bool   `json:"strike,omitempty"`
	Overline  bool   `json:"overline,omitempty"`
	Underline uint32 `json:"underline,omitempty"`
	Link      string `json:"link,omitempty"`
}

func viewScreen(s *controlpb.ScreenResponse) screenView {
	v := screenView{
		Rows: s.Size.GetRows(), Cols: s.Size.GetCols(), Offset: s.Offset, Modes: append([]string{}, s.Modes...),
		Title: s.Title, Icon: s.IconTitle,
		Cursor: cursorView{s.Cursor.GetRow(), s.Cursor.GetCol(), s.Cursor.GetVisible(), s.Cursor.GetShape(), s.Cursor.GetPending()},
	}
	text := strings.Split(screenText(s), "\n")
	for y, l := range s.Lines {
		line := lineView{Text: text[y], Wrapped: l.Wrapped, Cells: []cellView{}}
		for _, c := range l.Cells {
			st := screenStyle(s, c)
			line.Cells = append(line.Cells, cellView{
				c.Text, c.Width, viewColor(st.Fg), viewColor(st.Bg), viewColor(st.UnderlineColor), st.Bold, st.Faint, st.Italic, st.Blink,
				st.Reverse, st.Hidden, st.Strike, st.Overline, st.Underline, st.Link,
			})
		}
		v.Lines = append(v.Lines, line)
	}
	return v
}

// screenStyle is c's style; a plugin's mistake is the default.
func screenStyle(s *controlpb.ScreenResponse, c *controlpb.Cell) *controlpb.Style {
	if int(c.Style) >= len(s.Styles) {
		return &controlpb.Style{}
	}
	return s.Styles[c.Style]
}

func viewColor(c uint32) string {
	switch {
	case c == 0:
		return ""
	case c <= 256:
		return fmt.Sprint(c - 1)
	}
	return fmt.Sprintf("#%06x", c&0xffffff)
}
