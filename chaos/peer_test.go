package chaos

import (
	"bytes"
	"errors"
	"io"
	"net"
	"os"
	"strconv"
	"testing"
	"time"
)

// peer is what is at the other end of a socket sink: it keeps what each connection gave.
type peer struct {
	conns [][]byte
	done  chan struct{}
	err   error
	came  func() // is told whenever something comes; nil: nobody is
	exact bool   // the connection outlives the plugin, and gives every byte once; otherwise a new one may begin with what was given already
}

// accept listens on path for the connection of a sink, and reads it to its end.
func accept(t *testing.T, path string) *peer {
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	p := &peer{done: make(chan struct{}), exact: true}
	go func() {
		defer close(p.done)
		c, err := l.Accept()
		if err != nil {
			p.err = err
			return
		}
		defer c.Close()
		var r io.Reader = c
		if p.came != nil {
			r = &teller{c, p.came}
		}
		b, err := io.ReadAll(r)
		p.conns, p.err = [][]byte{b}, err
	}()
	return p
}

// teller tells of every read.
type teller struct {
	io.Reader
	tell func()
}

func (r *teller) Read(p []byte) (int, error) {
	n, err := r.Reader.Read(p)
	r.tell()
	return n, err
}

// connect reads from a sink that listens on path, and connects again when the connection ends, until nobody listens there for a second.
func connect(path string) *peer {
	p := &peer{done: make(chan struct{})}
	go func() {
		defer close(p.done)
		for last := time.Now(); ; {
			c, err := net.Dial("unix", path)
			if err != nil {
				if _, statErr := os.Lstat(path); errors.Is(statErr, os.ErrNotExist) && time.Since(last) > time.Second {
					return // the sink has removed it at its end
				}
				time.Sleep(time.Millisecond) // polling until there is a successor
				continue
			}
			b, _ := io.ReadAll(c) // with a plugin that is killed it may break
			c.Close()
			if len(b) > 0 {
				p.conns = append(p.conns, b)
			}
			last = time.Now()
		}
	}()
	return p
}

// againMost is how much a new connection may give again: a chunk.
const againMost = 1 << 20

// check compares what came with what the child wrote.
func (p *peer) check(t *testing.T, r *result) {
	t.Helper()
	select {
	case <-p.done:
	case <-time.After(60 * time.Second):
		t.Errorf("%s: the connection does not end", r.name)
		return
	}
	if p.err != nil {
		t.Errorf("%s: %v", r.name, p.err)
	}
	if p.exact {
		r.check(t, decode(t, r.spec, bytes.Join(p.conns, nil)))
		return
	}
	text, err := os.ReadFile(r.count)
	if err != nil {
		t.Errorf("%s: %v", r.name, err)
		return
	}
	records, _ := strconv.Atoi(string(text))
	var want []byte
	for n := range records {
		want = append(want, record(r.kind, r.seed, n)...)
	}
	at, again := 0, 0
	for i, got := range p.conns {
		from := max(0, at-againMost)
		head := got[:min(len(got), 256)]
		begins := bytes.LastIndex(want[from:min(len(want), at+len(head))], head)
		if begins < 0 || !bytes.HasPrefix(want[from+begins:], got) {
			t.Errorf("%s: connection %d gives %.60q… (%d bytes) behind byte %d, which is no part of the stream there", r.name, i, got, len(got), at)
			return
		}
		again += at - from - begins
		at = max(at, from+begins+len(got))
	}
	if at != len(want) {
		t.Errorf("%s: %d bytes came, of %d", r.name, at, len(want))
	}
	t.Logf("%s (%s, %s): %d records on %d connections, %d bytes again", r.name, r.kind, r.spec, records, len(p.conns), again)
}
