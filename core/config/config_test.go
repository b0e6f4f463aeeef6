package config

import (
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/BurntSushi/toml"

	"github.com/muxd/muxd/internal/spec"
)

const shipped = "../../config.toml"

// setting is a commented-out setting or table of the shipped file: no space stands behind the '#'.
var setting = regexp.MustCompile(`(?m)^#([a-z\[])`)

func read(t *testing.T, file string) string {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// What the shipped file sets is what an empty one means.
func TestShippedFileIsTheDefault(t *testing.T) {
	c, err := Load(shipped)
	if err != nil {
		t.Fatal(err)
	}
	if want := Default(); !reflect.DeepEqual(c, want) {
		t.Errorf("the shipped file means\n%+v\nthe default is\n%+v", c, want)
	}
	empty := filepath.Join(t.TempDir(), "empty.toml")
	if err := os.WriteFile(empty, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if e, err := Load(empty); err != nil || !reflect.DeepEqual(e, c) {
		t.Errorf("an empty file means %+v, %v", e, err)
	}
}

// With every '#' removed the file is valid, has every key, and keys that have a default have that value.
func TestShippedFileNamesEveryKey(t *testing.T) {
	text := setting.ReplaceAllString(read(t, shipped), "$1")
	c, err := parse("config.toml", text)
	if err != nil {
		t.Fatal(err)
	}
	var doc map[string]any
	if _, err := toml.Decode(text, &doc); err != nil {
		t.Fatal(err)
	}
	first := func(v any) map[string]any { return v.([]map[string]any)[0] }
	table := func(v any, key string) map[string]any { return v.(map[string]any)[key].(map[string]any) }
	for _, x := range []struct {
		name string
		typ  reflect.Type
		in   map[string]any
	}{
		{"the top", reflect.TypeFor[Config](), doc},
		{"[agent]", reflect.TypeFor[Agent](), doc["agent"].(map[string]any)},
		{"[plugins.audit]", reflect.TypeFor[Plugin](), table(doc["plugins"], "audit")},
		{"[[child]]", reflect.TypeFor[Child](), first(doc["child"])},
	} {
		for _, key := range keysOf(fields(x.typ)) {
			if _, ok := x.in[key]; !ok {
				t.Errorf("%s does not show the key %q", x.name, key)
			}
		}
	}

	agent := c.Agent
	agent.RuntimeDir = ""
	if want := Default().Agent; agent != want {
		t.Errorf("[agent] shows\n%+v\nthe defaults are\n%+v", agent, want)
	}
	want := defaultChild()
	want.Grace, want.Size = agent.Grace, agent.Size
	noDefault := []string{"name", "command", "env", "user", "umask", "rlimits", "sink", "stdin", "stdout", "stderr"}
	for key, i := range fields(reflect.TypeFor[Child]()) {
		if slices.Contains(noDefault, key) {
			continue
		}
		got, want := reflect.ValueOf(c.Children[0]).Field(i).Interface(), reflect.ValueOf(want).Field(i).Interface()
		if !reflect.DeepEqual(got, want) {
			t.Errorf("[[child]] shows %s = %v, the default is %v", key, got, want)
		}
	}
}

func TestEveryKeyArrives(t *testing.T) {
	const text = `
plugin_dirs = ["/opt/muxd"]

[agent]
runtime_dir = "/run/m"
log_level = "debug"
log_format = "json"
drain = "0s"
grace = "3s"
default_sink = "weblog"
size = "50x132"
keep_finished = 7
plugin_start_timeout = "1m"
plugin_hang = "0s"
container_start_timeout = "9s"

[plugins.file]
args = ["-v"]

[plugins.audit]
command = "/opt/audit"
env = { A = "1", "B.C" = "2" }
sha256 = "E3B0C44298FC1C149AFBF4C8996FB92427AE41E4649B934CA495991B7852B855"
user = "audit"
rlimits = { nofile = 1024 }
paths = ["/var/log"]
read_paths = ["/opt"]

[plugins.found]
paths = []

[sinks.weblog]
sink = "file:/var/log/{name}.log,keep=3"
format = "cri"
max-size = 4096
sync = true
header = 'a,b\c'

[[child]]
name = "web"
command = ["httpd", "-f", ""]
env.PORT = "80"
clear_env = true
cwd = "/srv"
user = "www:web"
umask = "0027"
rlimits = { nofile = [1024, "unlimited"], core = 0, stack = "unlimited" }
sink = "weblog,format=raw"
stdin = "null"
stdout = "socket:unix:/run/x.sock"
stderr = ["file:/tmp/err", "weblog"]
restart = "on-failure"
backoff = "1s"
backoff_max = "1m"

[[child]]
name = "db"
command = ["db"]
grace = "1m"
size = "25x80"
`
	mask := uint32(0o27)
	want := &Config{
		Agent: Agent{
			RuntimeDir: "/run/m", LogLevel: -4, LogFormat: "json", Grace: 3 * time.Second, DefaultSink: "weblog",
			Size: Size{50, 132}, KeepFinished: 7, PluginStartTimeout: time.Minute, ContainerStartTimeout: 9 * time.Second,
		},
		PluginDirs: []string{"/opt/muxd"},
		Plugins: map[string]Plugin{
			"file":  {Args: []string{"-v"}},
			"found": {Paths: []string{}},
			"audit": {
				Command: "/opt/audit", Env: map[string]string{"A": "1", "B.C": "2"},
				SHA256: "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
				User:   "audit", Rlimits: map[string]Rlimit{"nofile": {1024, 1024}},
				Paths: []string{"/var/log"}, ReadPaths: []string{"/opt"},
			},
		},
		Sinks: map[string]spec.Spec{"weblog": {Name: "file", Arg: "/var/log/{name}.log", Options: map[string]string{
			"keep": "3", "format": "cri", "max-size": "4096", "sync": "true", "header": `a,b\c`,
		}}},
		Children: []Child{{
			Name: "web", Command: []string{"httpd", "-f", ""}, Env: map[string]string{"PORT": "80"}, ClearEnv: true,
			Cwd: "/srv", User: "www:web", Umask: &mask,
			Rlimits: map[string]Rlimit{"nofile": {1024, Unlimited}, "core": {}, "stack": {Unlimited, Unlimited}},
			Sink:    "weblog,format=raw", Stdin: "null", Stdout: Specs{"socket:unix:/run/x.sock"}, Stderr: Specs{"file:/tmp/err", "weblog"},
			Restart: RestartOnFailure, Backoff: time.Second, BackoffMax: time.Minute,
			Grace: 3 * time.Second, Size: Size{50, 132},
		}, {
			Name: "db", Command: []string{"db"}, Cwd: "/", Restart: RestartNo,
			Backoff: 100 * time.Millisecond, BackoffMax: 30 * time.Second, Grace: time.Minute, Size: Size{25, 80},
		}},
	}
	got, err := parse("config.toml", text)
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got\n%+v\nwant\n%+v", got, want)
	}
}

func TestPreset(t *testing.T) {
	c, err := parse("config.toml", `
[sinks.weblog]
sink = 'file:/var/log/a\,b.log'
format = "cri"
keep = 5
`)
	if err != nil {
		t.Fatal(err)
	}
	for _, x := range []struct{ in, want, err string }{
		{in: "weblog", want: `file:/var/log/a\,b.log,format=cri,keep=5`},
		{in: "weblog,format=raw", want: `file:/var/log/a\,b.log,format=raw,keep=5`},
		{in: "weblog:format=raw,sync=always", want: `file:/var/log/a\,b.log,format=raw,keep=5,sync=always`},
		{in: "weblag,format=raw", want: `weblag,format=raw`},
		{in: "pty", want: "pty"},
		{in: "weblog:/tmp/x", err: `sink spec "weblog:/tmp/x": weblog is the preset of file:/var/log/a\,b.log,format=cri,keep=5, ` +
			`and only options may follow it, as in weblog,key=value`},
		{in: "weblog,format", err: `sink spec "weblog,format": "format" is not of the form key=value`},
	} {
		got, err := c.Preset(x.in)
		switch {
		case x.err != "":
			if err == nil || err.Error() != x.err {
				t.Errorf("%s:\n got error %v\nwant %s", x.in, err, x.err)
			}
		case err != nil || got.String() != x.want:
			t.Errorf("%s: got %v, %v, want %s", x.in, got, err, x.want)
		}
	}
	if got := c.Sinks["weblog"].Options["format"]; got != "cri" {
		t.Errorf("resolving has changed the preset: format is %q", got)
	}
}

func TestRuntimeDir(t *testing.T) {
	t.Setenv("XDG_RUNTIME_DIR", "/run/user/7")
	long := "/" + strings.Repeat("d", 61)
	for _, x := range []struct{ file, override, want, err string }{
		{want: "/run/user/7/muxd"},
		{file: "/run/m", want: "/run/m"},
		{file: "/run/m", override: "/tmp/o", want: "/tmp/o"},
		{file: long[:61], want: long[:61]},
		{override: long, err: "runtime directory: " + long +
			"/plugins/plugin-dir4294967295/plugin4294967295, as a plugin's socket may be called, is 108 bytes long, " +
			"and a Unix socket's path has at most 107; choose a directory of at most 61 bytes"},
	} {
		got, err := Agent{RuntimeDir: x.file}.Dir(x.override)
		if got != x.want || x.err != "" && (err == nil || err.Error() != x.err) || x.err == "" && err != nil {
			t.Errorf("%+v: got %q, %v", x, got, err)
		}
	}
	t.Setenv("XDG_RUNTIME_DIR", "run")
	if _, err := DefaultRuntimeDir(); err == nil {
		t.Error("a relative XDG_RUNTIME_DIR passed")
	}
	t.Setenv("XDG_RUNTIME_DIR", "")
	got, err := DefaultRuntimeDir()
	if root := os.Geteuid() == 0; root && got != "/run/muxd" || !root && err == nil {
		t.Errorf("without XDG_RUNTIME_DIR: %q, %v", got, err)
	}
}
