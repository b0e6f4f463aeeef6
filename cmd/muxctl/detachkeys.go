package main

import (
	"fmt"
	"strings"
)

// parseDetachKeys reads a key sequence in docker's syntax: keys separated by commas, each one ASCII character or
// ctrl-X, as in "ctrl-p,ctrl-q". The empty string is no sequence: nothing detaches.
func parseDetachKeys(s string) ([]byte, error) {
	if s == "" {
		return nil, nil
	}
	var keys []byte
	for _, name := range strings.Split(s, ",") {
		b, ok := parseKey(name)
		if !ok {
			return nil, fmt.Errorf("detach keys %q: %q is no key; want keys separated by commas, each one character or "+
				"ctrl- and a letter or one of @[\\]^_, as in ctrl-p,ctrl-q", s, name)
		}
		keys = append(keys, b)
	}
	return keys, nil
}

func parseKey(name string) (byte, bool) {
	if len(name) == 1 && name[0] < 0x80 {
		return name[0], true
	}
	if strings.EqualFold(name, "del") {
		return 0x7f, true
	}
	if len(name) != len("ctrl-")+1 || !strings.EqualFold(name[:5], "ctrl-") {
		return 0, false
	}
	c := name[5]
	switch {
	case 'a' <= c && c <= 'z':
		return c - 'a' + 1, true
	case '@' <= c && c <= '_': // '@', 'A' to 'Z', '[', '\', ']', '^', '_'
		return c - '@', true
	case c == '?':
		return 0x7f, true
	}
	return 0, false
}

// detachKeys finds the detach sequence in what is typed. It holds back what may be its beginning.
type detachKeys struct {
	keys []byte
	held int // the first held keys of the sequence have been typed
}

// feed takes what was typed. pass is what goes to the console: with what was held back before, if it turned out to be
// no beginning. With detach the sequence is complete, and rest is what was typed behind it. pass may be typed's memory.
func (d *detachKeys) feed(typed []byte) (pass, rest []byte, detach bool) {
	if len(d.keys) == 0 {
		return typed, nil, false
	}
	for i, b := range typed {
		for d.held > 0 && b != d.keys[d.held] {
			// Not that key: what was held is no beginning, but its own end may be one.
			keep := d.overlap()
			pass = append(pass, d.keys[:d.held-keep]...)
			d.held = keep
		}
		if b != d.keys[d.held] {
			pass = append(pass, b)
			continue
		}
		if d.held++; d.held == len(d.keys) {
			d.held = 0
			return pass, typed[i+1:], true
		}
	}
	return pass, nil, false
}

// overlap is the length of the longest end of what is held, other than all of it, that begins the sequence.
func (d *detachKeys) overlap() int {
	for n := d.held - 1; n > 0; n-- {
		if string(d.keys[:n]) == string(d.keys[d.held-n:d.held]) {
			return n
		}
	}
	return 0
}

// holding says whether something is held back.
func (d *detachKeys) holding() bool { return d.held > 0 }

// flush gives up waiting for the rest of the sequence and returns what was held back.
func (d *detachKeys) flush() []byte {
	p := d.keys[:d.held]
	d.held = 0
	return p
}
