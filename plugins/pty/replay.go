package pty

import (
	"bytes"
	"fmt"
	"math"
	"strconv"
	"strings"
)

// replay is what a viewer wants to see of the past.
type replay struct {
	draw  bool // on a terminal the screen
	above int  // and before it so many of the last lines that were scrolled off
	lines int  // elsewhere so many of the last lines of output; 0: nothing
	exact bool // go on at offset from
	again bool // go on where the viewer's terminal is
	since bool // begin at offset from, or at the oldest that is kept
	from  uint64
}

// parseReplay reads Viewer.Replay. Empty means screen.
func parseReplay(s string) (replay, error) {
	key, value, _ := strings.Cut(s, "=")
	switch {
	case s == "" || s == "screen":
		return replay{draw: true, lines: math.MaxInt}, nil
	case s == "all":
		return replay{draw: true, above: math.MaxInt, lines: math.MaxInt}, nil
	case s == "none":
		return replay{}, nil
	case s == "again":
		return replay{again: true}, nil
	case key == "lines":
		if n, err := strconv.Atoi(value); err == nil && n >= 0 {
			return replay{draw: true, above: n, lines: n}, nil
		}
	case key == "from" || key == "since":
		if n, err := strconv.ParseUint(value, 10, 64); err == nil {
			return replay{lines: math.MaxInt, exact: key == "from", since: key == "since", from: n}, nil
		}
	}
	return replay{}, fmt.Errorf("replay %q: want screen, all, none, lines=N, from=OFFSET or since=OFFSET", s)
}

// begin returns the offset at which a viewer begins, and whether it goes on from there exactly, as if it had never
// been away. Otherwise what lies before the ring's end is to be redrawn. With since it is the bytes that count, and the
// viewer sees at the offset of the first whether any are missing.
func (r *ring) begin(want replay) (offset uint64, exact bool) {
	if want.since {
		return min(max(want.from, r.start()), r.end()), true
	}
	if want.exact && want.from >= r.start() && want.from <= r.end() {
		return want.from, true
	}
	return max(r.sensible(), r.lineStart(want.lines)), false
}

// sensibleWithin is how far sensible looks. Escape sequences that are longer are rare; lines that are longer are not.
const sensibleWithin = 4 << 10

// sensible is the first offset at which a terminal can begin to draw: the stream's own beginning, or behind a newline
// or carriage return, or at an escape character, so never inside an escape sequence or a character. Where
// there is no such place near it is behind the rest of a UTF-8 sequence, of which no more than three bytes can be left.
func (r *ring) sensible() uint64 {
	start := r.start()
	if start == 0 {
		return 0
	}
	kept := int(r.end() - start)
	within := min(kept, sensibleWithin)
	for k := 0; k < within; {
		p := r.at(start + uint64(k))
		p = p[:min(len(p), within-k)]
		if i := bytes.IndexAny(p, "\n\r\x1b"); i >= 0 {
			if p[i] != '\x1b' {
				i++
			}
			return start + uint64(k+i)
		}
		k += len(p)
	}
	skip := uint64(0)
	for skip < uint64(min(kept, 3)) && r.at(start + skip)[0]&0xc0 == 0x80 {
		skip++
	}
	return start + skip
}

// lineStart is where the last n lines begin; an unfinished last line counts as one. Where fewer are kept it is the
// ring's start.
func (r *ring) lineStart(n int) uint64 {
	if n == 0 {
		return r.end()
	}
	start := r.start()
	for off := r.end(); off > start; off-- {
		if r.at(off - 1)[0] != '\n' || off == r.end() {
			continue
		}
		if n--; n == 0 {
			return off
		}
	}
	return start
}
