package sink

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"iter"
)

// Line is a line of a stream, or a piece of a long one. See Chunk.Lines.
type Line struct {
	Offset uint64 // in the stream, of Text's first byte; no two lines of a stream have the same
	Text   []byte // without the newline; valid until Write returns
	// Partial says that no newline stood behind Text: the line goes on in the stream's next Line, or the stream has ended.
	Partial bool
	// Again says that an earlier process of this plugin was killed while it had this line, so that it may have been put out.
	Again bool

	chunk *Chunk
	end   uint64 // offset of what follows in the stream
}

// Lines are the lines of the stream that end in this chunk. A line that ends in a later chunk comes with that one, whatever
// process gets it, and one without an end with the chunk that is Last. One of more than most bytes comes in pieces of most bytes, all
// but the last of them Partial; most is at least 1 and at most StateMost, or Lines panics. Where lines begin and end does not depend on
// how the stream came in chunks.
//
// Lines uses the chunk's state and its intent, which a sink that calls it must not use. It may be ranged over more than once.
func (c *Chunk) Lines(most int) iter.Seq[Line] {
	if most < 1 || most > StateMost {
		panic(fmt.Sprintf("sink: lines of %d bytes; want 1 to %d", most, StateMost))
	}
	carry := c.State() // not overwritten by SetState, which has another place
	if c.Last {
		c.SetState(nil)
	} else {
		c.SetState(unended(carry, c.Data, most))
	}
	done := c.doneBefore()
	return func(yield func(Line) bool) {
		at := c.Offset - uint64(len(carry))
		first, data := carry, c.Data
		pass := func(text []byte, partial bool) bool {
			l := Line{Offset: at, Text: text, Partial: partial, Again: c.Again, chunk: c, end: at + uint64(len(text))}
			if !partial {
				l.end++
			}
			at = l.end
			return l.end <= done || yield(l)
		}
		for len(first) > 0 || len(data) > 0 {
			n := bytes.IndexByte(data, '\n')
			text, ended := data, n >= 0
			if ended {
				text, data = data[:n], data[n+1:]
			} else {
				data = nil
			}
			if len(first) > 0 {
				text, first = append(bytes.Clone(first), text...), nil
			}
			for len(text) > most {
				if !pass(text[:most], true) {
					return
				}
				text = text[most:]
			}
			if (ended || c.Last && len(text) > 0) && !pass(text, !ended) {
				return
			}
		}
	}
}

// Done records that this line, and all before it in its stream, are where they belong, so that they do not come again. A
// sink that puts out line by line calls it after each, and then only one can come Again; a sink whose destination drops what
// it has seen before, by Offset, need not call it at all. What is recorded outlives the process at once.
func (l Line) Done() {
	l.chunk.Intend(binary.BigEndian.AppendUint64(nil, l.end))
}

// doneBefore is the end of the lines of this chunk that are Done.
func (c *Chunk) doneBefore() uint64 {
	if b := c.Intent(); len(b) == 8 {
		return binary.BigEndian.Uint64(b)
	}
	return 0
}

// unended is what is left of a stream's bytes when its whole lines, and the pieces of a long one, are cut off.
func unended(carry, data []byte, most int) []byte {
	if n := bytes.LastIndexByte(data, '\n'); n >= 0 {
		carry, data = nil, data[n+1:]
	}
	rest := len(carry) + len(data)
	if rest > most {
		rest = (rest-1)%most + 1
	}
	if rest <= len(data) {
		return data[len(data)-rest:]
	}
	return append(bytes.Clone(carry[len(carry)-(rest-len(data)):]), data...)
}
