// Package protocols tells which versions of the sink protocol a program speaks: a range, of which muxd and a plugin take the
// highest that both have.
package protocols

import (
	"fmt"
	"strconv"
	"strings"
)

// Range is versions of a protocol, from Oldest to Newest.
type Range struct{ Oldest, Newest int }

// Of reads a range that is a constant of the program. It panics where it is none.
func Of(text string) Range {
	r, err := Parse(text)
	if err != nil {
		panic(err)
	}
	return r
}

// Parse reads what String writes.
func Parse(text string) (Range, error) {
	oldest, newest, several := strings.Cut(text, "-")
	if !several {
		newest = oldest
	}
	a, errA := strconv.Atoi(oldest)
	b, errB := strconv.Atoi(newest)
	if errA != nil || errB != nil || a < 0 || b < a || b-a >= most {
		return Range{}, fmt.Errorf("%q is no range of versions", text)
	}
	return Range{a, b}, nil
}

// most bounds how many versions a range has: nobody speaks more.
const most = 100

func (r Range) String() string {
	if r.Oldest == r.Newest {
		return strconv.Itoa(r.Newest)
	}
	return fmt.Sprintf("%d-%d", r.Oldest, r.Newest)
}

// Has says whether v is one of them.
func (r Range) Has(v int) bool { return r.Oldest <= v && v <= r.Newest }

// All lists the versions, the oldest first.
func (r Range) All() (out []int) {
	for v := r.Oldest; v <= r.Newest; v++ {
		out = append(out, v)
	}
	return out
}
