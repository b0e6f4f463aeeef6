package main

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/muxd/muxd/control/controlpb"
)

// completeMost is how long a completion may ask muxd: a plugin may have to be started for it.
const completeMost = 2 * time.Second

// completeChildren completes names and ids of children.
func (a *app) completeChildren(c *cobra.Command, _ []string, _ string) ([]cobra.Completion, cobra.ShellCompDirective) {
	m, err := a.muxd()
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	ctx, cancel := context.WithTimeout(c.Context(), completeMost)
	defer cancel()
	resp, err := m.API.List(ctx, &controlpb.ListRequest{All: true})
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	var out []cobra.Completion
	for _, r := range resp.Children {
		what := stateText(r) + ": " + commandOf(r, 40)
		out = append(out, cobra.CompletionWithDesc(r.Name, what))
		if r.Id != r.Name {
			out = append(out, cobra.CompletionWithDesc(r.Id, what))
		}
	}
	return out, cobra.ShellCompDirectiveNoFileComp
}

// completeThen completes a child where the first argument stands, and with each of then what follows it.
func (a *app) completeThen(then ...cobra.CompletionFunc) cobra.CompletionFunc {
	return func(c *cobra.Command, argv []string, word string) ([]cobra.Completion, cobra.ShellCompDirective) {
		switch n := len(argv); {
		case n == 0:
			return a.completeChildren(c, argv, word)
		case n <= len(then):
			return then[n-1](c, argv, word)
		}
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
}

// completePlugins completes the names of plugins.
func (a *app) completePlugins(c *cobra.Command, argv []string, _ string) ([]cobra.Completion, cobra.ShellCompDirective) {
	if len(argv) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	resp := a.plugins(c, &controlpb.PluginsRequest{})
	var out []cobra.Completion
	for _, p := range resp.GetPlugins() {
		out = append(out, cobra.CompletionWithDesc(p.Name, p.Help))
	}
	return out, cobra.ShellCompDirectiveNoFileComp
}

// plugins asks muxd for its plugins; nil where it cannot be asked.
func (a *app) plugins(c *cobra.Command, req *controlpb.PluginsRequest) *controlpb.PluginsResponse {
	m, err := a.muxd()
	if err != nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(c.Context(), completeMost)
	defer cancel()
	resp, err := m.API.Plugins(ctx, req)
	if err != nil {
		return nil
	}
	return resp
}

// completeSink completes a sink spec: the sink's name, its argument where that is a path, its options and their values.
// What there is, muxd asks the sink's plugin.
func (a *app) completeSink(c *cobra.Command, _ []string, word string) ([]cobra.Completion, cobra.ShellCompDirective) {
	name, rest, named := strings.Cut(word, ":")
	if n, opts, ok := strings.Cut(word, ","); ok && !strings.Contains(n, ":") {
		name, rest, named = n, opts, true
	}
	const directive = cobra.ShellCompDirectiveNoSpace | cobra.ShellCompDirectiveNoFileComp
	if !named {
		return beginning(word, completeSinkName(a.plugins(c, &controlpb.PluginsRequest{}))), directive
	}
	resp := a.plugins(c, &controlpb.PluginsRequest{Sink: name, Describe: true})
	if len(resp.GetPlugins()) == 0 {
		return nil, directive
	}
	start := lastField(rest)
	before, field := word[:len(word)-len(rest)+start], rest[start:]
	p, first := resp.Plugins[0], strings.HasSuffix(before, ":")
	return beginning(word, completeField(p, resp.Common, before, field, first)), directive
}

// beginning are those of all that begin with word.
func beginning(word string, all []cobra.Completion) []cobra.Completion {
	return slices.DeleteFunc(all, func(c cobra.Completion) bool { return !strings.HasPrefix(c, word) })
}

// completeSinkName are the words that a spec may begin with.
func completeSinkName(resp *controlpb.PluginsResponse) (out []cobra.Completion) {
	for _, p := range resp.GetPlugins() {
		if !p.Internal && p.Name != "fanout" { // which may not run, and then nothing is known of it
			out = append(out, cobra.CompletionWithDesc(p.Name, p.Help))
		}
	}
	for _, p := range resp.GetPresets() {
		out = append(out, cobra.CompletionWithDesc(p.Name, p.Sink))
	}
	return append(out, resp.GetWirings()...)
}

// lastField is where the last field of a spec begins: behind the last comma that has no backslash before it.
func lastField(s string) (start int) {
	for i := 0; i < len(s); i++ {
		switch s[i] {
		case '\\':
			i++
		case ',':
			start = i + 1
		}
	}
	return start
}

// completeField completes the last field of a spec for p, with what stands before it. The first may be the argument.
func completeField(p *controlpb.Plugin, common []*controlpb.PluginOption, before, field string, first bool) (out []cobra.Completion) {
	if key, value, isOption := strings.Cut(field, "="); isOption {
		for _, o := range append(p.Options, common...) {
			if o.Name == key {
				out = append(out, completeValue(o, before+key+"=", value)...)
			}
		}
		return out
	}
	if first && p.Arg != nil {
		out = completeValue(p.Arg, before, field)
	}
	for _, o := range append(p.Options, common...) {
		if !strings.Contains(before, ","+o.Name+"=") && !strings.Contains(before, ":"+o.Name+"=") {
			out = append(out, cobra.CompletionWithDesc(before+o.Name+"=", o.Help))
		}
	}
	return out
}

// completeValue completes the value of an option.
func completeValue(o *controlpb.PluginOption, before, value string) (out []cobra.Completion) {
	values := o.Values
	switch o.Type {
	case "bool":
		values = []string{"true", "false"}
	case "path":
		values = paths(value)
	}
	for _, v := range values {
		out = append(out, before+v)
	}
	return out
}

// paths are the files that begin with prefix.
func paths(prefix string) (out []string) {
	dir, base := filepath.Split(prefix)
	entries, err := os.ReadDir(filepath.Clean(dir + "."))
	if err != nil {
		return nil
	}
	for _, e := range entries {
		name := e.Name()
		if !strings.HasPrefix(name, base) || base == "" && strings.HasPrefix(name, ".") || strings.ContainsAny(name, ",\\") {
			continue
		}
		if e.IsDir() {
			name += "/"
		}
		out = append(out, dir+name)
	}
	return out
}
