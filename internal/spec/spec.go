// Package spec is the grammar of sink specs, the same in the CLI, in config.toml and in the API:
//
//	NAME[:ARG][,key=value]...
//
// A comma or backslash inside ARG or a value is written with a backslash before it.
package spec

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
)

// Spec is a parsed sink spec.
type Spec struct {
	Name    string
	Arg     string
	Options map[string]string
}

var (
	nameRE   = regexp.MustCompile(`^[a-z][a-z0-9-]*$`)
	optionRE = regexp.MustCompile(`^[a-z][a-z0-9-]*=`)
)

// ValidName says whether s can be the name of a sink or of a preset.
func ValidName(s string) bool { return nameRE.MatchString(s) }

// Parse reads a sink spec. It knows nothing of which names and options there are.
func Parse(s string) (Spec, error) {
	fields, err := split(s)
	if err != nil {
		return Spec{}, fmt.Errorf("sink spec %q: %w", s, err)
	}
	p := Spec{Options: map[string]string{}}
	var first string
	var hasFirst bool
	p.Name, first, hasFirst = strings.Cut(fields[0], ":")
	if !ValidName(p.Name) {
		return Spec{}, fmt.Errorf("sink spec %q: it must begin with a sink's name (as in pty, file:PATH, socket:unix:PATH), not %q", s, p.Name)
	}
	options := fields[1:]
	switch {
	case hasFirst && optionRE.MatchString(first):
		options = append([]string{first}, options...)
	case hasFirst && first == "":
		return Spec{}, fmt.Errorf("sink spec %q: nothing stands behind %q", s, p.Name+":")
	case hasFirst:
		p.Arg = unescape(first)
	}
	for _, o := range options {
		key, value, ok := strings.Cut(o, "=")
		if !ok || !nameRE.MatchString(key) {
			return Spec{}, fmt.Errorf("sink spec %q: %q is not of the form key=value", s, o)
		}
		if _, twice := p.Options[key]; twice {
			return Spec{}, fmt.Errorf("sink spec %q: option %q is given twice", s, key)
		}
		p.Options[key] = unescape(value)
	}
	return p, nil
}

// String is the spec in its canonical form: Parse of it gives an equal Spec.
func (p Spec) String() string {
	var b strings.Builder
	b.WriteString(p.Name)
	if p.Arg != "" {
		b.WriteByte(':')
		b.WriteString(escape(p.Arg))
	}
	keys := make([]string, 0, len(p.Options))
	for k := range p.Options {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	for _, k := range keys {
		b.WriteString("," + k + "=" + escape(p.Options[k]))
	}
	return b.String()
}

// split cuts s at the commas that have no backslash before them, and leaves the backslashes in.
func split(s string) ([]string, error) {
	var out []string
	start := 0
	for i := 0; i < len(s); i++ {
		switch s[i] {
		case '\\':
			if i+1 == len(s) {
				return nil, fmt.Errorf("it ends in a backslash; write \\\\ for one")
			}
			i++
		case ',':
			out = append(out, s[start:i])
			start = i + 1
		}
	}
	return append(out, s[start:]), nil
}

func unescape(s string) string {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+1 < len(s) {
			i++
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

var escaper = strings.NewReplacer(`\`, `\\`, `,`, `\,`)

func escape(s string) string { return escaper.Replace(s) }
