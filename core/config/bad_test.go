package config

import (
	"errors"
	"io/fs"
	"path/filepath"
	"strings"
	"testing"
)

func TestBadFiles(t *testing.T) {
	const child = "[[child]]\nname = \"a\"\ncommand = [\"x\"]\n"
	for _, x := range []struct {
		name, text string
		want       []string // without "config.toml:"
	}{
		{"unknown key", "[agent]\nlog_levle = \"info\"", []string{`2: [agent] log_levle: unknown key; did you mean "log_level"?`}},
		{"unknown key, nothing near", "[plugins.a]\ncommand = \"/a\"\nzzzzzzzz = 1",
			[]string{"3: [plugins.a] zzzzzzzz: unknown key; known are args, command, env, paths, read_paths, rlimits, sha256, user"}},
		{"case matters", "[agent]\nDrain = \"1s\"", []string{`2: [agent] Drain: unknown key; did you mean "drain"?`}},
		{"unknown table", "\n[agnet]\ndrain = \"1s\"", []string{`2: [agnet]: unknown table; did you mean "agent"?`}},
		{"unknown array of tables", "[[childs]]", []string{`1: [[childs]]: unknown table; did you mean "child"?`}},
		{"unknown key at the top", "plugin_dir = []", []string{`1: plugin_dir: unknown key; did you mean "plugin_dirs"?`}},
		{"plugin_dirs in a table", "[agent]\nplugin_dirs = []",
			[]string{"2: [agent] plugin_dirs: unknown key; it stands at the top of the file, before the first table"}},
		{"a key of agent's at the top", "runtime_dir = \"/run/x\"", []string{"1: runtime_dir: unknown key; it stands under [agent]"}},
		{"dotted key", "agent.drian = \"1s\"", []string{`1: [agent] drian: unknown key; did you mean "drain"?`}},
		{"all problems, in order", child + "restart = \"onfailure\"\numsk = \"0\"\n[agent]\ndrain = \"soon\"\nsize = \"80\"", []string{
			`4: [[child]] restart: "onfailure" is not one of no, on-failure, always; did you mean "on-failure"?`,
			`5: [[child]] umsk: unknown key; did you mean "umask"?`,
			`7: [agent] drain: "soon" is not a duration, as 500ms or 10s`,
			`8: [agent] size: "80" is not rows and columns, as "24x80", each from 1 to 65535`,
		}},
		{"syntax", "[agent]\ndrain = \n", []string{`2: expected value but found '\n' instead`}},
		{"a key twice", "[agent]\ndrain = \"1s\"\ndrain = \"2s\"", []string{"3: Key 'agent.drain' has already been defined."}},

		{"types", "plugin_dirs = \"/a\"\n[agent]\ndrain = 10\nlog_level = true\nkeep_finished = 1.5\ndefault_sink = 1979-05-27", []string{
			"1: plugin_dirs: want an array of strings, not a string",
			"3: [agent] drain: want a duration, as 500ms or 10s, not a number",
			"4: [agent] log_level: want a string, not a boolean",
			"5: [agent] keep_finished: want a whole number, not a number with a fraction",
			"6: [agent] default_sink: want a string, not a date",
		}},
		{"tables of the wrong kind", "agent = 1\nplugins = []\nsinks.a = 1\n[child]\nname = \"a\"", []string{
			"1: [agent]: want a table, not a number",
			"2: [plugins]: want a table, not an array",
			"3: [sinks.a]: want a table with the key sink, not a number",
			"4: [[child]]: want an array of tables, as [[child]], not a table",
		}},
		{"a child that is no table", "child = [1]", []string{"1: [[child]]: want a table, not a number"}},

		{"agent", `[agent]
runtime_dir = "run"
log_level = "warning"
log_format = "jsno"
drain = "-1s"
grace = "0s"
default_sink = "Pty"
size = "0x80"
keep_finished = -1
plugin_start_timeout = "0s"
plugin_hang = "-1s"
container_start_timeout = "0s"`, []string{
			`2: [agent] runtime_dir: "run" is not an absolute path`,
			`3: [agent] log_level: "warning" is not one of debug, info, warn, error`,
			`4: [agent] log_format: "jsno" is not one of text, json; did you mean "json"?`,
			"5: [agent] drain: -1s is negative; 0s cuts the streams at once",
			"6: [agent] grace: 0s is not more than zero",
			`7: [agent] default_sink: sink spec "Pty": it must begin with a sink's name (as in pty, file:PATH, socket:unix:PATH), not "Pty"`,
			`8: [agent] size: "0x80" is not rows and columns, as "24x80", each from 1 to 65535`,
			"9: [agent] keep_finished: -1 is negative; 0 forgets a child when it has finished",
			"10: [agent] plugin_start_timeout: 0s is not more than zero",
			"11: [agent] plugin_hang: -1s is negative; 0s lets a plugin hang for ever",
			"12: [agent] container_start_timeout: 0s is not more than zero",
		}},
		{"an empty runtime_dir", "[agent]\nruntime_dir = \"\"", []string{`2: [agent] runtime_dir: "" is not an absolute path`}},
		{"inherit by default", "[agent]\ndefault_sink = \"inherit\"",
			[]string{"2: [agent] default_sink: inherit shares the fds of the muxctl that spawns the child, and here there is none"}},

		{"plugin dirs", "plugin_dirs = [\"/a\",\n \"b\",\n 3]", []string{
			`2: plugin_dirs.1: "b" is not an absolute path`,
			"3: plugin_dirs.2: want a string, not a number",
		}},
		{"plugin", `[plugins.audit]
command = "audit"
args = [1]
env = { "A=B" = "", C = 1 }
sha256 = "e3b0"
user = "a:b:c"
rlimits = { files = 1 }
paths = ["/a", "b"]
read_paths = "/c"
[plugins.Foo_bar]
command = "/x"
[plugins.nothing]
[plugins.null]
command = "/x"`, []string{
			`2: [plugins.audit] command: "audit" is not an absolute path`,
			"3: [plugins.audit] args.0: want a string, not a number",
			`4: [plugins.audit] env.C: want a string, not a number`,
			`4: [plugins.audit] env."A=B": the name of a variable may not be empty or contain '='`,
			`5: [plugins.audit] sha256: "e3b0" is not a SHA-256: want 64 hexadecimal digits, as sha256sum(1) prints them`,
			`6: [plugins.audit] user: "a:b:c" is not a user: want NAME or NAME:GROUP, or their numbers`,
			`7: [plugins.audit] rlimits.files: unknown resource limit "files"; known are as, core, cpu, data, fsize, locks, memlock, ` +
				`msgqueue, nice, nofile, nproc, rss, rtprio, rttime, sigpending, stack`,
			`8: [plugins.audit] paths.1: "b" is not an absolute path`,
			"9: [plugins.audit] read_paths: want an array of strings, not a string",
			"10: [plugins.Foo_bar]: a plugin's name is made of lower-case letters, digits and dashes",
			"12: [plugins.nothing] command: it is missing; it is the absolute path of the plugin's executable",
			"13: [plugins.null]: null is a sink that muxd wires by itself, without a plugin",
		}},
		{"an empty command", "[plugins.file]\ncommand = \"\"", []string{`2: [plugins.file] command: "" is not an absolute path`}},
		{"a dash is meant", "[plugins.a_b]\ncommand = \"/x\"",
			[]string{`1: [plugins.a_b]: a plugin's name is made of lower-case letters, digits and dashes; did you mean "a-b"?`}},

		{"presets", `[plugins.audit]
command = "/x"
[sinks.audit]
sink = "file:/a"
[sinks.pty]
sink = "file:/a"
[sinks.loop]
sink = "loop"
[sinks.second]
sink = "loop:x"
[sinks.none]
spec = "file:/a"
[sinks.number]
sink = 1
[sinks.bad]
sink = "file:"
[sinks.options]
sink = "file:/a,format=cri"
max_size = 1
format = "raw"
keep = 1.5
sync = ["x"]`, []string{
			"3: [sinks.audit]: audit is a sink already; give the preset another name",
			"5: [sinks.pty]: pty is a sink already; give the preset another name",
			"8: [sinks.loop] sink: loop is a preset itself, and a preset may not refer to one",
			"10: [sinks.second] sink: loop is a preset itself, and a preset may not refer to one",
			`11: [sinks.none] sink: it is missing; it names the sink, as in sink = "file:/var/log/{name}.log"; is that what "spec" was meant to be?`,
			"14: [sinks.number] sink: want a string, not a number",
			`16: [sinks.bad] sink: sink spec "file:": nothing stands behind "file:"`,
			`19: [sinks.options] max_size: an option's name is made of lower-case letters, digits and dashes; did you mean "max-size"?`,
			"20: [sinks.options] format: the option is given twice: here and in sink",
			"21: [sinks.options] keep: want a string, a whole number, or true or false, not a number with a fraction",
			"22: [sinks.options] sync: want a string, a whole number, or true or false, not an array",
		}},
		{"a preset's name", "[sinks.Web]\nsink = \"pty\"",
			[]string{"1: [sinks.Web]: a preset's name is made of lower-case letters, digits and dashes"}},

		{"an empty child", "[[child]]", []string{
			"1: [[child]] name: it is missing; a reload tells children apart by their names",
			`1: [[child]] command: it is missing; it is the program and its arguments, as ["sleep", "60"]`,
		}},
		{"child", `[[child]]
name = "a/b"
command = []
env = { A = "x\u0000" }
cwd = "srv"
user = "www:"
umask = "0o22"
stdin = "null:x,y"
stdout = "inherit"
backoff = "0s"
grace = "0s"
size = "24x65536"`, []string{
			`2: [[child]] name: "a/b" is not a name: want up to 64 letters, digits, '_', '.' and '-', a letter or digit first`,
			"3: [[child]] command: it has no program",
			`4: [[child]] env.A: "x\x00" has a zero byte in it`,
			`5: [[child]] cwd: "srv" is not an absolute path`,
			`6: [[child]] user: "www:" is not a user: want NAME or NAME:GROUP, or their numbers`,
			`7: [[child]] umask: "0o22" is not a umask: want an octal number from "0000" to "0777"`,
			`8: [[child]] stdin: sink spec "null:x,y": "y" is not of the form key=value`,
			"9: [[child]] stdout: inherit shares the fds of the muxctl that spawns the child, and here there is none",
			"10: [[child]] backoff: 0s is not more than zero",
			"11: [[child]] grace: 0s is not more than zero",
			`12: [[child]] size: "24x65536" is not rows and columns, as "24x80", each from 1 to 65535`,
		}},
		{"wrong types in a child are said once", "[[child]]\nname = 1\ncommand = \"sleep 1\"\ngrace = 1\nsink = 1\numask = 18\nclear_env = 1", []string{
			"2: [[child]] name: want a string, not a number",
			"3: [[child]] command: want an array of strings, not a string",
			"4: [[child]] grace: want a duration, as 500ms or 10s, not a number",
			"5: [[child]] sink: want a string, not a number",
			`6: [[child]] umask: want an octal number in quotes, as "0022", not a number`,
			"7: [[child]] clear_env: want true or false, not a number",
		}},
		{"an empty program", "[[child]]\nname = \"a\"\ncommand = [\"\"]", []string{"3: [[child]] command: it has no program"}},
		{"backoff above its most", child + "backoff = \"1m\"", []string{"1: [[child]] backoff_max: 30s is less than backoff, which is 1m0s"}},
		{"the same name twice", child + child + child, []string{
			`5: [[child]] name: "a" is the name of the child on line 2 already`,
			`8: [[child]] name: "a" is the name of the child on line 2 already`,
		}},
		{"rlimits", child + `[child.rlimits]
nofiles = 1
nosuchthing = 1
core = -1
cpu = "much"
data = [2, 1]
stack = [1]
as = ["unlimited", 1]`, []string{
			`5: [[child]] rlimits.nofiles: unknown resource limit "nofiles"; did you mean "nofile"?`,
			`6: [[child]] rlimits.nosuchthing: unknown resource limit "nosuchthing"; known are ` +
				"as, core, cpu, data, fsize, locks, memlock, msgqueue, nice, nofile, nproc, rss, rtprio, rttime, sigpending, stack",
			`7: [[child]] rlimits.core: -1 is not a limit: want a number from 0, "unlimited", or [soft, hard]`,
			`8: [[child]] rlimits.cpu: much is not a limit: want a number from 0, "unlimited", or [soft, hard]`,
			"9: [[child]] rlimits.data: the soft limit 2 is above the hard limit 1",
			"10: [[child]] rlimits.stack: want [soft, hard], not an array of 1",
			"11: [[child]] rlimits.as: the soft limit unlimited is above the hard limit 1",
		}},
	} {
		t.Run(x.name, func(t *testing.T) {
			_, err := parse("config.toml", x.text)
			if err == nil {
				t.Fatal("no error")
			}
			var want strings.Builder
			for _, line := range x.want {
				want.WriteString("config.toml:" + line + "\n")
			}
			if got := err.Error() + "\n"; got != want.String() {
				t.Errorf("got\n%swant\n%s", got, want.String())
			}
		})
	}
}

func TestNoFile(t *testing.T) {
	name := filepath.Join(t.TempDir(), "none.toml")
	_, err := Load(name)
	if !errors.Is(err, fs.ErrNotExist) || err.Error() != "read the configuration: open "+name+": no such file or directory" {
		t.Errorf("got %v", err)
	}
}
