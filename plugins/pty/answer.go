package pty

import (
	"github.com/muxd/muxd/plugins/pty/screen"
)

// A program that asks its terminal something, as where the cursor is, gets one answer: of one viewer's terminal, or from
// the console where no viewer could answer. The terminals of all others are shown the question in a form that they
// drop. A question is dealt with once, whoever is killed over it: that it was is recorded before the answer goes out.

// question is a question of the program that may still be shown.
type question struct {
	end  uint64    // offset behind it
	mask byte      // to be shown in place of its last byte
	to   *attached // whose terminal answers; nil: nobody's
}

// questionsMost bounds how many are remembered, each for as long as the output that it is in is kept.
const questionsMost = 1024

// asked deals with a question. c.mu is held, or nobody else has c yet.
func (c *consoleSink) asked(end uint64, q screen.Query) {
	k := question{end: end, mask: q.Mask}
	switch n := len(c.questions); {
	case end <= c.dealt.Load(): // by a predecessor
	case q.Answer == "" && n > 0 && c.questions[n-1].end == end-1: // the end of the one before
		k.to = c.questions[n-1].to
	default:
		k.to = c.answerer()
	}
	if end > c.dealt.Load() {
		c.dealt.Store(end)
		if k.to == nil {
			c.answers = append(c.answers, q.Answer...)
		}
	}
	if len(c.questions) == questionsMost {
		c.questions = c.questions[1:]
	}
	c.questions = append(c.questions, k)
}

// answerer is the viewer whose terminal answers: it must have one, type, and keep up. c.mu is held.
func (c *consoleSink) answerer() *attached {
	can := func(a *attached) bool { return a != nil && a.terminal && !a.v.ReadOnly && !a.slow && !a.over }
	if can(c.sizes.latest) {
		return c.sizes.latest
	}
	for a := range c.viewers {
		if can(a) {
			return a
		}
	}
	return nil
}

// answer types the answers that are due. Where the child does not take its input, or somebody is typing, they are dropped.
func (c *consoleSink) answer() {
	c.mu.Lock()
	b := c.answers
	c.answers = nil
	c.mu.Unlock()
	if len(b) > 0 {
		c.keys.answer(b)
	}
}

// masked is p, output from offset on, as a shall see it. c.mu is held.
func (c *consoleSink) masked(a *attached, offset uint64, p []byte) []byte {
	for len(c.questions) > 0 && c.questions[0].end <= c.past.start() {
		c.questions = c.questions[1:]
	}
	if !a.terminal {
		return p
	}
	own := false
	for _, q := range c.questions {
		if q.to == a || q.end <= offset || q.end > offset+uint64(len(p)) {
			continue
		}
		if !own {
			p, own = append([]byte(nil), p...), true
		}
		p[q.end-offset-1] = q.mask
	}
	return p
}
