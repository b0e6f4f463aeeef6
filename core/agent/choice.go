package agent

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"github.com/muxd/muxd/control/controlpb"
	"github.com/muxd/muxd/core/host"
	"github.com/muxd/muxd/internal/spec"
	"github.com/muxd/muxd/sink/sinkpb"
)

// choice is a sink spec and the streams of a child that it shall carry.
type choice struct {
	text    string // as it was given
	spec    spec.Spec
	wiring  string // pipe, adopt, pty, direct, inherit, null
	streams []sinkpb.Stream

	location string // where the bytes go, for people, as far as it is known before the sink is opened

	log       string  // of a console: the spec of the sink that also gets what it shows; it stands behind it
	copies    bool    // it copies its stream to the choices that stand behind it
	from      *choice // of a branch: what copies the stream to it, or the console
	removed   bool    // it gets nothing more, and is not opened again
	branching         // of a branch
}

// near lists the descriptors of the child that the choice provides, by number.
func (c *choice) near() []int {
	if c.from != nil {
		return nil
	}
	var out []int
	for _, s := range c.streams {
		if s == sinkpb.Stream_CONSOLE {
			return []int{0, 1, 2}
		}
		out = append(out, int(s)-1)
	}
	return out
}

var stdStreams = []sinkpb.Stream{sinkpb.Stream_STDIN, sinkpb.Stream_STDOUT, sinkpb.Stream_STDERR}

func streamName(s sinkpb.Stream) string { return strings.ToLower(s.String()) }

// streamOf is the name of the child's stream that s of c is: what stands behind a console gets as stdout what it shows.
func (c *choice) streamOf(s sinkpb.Stream) string {
	for c.from != nil {
		c = c.from
	}
	if slices.Contains(c.streams, sinkpb.Stream_CONSOLE) {
		s = sinkpb.Stream_CONSOLE
	}
	return streamName(s)
}

// Wirings that no plugin names: the first two are also sinks.
const (
	wiringInherit = "inherit"
	wiringNull    = "null"
	wiringAdopt   = "adopt"
)

// Wirings that plugins name.
const (
	wiringPipe   = "pipe"
	wiringPair   = "socketpair" // as pipe for the plugin; the core's own (wiring.go)
	wiringPTY    = "pty"
	wiringSocket = "console_socket"
)

// piped says whether the core makes what the plugin reads and writes.
func (c *choice) piped() bool { return c.wiring == wiringPipe || c.wiring == wiringPair }

// onPipe says whether the plugin reads or writes far ends that somebody else made.
func (c *choice) onPipe() bool {
	return c.piped() || c.wiring == wiringAdopt && !slices.Contains(c.streams, sinkpb.Stream_CONSOLE)
}

// choose decides which sink carries which stream of a child. It starts the plugins that it must ask. Its errors are
// the user's.
func (a *Agent) choose(ctx context.Context, cs *controlpb.ChildSpec, child *sinkpb.Child) ([]*choice, error) {
	given := cs.Sinks
	if len(given) == 0 {
		given = []*controlpb.SinkChoice{{Spec: a.cfg.Load().Agent.DefaultSink}}
	}
	byStream := map[sinkpb.Stream][]string{}
	whole := ""
	for _, g := range given {
		if g.Stream == "" {
			if whole != "" {
				return nil, fmt.Errorf("--sink is given twice (%q and %q); name streams with --stdout and --stderr", whole, g.Spec)
			}
			whole = g.Spec
			continue
		}
		i := slices.IndexFunc(stdStreams, func(s sinkpb.Stream) bool { return streamName(s) == g.Stream })
		if i < 0 {
			return nil, fmt.Errorf("unknown stream %q: want stdin, stdout or stderr", g.Stream)
		}
		byStream[stdStreams[i]] = append(byStream[stdStreams[i]], g.Spec)
	}
	var out []*choice
	add := func(text string, streams []sinkpb.Stream, exact bool) error {
		c, err := a.resolve(ctx, text, streams, exact, cs, child)
		if err != nil || len(c.streams) == 0 {
			return err
		}
		out = append(out, &c)
		if c.log != "" {
			more, err := a.logged(ctx, &c, cs, child)
			if err != nil {
				return err
			}
			out = append(out, more...)
		}
		return nil
	}
	// Streams with the same spec share one opening: one connection, one file. What is copied does not.
	for i, s := range stdStreams {
		texts, ok := byStream[s]
		if !ok {
			continue
		}
		switch copied, err := a.fans(texts); {
		case err != nil:
			return nil, err
		case copied:
			more, err := a.fanOut(ctx, s, texts, func(text string) (choice, error) {
				return a.resolve(ctx, text, []sinkpb.Stream{s}, true, cs, child)
			})
			if err != nil {
				return nil, err
			}
			out = append(out, more...)
			continue
		}
		same := func(o sinkpb.Stream) bool { return slices.Equal(byStream[o], texts) }
		if slices.ContainsFunc(stdStreams[:i], same) {
			continue
		}
		if err := add(texts[0], slices.DeleteFunc(slices.Clone(stdStreams), func(o sinkpb.Stream) bool { return !same(o) }), true); err != nil {
			return nil, err
		}
	}
	var open []sinkpb.Stream
	for _, s := range stdStreams {
		if _, ok := byStream[s]; !ok {
			open = append(open, s)
		}
	}
	if whole != "" && len(open) > 0 {
		switch copied, err := a.fans([]string{whole}); {
		case err != nil:
			return nil, err
		case copied:
			return nil, fmt.Errorf("--sink %s: %s= is for one stream; use --stdout and --stderr", whole, branchOption)
		}
		if err := add(whole, open, false); err != nil {
			return nil, err
		}
	}
	var rest []sinkpb.Stream
	for _, s := range stdStreams {
		if !slices.ContainsFunc(out, func(c *choice) bool { return slices.Contains(c.near(), int(s)-1) }) {
			rest = append(rest, s)
		}
	}
	if len(rest) > 0 {
		out = append(out, &choice{text: wiringNull, spec: spec.Spec{Name: wiringNull}, wiring: wiringNull, streams: rest})
	}
	return out, nil
}

// resolve judges one spec for streams: all of them where exact, otherwise those that it can carry.
func (a *Agent) resolve(ctx context.Context, text string, streams []sinkpb.Stream, exact bool, cs *controlpb.ChildSpec, child *sinkpb.Child) (choice, error) {
	q := questionOf(text, streams, exact, cs.Cwd)
	if had, ok := a.remembered(q); ok {
		return had, nil
	}
	c := choice{text: text, streams: streams}
	cfg := a.cfg.Load()
	var err error
	if c.spec, err = cfg.Preset(text); err != nil {
		return c, err
	}
	if c.branching, err = takeBranching(c.spec, string(cs.Cwd)); err != nil {
		return c, err
	}
	pair, err := takeWiring(c.spec)
	if err != nil {
		return c, err
	}
	if n := c.spec.Name; pair && (n == wiringInherit || n == wiringNull) {
		return c, fmt.Errorf("sink %s: the child has something else than a pipe, which %s=%s could stand for", n, wiringOption, wiringPair)
	} else if n == wiringInherit || n == wiringNull {
		c.wiring = n
		return c, c.spec.Check(nil, nil)
	}
	p, err := a.host.Get(ctx, c.spec.Name)
	if err != nil {
		return c, err
	}
	d := p.Description()
	if d.Copies {
		return c, fmt.Errorf("sink %s is not for use by itself: it copies a stream that has several sinks, as with --stdout A --stdout B", c.spec.Name)
	}
	if slices.Contains(d.Carries, sinkpb.Stream_CONSOLE) {
		if c.log, err = takeLog(c.spec, d); err != nil {
			return c, err
		}
	}
	carries := streams
	switch {
	case slices.Contains(d.Carries, sinkpb.Stream_CONSOLE) && exact:
		return c, fmt.Errorf("sink %s is a console, which is stdin, stdout and stderr at once: use --sink %s", c.spec.Name, text)
	case slices.Contains(d.Carries, sinkpb.Stream_CONSOLE):
		carries = []sinkpb.Stream{sinkpb.Stream_CONSOLE}
	default:
		carries = nil
		for _, s := range streams {
			switch {
			case slices.Contains(d.Carries, s) && (exact || !slices.Contains(d.ByName, s)):
				carries = append(carries, s)
			case exact:
				return c, fmt.Errorf("sink %s cannot carry %s", c.spec.Name, streamName(s))
			}
		}
	}
	c.streams = carries
	if len(carries) == 0 {
		return c, nil
	}
	c.spec = absolute(c.spec, d, string(cs.Cwd))
	if err := c.spec.Check(optionOf(d.Arg), optionsOf(d)); err != nil {
		return c, err
	}
	if err := withinBounds(c.spec, d, p.Bounds()); err != nil {
		return c, err
	}
	resp, err := p.Sinks().Check(ctx, &sinkpb.CheckRequest{Spec: wireSpec(c.spec), Child: child, Streams: carries})
	switch {
	case err != nil && pluginGone(err):
		return c, plainStatus(err) // to be asked again, of its successor
	case err != nil:
		return c, plainError(err)
	}
	if err := wiringFits(resp.Wiring, carries); err != nil {
		return c, fmt.Errorf("sink %s: %w", c.spec.Name, err)
	}
	c.wiring, c.location = strings.ToLower(resp.Wiring.String()), resp.Location
	switch {
	case !pair:
	case c.wiring != wiringPipe:
		return c, fmt.Errorf("sink %s: %s=%s stands for pipes, and this has the child get something else (%s)", c.text, wiringOption, wiringPair, c.wiring)
	default:
		c.wiring = wiringPair
	}
	a.remember(q, p, cfg, c)
	return c, nil
}

// wiringFits refuses a wiring that is not known here, or that the streams cannot have.
func wiringFits(w sinkpb.Wiring, streams []sinkpb.Stream) error {
	console := slices.Contains(streams, sinkpb.Stream_CONSOLE)
	switch w {
	case sinkpb.Wiring_PIPE, sinkpb.Wiring_DIRECT:
		if !console {
			return nil
		}
	case sinkpb.Wiring_PTY, sinkpb.Wiring_CONSOLE_SOCKET:
		if console {
			return nil
		}
	default:
		return fmt.Errorf("its plugin wants wiring %d, which this muxd does not know: is the plugin newer? update muxd", w)
	}
	return fmt.Errorf("its plugin wants wiring %v, and %v cannot have it", w, streams)
}

func wireSpec(s spec.Spec) *sinkpb.Spec { return &sinkpb.Spec{Arg: s.Arg, Options: s.Options} }

// absolute makes the paths of s absolute against the child's working directory.
func absolute(s spec.Spec, d *sinkpb.Description, cwd string) spec.Spec {
	fix := func(v string) string {
		if v == "" || filepath.IsAbs(v) {
			return v
		}
		return filepath.Join("/", cwd, v)
	}
	if d.Arg.GetType() == sinkpb.Option_PATH {
		s.Arg = fix(s.Arg)
	}
	for _, o := range d.Options {
		if v, ok := s.Options[o.Name]; ok && o.Type == sinkpb.Option_PATH {
			s.Options[o.Name] = fix(v)
		}
	}
	return s
}

// withinBounds refuses a path that the plugin may not reach.
func withinBounds(s spec.Spec, d *sinkpb.Description, b *host.Bounds) error {
	for _, o := range append([]*sinkpb.Option{d.Arg}, d.Options...) {
		v, ok := s.Arg, s.Arg != ""
		if o != d.Arg {
			v, ok = s.Options[o.Name]
		}
		if ok && o.GetType() == sinkpb.Option_PATH && !b.Reach(v) {
			return fmt.Errorf("sink %s: %s is outside of what the plugin may reach; add its directory to paths in [plugins.%s] of the "+
				"configuration, then muxctl agent reload and muxctl plugin restart %s", s.Name, v, s.Name, s.Name)
		}
	}
	return nil
}

func optionOf(o *sinkpb.Option) *spec.Option {
	if o == nil {
		return nil
	}
	return &spec.Option{
		Name: o.Name, Type: spec.Type(o.Type), Default: o.Default, Help: o.Help, Values: o.Values, Required: o.Required,
	}
}

func optionsOf(d *sinkpb.Description) []spec.Option {
	var out []spec.Option
	for _, o := range d.Options {
		out = append(out, *optionOf(o))
	}
	return out
}

func isPluginKey(key string) bool { return strings.HasPrefix(key, host.KeyPrefix) }
