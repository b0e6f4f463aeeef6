// Package config reads config.toml: what the agent, its plugins, the presets of sinks, and the children that start
// with muxd are to be like.
//
// Everything that can be judged from the file alone is judged here, and every problem of a file is reported at
// once, each with its line. What depends on the machine (does the plugin exist, does the user) is judged by
// whoever needs it, at the time.
package config

import (
	"cmp"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/BurntSushi/toml"

	"github.com/muxd/muxd/internal/spec"
)

// Config is a config.toml with its defaults filled in. It is plain data: two of them compare with reflect.DeepEqual.
type Config struct {
	Agent      Agent                `toml:"agent"`
	PluginDirs []string             `toml:"plugin_dirs"` // absolute; searched for executables named muxd-sink-NAME
	Plugins    map[string]Plugin    `toml:"plugins"`
	Sinks      map[string]spec.Spec `toml:"sinks"` // presets, none of which refers to another
	Children   []Child              `toml:"child"` // started with muxd, in this order; their names differ
}

// Agent is the table [agent].
type Agent struct {
	RuntimeDir            string        `toml:"runtime_dir"` // absolute, or "" where the file does not say: see Dir
	LogLevel              slog.Level    `toml:"log_level"`
	LogFormat             string        `toml:"log_format"`              // text or json
	Drain                 time.Duration `toml:"drain"`                   // from a child's exit to the cutting of its streams
	Grace                 time.Duration `toml:"grace"`                   // from SIGTERM to SIGKILL
	DefaultSink           string        `toml:"default_sink"`            // a spec, for a spawn that names no sink at all
	Size                  Size          `toml:"size"`                    // of a console that has no viewer
	KeepFinished          int           `toml:"keep_finished"`           // finished children that are remembered
	PluginStartTimeout    time.Duration `toml:"plugin_start_timeout"`    // from a plugin's exec to the end of its handshake
	ContainerStartTimeout time.Duration `toml:"container_start_timeout"` // from an OCI runtime's start to that of its container
	PluginHang            time.Duration `toml:"plugin_hang"`             // of a plugin's silence until it is killed; 0: never
}

// Plugin is a table [plugins.NAME].
type Plugin struct {
	Command string            `toml:"command"` // absolute; "" leaves a built-in plugin its own
	Args    []string          `toml:"args"`
	Env     map[string]string `toml:"env"`    // added to what muxd gives to every plugin
	SHA256  string            `toml:"sha256"` // of the executable, lower-case hex; "" where it is not pinned

	User      string            `toml:"user"`       // as a child's; "" is muxd's own
	Rlimits   map[string]Rlimit `toml:"rlimits"`    // by a name that Resource knows
	Paths     []string          `toml:"paths"`      // absolute: all that it may read and change; nil where the file does not say
	ReadPaths []string          `toml:"read_paths"` // absolute: what it may read besides
}

// Child is a table [[child]].
type Child struct {
	Name       string            `toml:"name"`
	Command    []string          `toml:"command"`   // never empty
	Env        map[string]string `toml:"env"`       // added to muxd's own environment
	ClearEnv   bool              `toml:"clear_env"` // Env is the whole environment
	Cwd        string            `toml:"cwd"`       // absolute
	User       string            `toml:"user"`      // NAME or UID, with :GROUP or :GID; "" is muxd's own
	Umask      *uint32           `toml:"umask"`     // nil is muxd's own
	Rlimits    map[string]Rlimit `toml:"rlimits"`   // by a name that Resource knows
	Sink       string            `toml:"sink"`      // a spec, or "", like the next three
	Stdin      string            `toml:"stdin"`
	Stdout     Specs             `toml:"stdout"`
	Stderr     Specs             `toml:"stderr"`
	Restart    Restart           `toml:"restart"`
	Backoff    time.Duration     `toml:"backoff"`     // before the first restart; doubled for each one that follows
	BackoffMax time.Duration     `toml:"backoff_max"` // at least Backoff
	Grace      time.Duration     `toml:"grace"`       // where the file does not say, the agent's
	Size       Size              `toml:"size"`        // where the file does not say, the agent's
}

// Specs are the sinks of an output stream: a spec, or an array of them.
type Specs []string

// Restart says when a child that has ended is started again.
type Restart string

// The values of restart.
const (
	RestartNo        Restart = "no"
	RestartOnFailure Restart = "on-failure" // an exit status other than 0, or a signal
	RestartAlways    Restart = "always"
)

// Default is what an empty config.toml means.
func Default() *Config {
	return &Config{Agent: Agent{
		LogLevel:              slog.LevelInfo,
		LogFormat:             "text",
		Drain:                 10 * time.Second,
		Grace:                 10 * time.Second,
		DefaultSink:           "pty",
		Size:                  Size{Rows: 24, Cols: 80},
		KeepFinished:          1000,
		PluginStartTimeout:    10 * time.Second,
		ContainerStartTimeout: 30 * time.Second,
		PluginHang:            10 * time.Second,
	}}
}

// defaultChild is what a [[child]] is where it does not say; grace and size then come from the agent.
func defaultChild() Child {
	return Child{Cwd: "/", Restart: RestartNo, Backoff: 100 * time.Millisecond, BackoffMax: 30 * time.Second}
}

// Builtin lists the sinks that come with muxd as plugins. Their names may not be those of presets.
func Builtin() []string { return []string{"fanout", "file", "pty", "socket"} }

// Wirings lists the sinks that are no plugins: the core wires them by itself.
func Wirings() []string { return []string{"inherit", "null"} }

// Load reads the file at path. Its error has one line for each problem: PATH:LINE: [TABLE] KEY: what is wrong.
func Load(path string) (*Config, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read the configuration: %w", err)
	}
	return parse(path, string(text))
}

func parse(path, text string) (*Config, error) {
	var doc map[string]any
	if _, err := toml.Decode(text, &doc); err != nil {
		if bad, ok := errors.AsType[toml.ParseError](err); ok {
			return nil, fmt.Errorf("%s:%d: %s", path, bad.Position.Line, bad.Message)
		}
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	d := &decoder{lines: locate(text)}
	c := Default()
	d.document(doc, c)
	d.check(c)
	if len(d.problems) > 0 {
		return nil, d.report(path)
	}
	c.fill()
	return c, nil
}

// fill completes a Config that has been checked with what one part of it takes from another.
func (c *Config) fill() {
	for i := range c.Children {
		child := &c.Children[i]
		child.Grace = cmp.Or(child.Grace, c.Agent.Grace)
		child.Size = cmp.Or(child.Size, c.Agent.Size)
	}
	for name, p := range c.Plugins {
		p.SHA256 = strings.ToLower(p.SHA256)
		c.Plugins[name] = p
	}
}

// report is all problems as one error, in the order of the file.
func (d *decoder) report(path string) error {
	slices.SortStableFunc(d.problems, func(a, b problem) int { return cmp.Compare(a.line, b.line) })
	errs := make([]error, len(d.problems))
	for i, p := range d.problems {
		errs[i] = fmt.Errorf("%s:%d: %s", path, p.line, p.text)
	}
	return errors.Join(errs...)
}
