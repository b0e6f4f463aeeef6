package main

import (
	"cmp"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/spf13/cobra"
)

// templates are the files of a new plugin. examples/minimal is what becomes of them, and a test holds the two together.
//
//go:embed template/*.tmpl
var templates embed.FS

// muxdModule is the module that a plugin requires.
const muxdModule = "github.com/muxd/muxd"

var (
	pluginNameRE = regexp.MustCompile(`^[a-z][a-z0-9-]*$`)
	releaseRE    = regexp.MustCompile(`^v\d+\.\d+\.\d+(-[0-9A-Za-z.-]+)?$`)
)

// newPlugin is what a new plugin is made of.
type newPlugin struct {
	name    string // of the sink
	module  string // path of its module; empty: one below example.com
	replace string // where the module of muxd is, as the new go.mod says it; empty: where go finds it
	version string // of muxd
}

// files renders the templates, by the name of the file.
func (n newPlugin) files() (map[string]string, error) {
	module := cmp.Or(n.module, "example.com/muxd-sink-"+n.name)
	muxd := n.version
	if n.replace != "" {
		muxd = "v0.0.0\n\nreplace " + muxdModule + " => " + n.replace
	}
	words := strings.NewReplacer("MODULE", module, "MUXD", muxd)
	entries, err := fs.ReadDir(templates, "template")
	if err != nil {
		return nil, err
	}
	out := map[string]string{}
	for _, e := range entries {
		b, err := templates.ReadFile("template/" + e.Name())
		if err != nil {
			return nil, err
		}
		name, text := strings.TrimSuffix(e.Name(), ".tmpl"), string(b)
		if name == "go.mod" {
			out[name] = words.Replace(text)
		} else {
			out[name] = strings.ReplaceAll(text, "NAME", n.name)
		}
	}
	return out, nil
}

// write makes dir, which must not exist or be empty, with the files in it.
func (n newPlugin) write(dir string) error {
	files, err := n.files()
	if err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o777); err != nil {
		return err
	}
	switch there, err := os.ReadDir(dir); {
	case err != nil:
		return err
	case len(there) > 0:
		return fmt.Errorf("make a plugin in %s: there is something in it already, as %s; give another directory with --dir", dir, there[0].Name())
	}
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o666); err != nil {
			return err
		}
	}
	return nil
}

func (a *app) pluginNewCmd() *cobra.Command {
	var n newPlugin
	var dir string
	c := &cobra.Command{
		Use: "new NAME", Short: "Write a Go module with a sink plugin to begin with", Args: args(cobra.ExactArgs(1)),
		Long: `new writes a Go module with a small sink plugin that works: NAME:PATH appends output to files. Its README explains
each line. The directory is muxd-sink-NAME in this one, unless --dir names another.

The module requires the version of ` + muxdModule + ` that this muxctl is of. With --replace it uses what is in a directory
instead, such as a checkout of muxd.`,
		RunE: func(_ *cobra.Command, argv []string) error {
			n.name, n.version = argv[0], version
			dir := cmp.Or(dir, "muxd-sink-"+n.name)
			if !pluginNameRE.MatchString(n.name) {
				return usageError("plugin name %q: want a letter, and then letters, digits and hyphens, all of them small", n.name)
			}
			if n.replace == "" && !releaseRE.MatchString(version) {
				return usageError("this muxctl (%s) is of no release that go could find: give --replace DIR, where DIR is a checkout of muxd", version)
			}
			if err := n.locate(); err != nil {
				return err
			}
			if err := n.write(dir); err != nil {
				return err
			}
			if a.output == "json" {
				return printJSON(map[string]string{"directory": dir})
			}
			fmt.Printf("%s is written; next:\n\n  cd %s && go mod tidy && go build\n", dir, dir)
			return nil
		},
	}
	c.Flags().StringVar(&dir, "dir", "", "the new `DIRECTORY`")
	c.Flags().StringVar(&n.module, "module", "", "path of the new `MODULE` (default example.com/muxd-sink-NAME)")
	c.Flags().StringVar(&n.replace, "replace", "", "use the muxd that is in `DIR`")
	c.MarkFlagDirname("dir")
	c.MarkFlagDirname("replace")
	return c
}

// locate makes the directory of --replace absolute. It must have the module.
func (n *newPlugin) locate() error {
	if n.replace == "" {
		return nil
	}
	abs, err := filepath.Abs(n.replace)
	if err != nil {
		return err
	}
	b, err := os.ReadFile(filepath.Join(abs, "go.mod"))
	if err == nil && !strings.HasPrefix(string(b), "module "+muxdModule+"\n") {
		err = errors.New("its go.mod is of another module")
	}
	if err != nil {
		return fmt.Errorf("--replace %s: want the directory of %s: %w", n.replace, muxdModule, err)
	}
	n.replace = abs
	if strings.ContainsAny(abs, " \t\"") { // go.mod reference, "Lexical elements"
		n.replace = fmt.Sprintf("%q", abs)
	}
	return nil
}
