package main

import (
	"bytes"
	"math/rand/v2"
	"testing"
)

func TestParseDetachKeys(t *testing.T) {
	for in, want := range map[string]string{
		"":                           "",
		"ctrl-p,ctrl-q":              "\x10\x11",
		"ctrl-]":                     "\x1d",
		"ctrl-@":                     "\x00",
		"ctrl-^,ctrl-_,ctrl-\\":      "\x1e\x1f\x1c",
		"ctrl-[,d":                   "\x1bd",
		"a":                          "a",
		"~,.":                        "~.",
		"CTRL-A":                     "\x01",
		"DEL":                        "\x7f",
		"ctrl-a,ctrl-a,ctrl-b,space": "error",
		"ctrl-":                      "error",
		"ctrl-1":                     "error",
		"ctrl-pq":                    "error",
		",":                          "error",
		"a,":                         "error",
		"é":                          "error",
	} {
		got, err := parseDetachKeys(in)
		if want == "error" {
			if err == nil {
				t.Errorf("%q was taken as %q", in, got)
			}
			continue
		}
		if err != nil || string(got) != want {
			t.Errorf("%q: %q, %v, want %q", in, got, err, want)
		}
	}
}

// However the typing is cut into pieces, what passes is what stands before the first occurrence of the sequence, and
// where there is none, all of it, in order.
func TestDetachKeysProperty(t *testing.T) {
	for seed := range uint64(20000) {
		rnd := rand.New(rand.NewPCG(seed, 7))
		word := func(n int) []byte { // of few letters, so that beginnings are frequent
			b := make([]byte, n)
			for i := range b {
				b[i] = "aab"[rnd.IntN(3)]
			}
			return b
		}
		keys, text := word(rnd.IntN(5)), word(rnd.IntN(40))
		wantPass, wantRest, wantDetach := text, []byte(nil), false
		if i := bytes.Index(text, keys); i >= 0 && len(keys) > 0 {
			wantPass, wantRest, wantDetach = text[:i], text[i+len(keys):], true
		}

		d := detachKeys{keys: keys}
		var pass, rest []byte
		var detach bool
		left := text
		for len(left) > 0 && !detach {
			n := 1 + rnd.IntN(len(left))
			var p []byte
			p, rest, detach = d.feed(left[:n])
			pass = append(pass, p...)
			left = left[n:]
		}
		rest = append(bytes.Clone(rest), left...)
		if !detach {
			rest = nil
			if d.holding() != (d.held > 0) || d.held >= max(1, len(keys)) {
				t.Fatalf("seed %d: %d keys are held of %d", seed, d.held, len(keys))
			}
			pass = append(pass, d.flush()...)
			if d.holding() {
				t.Fatalf("seed %d: keys are held after flush", seed)
			}
		}
		if !bytes.Equal(pass, wantPass) || detach != wantDetach || !bytes.Equal(rest, wantRest) {
			t.Fatalf("seed %d: keys %q in %q: passed %q, left %q, %v; want %q, %q, %v", seed, keys, text, pass, rest,
				detach, wantPass, wantRest, wantDetach)
		}
	}
}

// A key after the pause does not complete a sequence that was begun before it.
func TestDetachKeysPause(t *testing.T) {
	d := detachKeys{keys: []byte("\x10\x11")}
	if pass, _, detach := d.feed([]byte("x\x10")); string(pass) != "x" || detach || !d.holding() {
		t.Fatalf("%q %v", pass, detach)
	}
	if p := d.flush(); string(p) != "\x10" {
		t.Errorf("flush: %q", p)
	}
	if pass, _, detach := d.feed([]byte("\x11")); string(pass) != "\x11" || detach {
		t.Errorf("%q %v", pass, detach)
	}
}
