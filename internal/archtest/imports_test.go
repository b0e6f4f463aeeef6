package archtest

import (
	"slices"
	"strings"
	"testing"
)

// importRule is about the packages of this module that packages below a directory may import, tests aside.
type importRule struct {
	of     string   // "plugins" is every package below plugins
	only   []string // if not empty: these and nothing else of the module; "sink/..." is sink and all below it
	never  []string
	except []string // of never
	reason string
}

var importRules = []importRule{
	{
		of:     "plugins",
		only:   []string{"sink/..."},
		reason: "a built-in sink uses nothing that a third party lacks",
	},
	{
		of:     "cmd/muxctl",
		only:   []string{"control/...", "sink/sinktest"}, // which muxctl plugin check is: it drives plugins, without muxd
		reason: "whatever muxctl can do, every program that uses the public packages can do",
	},
	{
		of:     "core",
		never:  []string{"plugins/...", "sink/..."},
		except: []string{"sink/sinkpb"},
		reason: "the core knows plugins by their protocol only, so that none of them is special",
	},
	{
		of:     "control",
		never:  []string{"core/...", "sink/...", "plugins/...", "cmd/..."},
		reason: "the client is for programs that drive muxd, which must not take the agent with it",
	},
	{
		of:     "sink",
		never:  []string{"core/...", "control/...", "plugins/...", "cmd/..."},
		reason: "the SDK is for other people's plugins, which talk to muxd by its protocol only",
	},
	{
		of:     "internal",
		never:  []string{"core/...", "control/...", "plugins/...", "sink/...", "cmd/..."},
		reason: "internal is what both sides share, so it can stand on neither",
	},
}

func TestImports(t *testing.T) {
	for _, r := range importRules {
		used := false
		for _, s := range sources(t) {
			if !under(s.dir, r.of+"/...") || s.test {
				continue
			}
			used = true
			for _, i := range s.imports(t) {
				ours, ok := strings.CutPrefix(i, "./")
				if ok && !r.allows(s.dir, ours) {
					t.Errorf("%s imports %s%s: %s", s.path, module, ours, r.reason)
				}
			}
		}
		if !used {
			t.Errorf("there is nothing in %s: the rule about it has no object", r.of)
		}
	}
}

// allows says whether a package in dir may import the package at path.
func (r importRule) allows(dir, path string) bool {
	if len(r.only) > 0 {
		return underAny(path, r.only) || under(path, dir+"/...")
	}
	return !underAny(path, r.never) || underAny(path, r.except)
}

func underAny(path string, patterns []string) bool {
	return slices.ContainsFunc(patterns, func(p string) bool { return under(path, p) })
}

// under says whether path is pattern, or below it where that ends in "/...".
func under(path, pattern string) bool {
	dir, below := strings.CutSuffix(pattern, "/...")
	return path == dir || below && strings.HasPrefix(path, dir+"/")
}

// The plugins are reached through the one binary that contains them.
func TestWhoImportsPlugins(t *testing.T) {
	for _, s := range sources(t) {
		for _, i := range s.imports(t) {
			if strings.HasPrefix(i, "./plugins/") && !under(s.dir, "cmd/muxd/...") && !under(s.dir, "plugins/...") {
				t.Errorf("%s imports %s: only cmd/muxd may, which runs itself again as a plugin", s.path, i)
			}
		}
	}
}

func TestImportRulesThemselves(t *testing.T) {
	for _, x := range []struct {
		rule      int
		dir, path string
		want      bool
	}{
		{0, "plugins/file", "sink", true},
		{0, "plugins/file", "sink/sinkpb", true},
		{0, "plugins/file", "plugins/file/format", true},
		{0, "plugins/file", "plugins/pty", false},
		{0, "plugins/file", "internal/fd", false},
		{1, "cmd/muxctl", "control/controlpb", true},
		{1, "cmd/muxctl", "internal/viewer", false},
		{2, "core/agent", "sink/sinkpb", true},
		{2, "core/agent", "sink", false},
		{2, "core/agent", "control/controlpb", true},
		{3, "control", "internal/fdchan", true},
		{3, "control", "core/config", false},
		{5, "internal/fd", "internal/spec", true},
		{5, "internal/fd", "sinks", true},
		{5, "internal/fd", "sink/sinkpb", false},
	} {
		if got := importRules[x.rule].allows(x.dir, x.path); got != x.want {
			t.Errorf("%s may import %s: %v, want %v", x.dir, x.path, got, x.want)
		}
	}
}
