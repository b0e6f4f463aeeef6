package main

import (
	"fmt"
	"io"
	"strings"
	"testing"
)

func TestCastReader(t *testing.T) {
	for _, c := range []struct{ name, text, want string }{
		{"version 2", `{"version": 2, "width": 80, "height": 24}` + "\n" + `[0.5, "o", "a"]` + "\n" + `[2.25, "m", "here"]` + "\n", "500ms o a|2.25s m here|EOF"},
		{"version 3", `{"version":3,"term":{"cols":80,"rows":24}}` + "\n# a comment\n\n" + `[0.5, "o", "\u001b[m\"x"]` + "\n" + `[1.75, "x", "0"]` + "\n",
			"500ms o \x1b[m\"x|2.25s x 0|EOF"},
		{"only a header", `{"version":2,"width":80,"height":24}`, "EOF"},
		{"an unfinished line", `{"version":2}` + "\n" + `[1, "o", "a"]` + "\n" + `[2, "o`, "1s o a|EOF"},
		{"empty", "", "not an asciicast: EOF"},
		{"text", "text\n", "not an asciicast: its first line is no JSON object"},
		{"version 1", `{"version": 1, "stdout": []}` + "\n", "asciicast of version 1: only 2 and 3 can be replayed"},
		{"a broken line", `{"version":2}` + "\n" + `[1, "o"]` + "\n", `line 2 is no event: "[1, \"o\"]\n"`},
		{"a negative time", `{"version":2}` + "\n" + `[-1, "o", ""]` + "\n", `line 2 is no event: "[-1, \"o\", \"\"]\n"`},
	} {
		var got []string
		r, err := newCastReader(strings.NewReader(c.text))
		for err == nil {
			var e castEvent
			if e, err = r.next(); err == nil {
				got = append(got, fmt.Sprint(e.At, " ", e.Kind, " ", e.Data))
			}
		}
		if err == io.EOF {
			got = append(got, "EOF")
		} else {
			got = append(got, err.Error())
		}
		if strings.Join(got, "|") != c.want {
			t.Errorf("%s: %q, want %q", c.name, strings.Join(got, "|"), c.want)
		}
	}
}
