package config

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/muxd/muxd/internal/nearest"
	"github.com/muxd/muxd/internal/spec"
)

// Preset returns what s stands for. Where its name is that of a preset, that is the preset with the options of s
// put over the preset's own; otherwise it is s as it stands, and whether there is a sink of that name is not judged.
func (c *Config) Preset(s string) (spec.Spec, error) {
	given, err := spec.Parse(s)
	if err != nil {
		return spec.Spec{}, err
	}
	preset, ok := c.Sinks[given.Name]
	if !ok {
		return given, nil
	}
	if given.Arg != "" {
		return spec.Spec{}, fmt.Errorf("sink spec %q: %s is the preset of %s, and only options may follow it, as in %s,key=value",
			s, given.Name, preset, given.Name)
	}
	out := spec.Spec{Name: preset.Name, Arg: preset.Arg, Options: map[string]string{}}
	maps.Copy(out.Options, preset.Options)
	maps.Copy(out.Options, given.Options)
	return out, nil
}

// preset reads a table [sinks.NAME]: sink is a spec, and every other key is an option of it.
func (d *decoder) preset(at path, v any, dst *spec.Spec) {
	m, ok := v.(map[string]any)
	if !ok {
		d.fail(at, "want a table with the key sink, not %s", kindOf(v))
		return
	}
	text, ok := m["sink"].(string)
	switch {
	case m["sink"] == nil:
		d.fail(at.key("sink"), `it is missing; it names the sink, as in sink = "file:/var/log/{name}.log"%s`, sinkHint(m))
		return
	case !ok:
		d.fail(at.key("sink"), "want a string, not %s", kindOf(m["sink"]))
		return
	}
	p, err := spec.Parse(text)
	if err != nil {
		d.fail(at.key("sink"), "%v", err)
		return
	}
	for _, key := range keysOf(m) {
		if key == "sink" {
			continue
		}
		_, twice := p.Options[key]
		value, ok := optionText(m[key])
		switch {
		case !spec.ValidName(key):
			d.fail(at.key(key), "an option's name is made of lower-case letters, digits and dashes%s", dashHint(key))
		case twice:
			d.fail(at.key(key), "the option is given twice: here and in sink")
		case !ok:
			d.fail(at.key(key), "want a string, a whole number, or true or false, not %s", kindOf(m[key]))
		default:
			p.Options[key] = value
		}
	}
	*dst = p
}

// sinkHint finds the key that was meant to be "sink".
func sinkHint(m map[string]any) string {
	for _, key := range keysOf(m) {
		if nearest.Word(key, []string{"sink", "spec"}) != "" {
			return fmt.Sprintf("; is that what %q was meant to be?", key)
		}
	}
	return ""
}

// dashHint says how a key in the style of the rest of the file is written.
func dashHint(key string) string {
	if dashed := strings.ReplaceAll(key, "_", "-"); spec.ValidName(dashed) {
		return fmt.Sprintf("; did you mean %q?", dashed)
	}
	return ""
}

func optionText(v any) (string, bool) {
	switch v := v.(type) {
	case string:
		return v, true
	case int64:
		return strconv.FormatInt(v, 10), true
	case bool:
		return strconv.FormatBool(v), true
	}
	return "", false
}

func (d *decoder) checkPresets(c *Config) {
	for _, name := range keysOf(c.Sinks) {
		at := path{"sinks", name}
		p := c.Sinks[name]
		_, isPlugin := c.Plugins[name]
		_, refers := c.Sinks[p.Name]
		switch {
		case !spec.ValidName(name):
			d.fail(at, "a preset's name is made of lower-case letters, digits and dashes%s", dashHint(name))
		case isPlugin, slices.Contains(Builtin(), name), slices.Contains(Wirings(), name):
			d.fail(at, "%s is a sink already; give the preset another name", name)
		case refers:
			d.fail(at.key("sink"), "%s is a preset itself, and a preset may not refer to one", p.Name)
		}
	}
}
