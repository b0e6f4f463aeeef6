package pty

import (
	"strings"
	"testing"

	"github.com/muxd/muxd/sink"
)

// A program that asks where the cursor is gets one answer, whoever is attached, and no other terminal hears the question.
func TestAnswers(t *testing.T) {
	h := newHarness(t, 1000)
	ask := `stty raw -echo; printf 'ab\033[6n'; head -c 6 | od -An -c; printf '\033]11;?\033\\'; read x`
	other := h.attach("all", 24, 80, true)
	h.run("sh", "-c", ask)
	other.until("033   [   1   ;   3   R") // the console's: a read-only viewer has no say
	other.until("\x1b]11;?\x18\x00")
	if strings.Contains(other.drawn.String(), "\x1b[6n") || !strings.Contains(other.drawn.String(), "\x1b[6\x18") {
		t.Errorf("a read-only viewer is shown %q", other.output.String())
	}
}

func TestOneViewerAnswers(t *testing.T) {
	h := newHarness(t, 1000)
	first := h.attach("all", 24, 80, false)
	second := h.attach("all", 24, 80, false)
	second.resize(24, 80) // now it is the latest
	pipe := h.attach("all", 0, 0, true)
	second.typeKeys("x")
	for second.acked == 0 {
		second.frame()
	}
	h.c.Write(h.ctx, &sink.Chunk{Data: []byte("\x1b[c")})
	h.c.Write(h.ctx, &sink.Chunk{Offset: 3, Data: []byte("over")})
	for _, k := range []*client{first, second, pipe} {
		k.until("over")
	}
	for name, k := range map[string]*client{"\x1b[\x18over": first, "\x1b[cover": second} {
		if got := k.output.String(); got != name {
			t.Errorf("%q, want %q", got, name)
		}
	}
	if got := pipe.output.String(); got != "\x1b[cover" {
		t.Errorf("a viewer without a terminal is shown %q, and not what there was", got)
	}
	if p := h.c.answers; len(p) != 0 {
		t.Errorf("the console answers %q as well", p)
	}
}

// A question that came again after a kill is not answered again.
func TestNotAnsweredAgain(t *testing.T) {
	b := sparse(t, memorySize(1000))
	h := newHarness(t, 1000)
	in, err := h.c.in.dup()
	if err != nil {
		t.Fatal(err)
	}
	c, err := newConsole(in, newMemory(b, 1000), h.exit)
	if err != nil {
		t.Fatal(err)
	}
	c.show(0, []byte("\x1b[6n"))
	if string(c.answers) != "\x1b[1;1R" {
		t.Errorf("answer %q", c.answers)
	}
	c.Close()
	if in, err = h.c.in.dup(); err != nil {
		t.Fatal(err)
	}
	again, err := newConsole(in, newMemory(b, 1000), h.exit)
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	again.show(0, []byte("\x1b[6n"))
	if len(again.answers) > 0 {
		t.Errorf("answered again: %q", again.answers)
	}
	again.show(4, []byte("\x1b[5n"))
	if string(again.answers) != "\x1b[0n" {
		t.Errorf("answer %q", again.answers)
	}
}
