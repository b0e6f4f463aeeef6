package sinktest

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/muxd/muxd/internal/spec"
	"github.com/muxd/muxd/sink/sinkpb"
)

// target is a sink spec that the plugin is checked with, and how what came out of it is read.
type target struct {
	text   string
	spec   spec.Spec // with placeholders
	read   string    // one of the placeholders, readLogs, readViewer, readNothing, or a command
	wiring sinkpb.Wiring
	exact  bool
	drops  bool
	out    sinkpb.Stream // the output stream that checks write to
}

// The ways to read what came out that are no command.
const (
	readOut     = "{out}"
	readListen  = "{listen}"
	readConnect = "{connect}"
	readFIFO    = "{fifo}"
	readLogs    = "logs"
	readNothing = "none"
	readViewer  = "viewer"
)

// builtinSpecs are what the built-in sinks are checked with where no spec is given.
var builtinSpecs = map[string][]string{
	"file":   {"file:{out},format=raw", "file:{out}", "file:{fifo},format=raw", "file:{out},mode=direct"},
	"socket": {"socket:unix:{listen}", "socket:listen=unix:{connect}", "socket:unix:{listen},policy=drop-oldest", "socket:unix:{listen},mode=direct"},
	"pty":    {"pty"},
}

// targets are what a plugin is checked with.
func targets(o *Options, d *sinkpb.Description) ([]*target, error) {
	texts := o.Specs
	if len(texts) == 0 && !d.Copies {
		texts = builtinSpecs[d.Name]
	}
	if len(texts) == 0 && !d.Copies {
		text, err := guess(d)
		if err != nil {
			return nil, err
		}
		texts = []string{text}
	}
	var out []*target
	for _, text := range texts {
		s, err := spec.Parse(text)
		if err != nil {
			return nil, err
		}
		if s.Name != d.Name {
			return nil, fmt.Errorf("the spec %s is for a sink %q, and the plugin calls itself %q", text, s.Name, d.Name)
		}
		t := &target{text: text, spec: s, read: o.Read, out: output(d)}
		if t.read == "" {
			t.read = howToRead(text, d)
		}
		out = append(out, t)
	}
	return out, nil
}

// guess is a spec for a plugin of which nothing is known but its description.
func guess(d *sinkpb.Description) (string, error) {
	hint := fmt.Errorf("no spec is known that %s could be checked with: give one, as in --spec '%s:{out}'", d.Name, d.Name)
	for _, opt := range d.Options {
		if opt.Required {
			return "", hint
		}
	}
	switch {
	case d.Arg == nil || !d.Arg.Required && d.Arg.Type != sinkpb.Option_PATH:
		return d.Name, nil
	case d.Arg.Type == sinkpb.Option_PATH:
		return d.Name + ":{dir}/out", nil // it need not be the bytes that stand there
	}
	return "", hint
}

// howToRead says how what comes out of a spec is read, where nobody said.
func howToRead(text string, d *sinkpb.Description) string {
	for _, p := range []string{readListen, readConnect, readFIFO} {
		if strings.Contains(text, p) {
			return p
		}
	}
	raw := strings.Contains(text, readOut)
	switch {
	case slices.Contains(d.Carries, sinkpb.Stream_CONSOLE):
		return readViewer
	case d.KeepsLogs && !(d.Name == "file" && (strings.Contains(text, "format=raw") || strings.Contains(text, "mode=direct"))):
		return readLogs
	case raw:
		return readOut
	}
	return readNothing
}

// output is the output stream that checks write to; 0 where there is none.
func output(d *sinkpb.Description) sinkpb.Stream {
	for _, st := range []sinkpb.Stream{sinkpb.Stream_STDOUT, sinkpb.Stream_STDERR, sinkpb.Stream_CONSOLE} {
		if slices.Contains(d.Carries, st) {
			return st
		}
	}
	return 0
}

// place is what the placeholders of an opening stand for.
type place struct{ dir string }

// newPlace makes one in dir, which does not exist.
func newPlace(dir string, t *target) (*place, error) {
	if err := os.MkdirAll(filepath.Join(dir, "dir"), 0o755); err != nil {
		return nil, err
	}
	p := &place{dir}
	if strings.Contains(t.text+t.read, readFIFO) {
		if err := unix.Mkfifo(p.path(readFIFO), 0o600); err != nil {
			return nil, fmt.Errorf("make a FIFO: %w", err)
		}
	}
	return p, nil
}

// path is what a placeholder stands for.
func (p *place) path(placeholder string) string {
	return filepath.Join(p.dir, strings.Trim(placeholder, "{}"))
}

// fill replaces the placeholders in text.
func (p *place) fill(text string) string {
	for _, ph := range []string{readOut, readListen, readConnect, readFIFO, "{dir}"} {
		text = strings.ReplaceAll(text, ph, p.path(ph))
	}
	return text
}

// wire is the target's spec for an opening with this place.
func (t *target) wire(p *place) *sinkpb.Spec {
	s := &sinkpb.Spec{Arg: p.fill(t.spec.Arg), Options: map[string]string{}}
	for k, v := range t.spec.Options {
		s.Options[k] = p.fill(v)
	}
	return s
}
