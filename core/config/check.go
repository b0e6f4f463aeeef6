package config

import (
	"encoding/hex"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/muxd/muxd/internal/spec"
)

// check judges the values of a decoded Config, one by one and against each other.
func (d *decoder) check(c *Config) {
	d.checkAgent(c)
	for i, dir := range c.PluginDirs {
		d.checkAbsolute(path{"plugin_dirs", strconv.Itoa(i)}, dir)
	}
	for _, name := range keysOf(c.Plugins) {
		d.checkPlugin(path{"plugins", name}, c.Plugins[name], c)
	}
	d.checkPresets(c)
	names := map[string]int{}
	for i := range c.Children {
		at := path{"child", strconv.Itoa(i)}
		d.checkChild(at, &c.Children[i], c)
		name := c.Children[i].Name
		if line, twice := names[name]; twice && name != "" {
			d.fail(at.key("name"), "%q is the name of the child on line %d already", name, line)
		} else {
			names[name] = d.lines.of(at.key("name"))
		}
	}
}

func (d *decoder) checkAgent(c *Config) {
	a := &c.Agent
	at := path{"agent"}
	if d.lines.has(at.key("runtime_dir")) && !d.failed(at.key("runtime_dir")) {
		if err := CheckRuntimeDir(a.RuntimeDir); err != nil {
			d.fail(at.key("runtime_dir"), "%v", err)
		}
	}
	if formats := []string{"text", "json"}; !slices.Contains(formats, a.LogFormat) {
		d.fail(at.key("log_format"), "%v", oneOf(a.LogFormat, formats...))
	}
	if a.Drain < 0 {
		d.fail(at.key("drain"), "%v is negative; 0s cuts the streams at once", a.Drain)
	}
	d.checkPositive(at.key("grace"), a.Grace)
	d.checkPositive(at.key("plugin_start_timeout"), a.PluginStartTimeout)
	d.checkPositive(at.key("container_start_timeout"), a.ContainerStartTimeout)
	if a.PluginHang < 0 {
		d.fail(at.key("plugin_hang"), "%v is negative; 0s lets a plugin hang for ever", a.PluginHang)
	}
	if a.KeepFinished < 0 {
		d.fail(at.key("keep_finished"), "%d is negative; 0 forgets a child when it has finished", a.KeepFinished)
	}
	d.checkSpec(at.key("default_sink"), a.DefaultSink, c)
}

func (d *decoder) checkPlugin(at path, p Plugin, c *Config) {
	name := at[1]
	switch {
	case !spec.ValidName(name):
		d.fail(at, "a plugin's name is made of lower-case letters, digits and dashes%s", dashHint(name))
	case slices.Contains(Wirings(), name):
		d.fail(at, "%s is a sink that muxd wires by itself, without a plugin", name)
	}
	if d.lines.has(at.key("command")) {
		d.checkAbsolute(at.key("command"), p.Command)
	} else if !slices.Contains(Builtin(), name) && len(c.PluginDirs) == 0 {
		d.fail(at.key("command"), "it is missing; it is the absolute path of the plugin's executable")
	}
	for i, arg := range p.Args {
		d.checkText(at.key("args").key(strconv.Itoa(i)), arg)
	}
	d.checkEnv(at.key("env"), p.Env)
	if sum, err := hex.DecodeString(p.SHA256); p.SHA256 != "" && (err != nil || len(sum) != 32) {
		d.fail(at.key("sha256"), "%q is not a SHA-256: want 64 hexadecimal digits, as sha256sum(1) prints them", p.SHA256)
	}
	if user := at.key("user"); d.lines.has(user) && !d.failed(user) {
		d.checkUser(user, p.User)
	}
	d.checkRlimits(at.key("rlimits"), p.Rlimits)
	for key, paths := range map[string][]string{"paths": p.Paths, "read_paths": p.ReadPaths} {
		for i, s := range paths {
			d.checkAbsolute(at.key(key).key(strconv.Itoa(i)), s)
		}
	}
}

func (d *decoder) checkRlimits(at path, limits map[string]Rlimit) {
	for _, name := range keysOf(limits) {
		if _, err := Resource(name); err != nil {
			d.fail(at.key(name), "%v", err)
		}
	}
}

// childName is what may stand for {name} in paths, and is easy to type.
var childName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$`)

func (d *decoder) checkChild(at path, child *Child, c *Config) {
	if d.failed(at) {
		return // it is no table
	}
	switch {
	case !d.lines.has(at.key("name")):
		d.fail(at.key("name"), "it is missing; a reload tells children apart by their names")
	case !d.failed(at.key("name")) && !childName.MatchString(child.Name):
		d.fail(at.key("name"), "%q is not a name: want up to 64 letters, digits, '_', '.' and '-', a letter or digit first",
			child.Name)
	}
	switch command := at.key("command"); {
	case !d.lines.has(command):
		d.fail(command, `it is missing; it is the program and its arguments, as ["sleep", "60"]`)
	case !d.failed(command) && (len(child.Command) == 0 || child.Command[0] == "" && !d.failed(command.key("0"))):
		d.fail(command, "it has no program")
	}
	for i, arg := range child.Command {
		d.checkText(at.key("command").key(strconv.Itoa(i)), arg)
	}
	d.checkEnv(at.key("env"), child.Env)
	d.checkAbsolute(at.key("cwd"), child.Cwd)
	if user := at.key("user"); d.lines.has(user) && !d.failed(user) {
		d.checkUser(user, child.User)
	}
	d.checkRlimits(at.key("rlimits"), child.Rlimits)
	d.checkChildSinks(at, child, c)
	switch child.Restart {
	case RestartNo, RestartOnFailure, RestartAlways:
	default:
		d.fail(at.key("restart"), "%v", oneOf(string(child.Restart), "no", "on-failure", "always"))
	}
	if grace := at.key("grace"); d.lines.has(grace) {
		d.checkPositive(grace, child.Grace)
	}
	d.checkPositive(at.key("backoff"), child.Backoff)
	if child.BackoffMax < child.Backoff {
		d.fail(at.key("backoff_max"), "%v is less than backoff, which is %v", child.BackoffMax, child.Backoff)
	}
}

func (d *decoder) checkChildSinks(at path, child *Child, c *Config) {
	for _, sink := range []struct {
		key   string
		specs []string
	}{
		{"sink", []string{child.Sink}}, {"stdin", []string{child.Stdin}}, {"stdout", child.Stdout}, {"stderr", child.Stderr},
	} {
		if !d.lines.has(at.key(sink.key)) {
			continue
		}
		for _, spec := range sink.specs {
			d.checkSpec(at.key(sink.key), spec, c)
		}
	}
}

// checkSpec judges a spec that is used without a client: there is nobody whose fds it could inherit.
func (d *decoder) checkSpec(at path, s string, c *Config) {
	if d.failed(at) {
		return
	}
	switch p, err := c.Preset(s); {
	case err != nil:
		d.fail(at, "%v", err)
	case p.Name == "inherit":
		d.fail(at, "inherit shares the fds of the muxctl that spawns the child, and here there is none")
	}
}

func (d *decoder) checkUser(at path, s string) {
	name, group, hasGroup := strings.Cut(s, ":")
	if name == "" || hasGroup && group == "" || strings.ContainsAny(group, ":\x00") || strings.Contains(name, "\x00") {
		d.fail(at, "%q is not a user: want NAME or NAME:GROUP, or their numbers", s)
	}
}

// checkEnv judges names and values as execve(2) and getenv(3) take them.
func (d *decoder) checkEnv(at path, env map[string]string) {
	for _, name := range keysOf(env) {
		if name == "" || strings.Contains(name, "=") {
			d.fail(at.key(name), "the name of a variable may not be empty or contain '='")
		}
		d.checkText(at.key(name), name)
		d.checkText(at.key(name), env[name])
	}
}

// checkText refuses what cannot be part of a C string.
func (d *decoder) checkText(at path, s string) {
	if strings.Contains(s, "\x00") {
		d.fail(at, "%q has a zero byte in it", s)
	}
}

func (d *decoder) checkAbsolute(at path, s string) {
	if d.failed(at) {
		return
	}
	if !filepath.IsAbs(s) {
		d.fail(at, "%q is not an absolute path", s)
	}
	d.checkText(at, s)
}

func (d *decoder) checkPositive(at path, v time.Duration) {
	if v <= 0 && !d.failed(at) {
		d.fail(at, "%v is not more than zero", v)
	}
}
