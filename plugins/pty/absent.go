package pty

import "time"

// backMost is how long a console waits for a viewer that is to miss nothing, and whose connection broke with the predecessor: as long as
// muxctl tries to connect again.
const backMost = 10 * time.Second

// A console counts its viewers in memory that outlives it, those that are to miss nothing in the upper half of the word and the others in the
// lower one, so that a successor knows whom it has to wait for.
const (
	oneOther   = uint64(1)
	oneHolding = uint64(1) << 32
)

func (a *attached) count() uint64 {
	if a.v.Hold {
		return oneHolding
	}
	return oneOther
}

// absent are viewers of a predecessor that have not come back. They stay counted. The console's lock is held for all of this but late.
type absent struct {
	holding, others uint64
	back            chan struct{} // closed when there are none
	late            *time.Timer   // when those that are to miss nothing are waited for no longer
}

func newAbsent(counted uint64) absent {
	b := absent{holding: counted / oneHolding, others: counted % oneHolding, back: make(chan struct{}), late: time.NewTimer(backMost)}
	b.check()
	return b
}

func (b *absent) check() {
	if b.holding == 0 {
		b.late.Stop()
	}
	if b.holding == 0 && b.others == 0 {
		close(b.back)
	}
}

// here says whether a, which has come, is one of them.
func (b *absent) here(a *attached) bool {
	kind := &b.others
	if a.v.Hold {
		kind = &b.holding
	}
	if *kind == 0 {
		return false
	}
	*kind--
	b.check()
	return true
}

// giveUp forgets those that are to miss nothing, and returns what they count.
func (b *absent) giveUp() uint64 {
	n := b.holding
	if b.holding = 0; n > 0 {
		b.check()
	}
	return n * oneHolding
}
